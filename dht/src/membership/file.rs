//! Membership in a TOML file: for a node on its own, or a few that never change.
//!
//! ```toml
//! cluster = "lab"          # the name of the whole
//! this = "a"               # which of the nodes this is; may be left out where there is one
//!
//! [ring]                   # may be left out, and so may each line of it
//! partitions = 65536       # a power of two; never changes
//! owners = 6               # k + m of the widest scheme; never changes
//! per_node = 2             # most shards of a partition on one node
//! per_rack = 6
//! per_zone = 6
//!
//! [[node]]
//! name = "a"
//! weight = 100             # any unit, the same for all
//! rack = "r1"              # left out: a rack of its own
//! zone = "z1"              # left out: "default"
//! state = "up"             # joining, up, draining, down; left out: up
//! addresses = ["tcp://127.0.0.1:4420"]
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::record::{Record, RecordError};
use crate::ring::{Member, Name, NameError, Partitions, PartitionsError, Spec, SpecError, Spread};

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The name of the cluster.
    pub cluster: Name,
    /// Which of the nodes this is.
    pub this: Name,
    /// What the ring is asked for.
    pub spec: Spec,
    /// The nodes in the order of the file.
    pub nodes: Vec<Member>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// It is not TOML, or has other keys than these.
    #[error("this is no membership file: {0}")]
    Toml(#[from] toml::de::Error),
    /// The cluster has no proper name.
    #[error("cluster: {0}")]
    Cluster(#[source] NameError),
    /// The ring cannot have this many partitions.
    #[error("ring: {0}")]
    Partitions(#[from] PartitionsError),
    /// The ring cannot be asked for this.
    #[error("ring: {0}")]
    Spec(#[from] SpecError),
    /// A node cannot be a member.
    #[error("node '{name}': {source}")]
    Node {
        /// Its name as it stands there.
        name: String,
        /// The reason.
        source: RecordError,
    },
    /// Two nodes of one name.
    #[error("two nodes are named {name}: every node needs a name of its own")]
    SameName {
        /// The name.
        name: Name,
    },
    /// There is no node.
    #[error("there is no [[node]]: add one, with name, weight and addresses")]
    NoNode,
    /// It is not clear which node this is.
    #[error("there are {nodes} nodes: say which one this is, with this = \"NAME\"")]
    WhichNode {
        /// The number of nodes.
        nodes: usize,
    },
    /// The node that this shall be is not there.
    #[error("this = \"{found}\", and no [[node]] has that name")]
    NotThere {
        /// The name.
        found: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    cluster: String,
    this: Option<String>,
    #[serde(default)]
    ring: RingText,
    #[serde(default)]
    node: Vec<NodeText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RingText {
    partitions: u64,
    owners: u8,
    per_node: u8,
    per_rack: u8,
    per_zone: u8,
}

impl Default for RingText {
    fn default() -> Self {
        Self {
            partitions: Partitions::default().count() as u64,
            owners: 6,
            per_node: 2,
            per_rack: u8::MAX,
            per_zone: u8::MAX,
        }
    }
}

/// A record and its name: serde cannot refuse unknown keys in a part that is flattened, so the keys stand here again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeText {
    name: String,
    weight: u32,
    rack: Option<String>,
    zone: Option<String>,
    state: Option<String>,
    addresses: Vec<String>,
}

/// Reads a file.
///
/// # Errors
///
/// It cannot be read or used.
pub fn read(path: &Path) -> Result<File, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text)
}

/// What a file of this text says.
///
/// # Errors
///
/// It cannot be used.
pub fn parse(text: &str) -> Result<File, FileError> {
    let text: Text = toml::from_str(text)?;
    let cluster = text.cluster.parse().map_err(FileError::Cluster)?;
    let spread = Spread {
        node: text.ring.per_node,
        rack: text.ring.per_rack,
        zone: text.ring.per_zone,
    };
    let partitions = Partitions::new(text.ring.partitions)?;
    let spec = Spec::new(partitions, text.ring.owners, spread)?;
    let mut nodes: Vec<Member> = Vec::new();
    for node in text.node {
        let member = member(&node).map_err(|source| FileError::Node {
            name: node.name.clone(),
            source,
        })?;
        if nodes.iter().any(|other| other.name == member.name) {
            return Err(FileError::SameName { name: member.name });
        }
        nodes.push(member);
    }
    let this = match (text.this, &nodes[..]) {
        (_, []) => return Err(FileError::NoNode),
        (None, [one]) => one.name.clone(),
        (None, nodes) => return Err(FileError::WhichNode { nodes: nodes.len() }),
        (Some(found), nodes) => match nodes.iter().find(|node| node.name.as_str() == found) {
            Some(node) => node.name.clone(),
            None => return Err(FileError::NotThere { found }),
        },
    };
    Ok(File {
        cluster,
        this,
        spec,
        nodes,
    })
}

fn member(node: &NodeText) -> Result<Member, RecordError> {
    let record = Record {
        weight: node.weight,
        rack: node.rack.clone(),
        zone: node.zone.clone(),
        state: node.state.clone(),
        addresses: node.addresses.clone(),
    };
    record.member(node.name.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::State;

    const ONE: &str = r#"
        cluster = "lab"
        [[node]]
        name = "a"
        weight = 100
        addresses = ["tcp://127.0.0.1:4420", "rdma://[fe80::1]:4420"]
    "#;

    const TWO: &str = r#"
        cluster = "lab"
        this = "b"
        [ring]
        partitions = 1024
        owners = 4
        per_node = 2
        [[node]]
        name = "a"
        weight = 1
        rack = "r1"
        zone = "z1"
        state = "draining"
        addresses = ["tcp://a:1"]
        [[node]]
        name = "b"
        weight = 2
        addresses = ["tcp://b:1"]
    "#;

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let file = parse(ONE).unwrap();
        assert_eq!(file.this.as_str(), "a");
        let [node] = &file.nodes[..] else {
            panic!("one node, not {:?}", file.nodes)
        };
        assert_eq!((node.rack.as_str(), node.zone.as_str()), ("a", "default"));
        assert_eq!((node.state, node.weight), (State::Up, 100));
        assert_eq!(node.addresses[1].to_string(), "rdma://[fe80::1]:4420");
        assert_eq!(
            (file.spec.partitions().count(), file.spec.owners()),
            (65536, 6)
        );
        let Spread { node, rack, zone } = file.spec.spread();
        assert_eq!((node, rack, zone), (2, 6, 6));
    }

    #[test]
    fn what_is_said_is_taken() {
        let file = parse(TWO).unwrap();
        assert_eq!((file.this.as_str(), file.nodes.len()), ("b", 2));
        assert_eq!(
            (file.spec.partitions().count(), file.spec.owners()),
            (1024, 4)
        );
        assert_eq!(file.nodes[0].rack.as_str(), "r1");
        assert_eq!(file.nodes[0].state, State::Draining);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |from: &str, to: &str| {
            let text = TWO.replace(from, to);
            assert_ne!(text, TWO, "{from}");
            parse(&text).unwrap_err().to_string()
        };
        let cases = [
            (
                "this = \"b\"",
                "",
                "there are 2 nodes: say which one this is",
            ),
            (
                "this = \"b\"",
                "this = \"c\"",
                "this = \"c\", and no [[node]] has that name",
            ),
            ("name = \"b\"", "name = \"a\"", "two nodes are named a"),
            (
                "name = \"b\"",
                "name = \"b/c\"",
                "node 'b/c': 'b/c' is no name",
            ),
            (
                "tcp://b:1",
                "http://b",
                "node 'b': 'http://b' is no address",
            ),
            (
                "\"draining\"",
                "\"drained\"",
                "node 'a': 'drained' is no state: choose joining",
            ),
            (
                "1024",
                "1000",
                "ring: 1000 partitions: choose a power of two from 1024",
            ),
            ("owners = 4", "owners = 25", "ring: 25 owners"),
            (
                "per_node = 2",
                "per_node = 0",
                "ring: at most 0 shards on a node",
            ),
            (
                "weight = 2",
                "weight = 4000000000",
                "node 'b': its weight is 4000000000",
            ),
            ("[\"tcp://b:1\"]", "[]", "node 'b': it has 0 addresses"),
            ("\"lab\"", "\"\"", "cluster: '' is no name"),
            ("owners", "replicas", "unknown field `replicas`"),
            ("rack", "row", "unknown field `row`"),
        ];
        for (from, to, expected) in cases {
            let message = refused(from, to);
            assert!(message.contains(expected), "{message}");
        }
        assert!(
            parse("cluster = \"lab\"")
                .unwrap_err()
                .to_string()
                .contains("no [[node]]")
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("no/such/file.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read no/such/file.toml: "),
            "{error}"
        );
    }
}
