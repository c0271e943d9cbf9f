//! What etcd holds of a cluster, at one revision.

use std::collections::{BTreeMap, BTreeSet};

use super::super::record::Record;
use super::{EpochRecord, EtcdError};
use crate::ring::{Member, Name};

/// A node's record and the revision that it was written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What it says.
    pub member: Member,
    /// To be given with the next change of it.
    pub revision: i64,
}

/// The ring in force and the revision that it was put into force in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What is known of it.
    pub record: EpochRecord,
    /// The revision.
    pub revision: i64,
}

/// Everything at one revision of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub(super) revision: i64,
    nodes: BTreeMap<Name, Declared>,
    alive: BTreeSet<Name>,
    epoch: Option<Published>,
}

impl View {
    pub(super) fn at(revision: i64) -> Self {
        Self {
            revision,
            nodes: BTreeMap::new(),
            alive: BTreeSet::new(),
            epoch: None,
        }
    }

    /// The revision of etcd that this is the state at.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// All nodes that have a record.
    pub fn nodes(&self) -> &BTreeMap<Name, Declared> {
        &self.nodes
    }

    /// The members that a ring is built from.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.nodes.values();
        nodes.map(|declared| declared.member.clone()).collect()
    }

    /// Whether the node holds its lease.
    pub fn is_alive(&self, name: &Name) -> bool {
        self.alive.contains(name)
    }

    /// The ring in force; nothing before the first.
    pub fn epoch(&self) -> Option<&Published> {
        self.epoch.as_ref()
    }

    /// Whether both say the same, at whatever revision.
    pub fn same_content(&self, other: &Self) -> bool {
        (&self.nodes, &self.alive, &self.epoch) == (&other.nodes, &other.alive, &other.epoch)
    }

    pub(super) fn put(
        &mut self,
        keys: &Keys,
        key: &[u8],
        value: &[u8],
        revision: i64,
    ) -> Result<(), EtcdError> {
        let text = || String::from_utf8_lossy(key).into_owned();
        let json = |source| EtcdError::Json {
            key: text(),
            source,
        };
        match keys.meaning(key) {
            Some(Meaning::Node(name)) => {
                let record: Record = serde_json::from_slice(value).map_err(json)?;
                let member = record
                    .member(name.clone())
                    .map_err(|source| EtcdError::Record {
                        key: text(),
                        source,
                    })?;
                self.nodes.insert(name, Declared { member, revision });
            }
            Some(Meaning::Alive(name)) => drop(self.alive.insert(name)),
            Some(Meaning::Epoch) => {
                let record = serde_json::from_slice(value).map_err(json)?;
                self.epoch = Some(Published { record, revision });
            }
            // Keys of later versions.
            None => {}
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, keys: &Keys, key: &[u8]) {
        match keys.meaning(key) {
            Some(Meaning::Node(name)) => drop(self.nodes.remove(&name)),
            Some(Meaning::Alive(name)) => drop(self.alive.remove(&name)),
            Some(Meaning::Epoch) => self.epoch = None,
            None => {}
        }
    }
}

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

enum Meaning {
    Node(Name),
    Alive(Name),
    Epoch,
}

impl Keys {
    pub(super) fn new(cluster: &Name) -> Self {
        Self {
            prefix: format!("/oriel/{cluster}/"),
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn node(&self, name: &Name) -> String {
        format!("{}nodes/{name}", self.prefix)
    }

    pub(super) fn alive(&self, name: &Name) -> String {
        format!("{}alive/{name}", self.prefix)
    }

    pub(super) fn epoch(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    fn meaning(&self, key: &[u8]) -> Option<Meaning> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        match rest.split_once('/') {
            None => (rest == "epoch").then_some(Meaning::Epoch),
            Some(("nodes", name)) => name.parse().ok().map(Meaning::Node),
            Some(("alive", name)) => name.parse().ok().map(Meaning::Alive),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&"lab".parse().unwrap())
    }

    #[test]
    fn keys_mean_what_they_were_made_for() {
        let (keys, name) = (keys(), "a-1".parse().unwrap());
        let node = keys.node(&name);
        assert_eq!(node, "/oriel/lab/nodes/a-1");
        assert!(
            matches!(keys.meaning(node.as_bytes()), Some(Meaning::Node(found)) if found == name)
        );
        let alive = keys.alive(&name);
        assert!(
            matches!(keys.meaning(alive.as_bytes()), Some(Meaning::Alive(found)) if found == name)
        );
        assert!(matches!(
            keys.meaning(keys.epoch().as_bytes()),
            Some(Meaning::Epoch)
        ));
        for other in [
            "/oriel/lab/",
            "/oriel/lab/nodes/a b",
            "/oriel/other/epoch",
            "/oriel/lab/later/x",
        ] {
            assert!(keys.meaning(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_record_that_is_none_is_named_and_keys_of_later_versions_are_left_alone() {
        let (keys, mut view) = (keys(), View::at(5));
        let put = |view: &mut View, key: &str, value: &str| {
            let key = format!("/oriel/lab/{key}");
            view.put(&keys, key.as_bytes(), value.as_bytes(), 7)
        };
        let good = r#"{"weight":3,"addresses":["tcp://a:1"]}"#;
        put(&mut view, "nodes/a", good).unwrap();
        put(&mut view, "later/a", "?").unwrap();
        let error = put(&mut view, "nodes/b", "{}").unwrap_err().to_string();
        assert!(
            error.starts_with("the record /oriel/lab/nodes/b is no node's: missing field"),
            "{error}"
        );
        let error = put(&mut view, "nodes/b", r#"{"weight":1,"addresses":[]}"#).unwrap_err();
        assert!(error.to_string().contains("it has 0 addresses"), "{error}");
        assert_eq!(view.members().len(), 1);
        view.remove(&keys, b"/oriel/lab/nodes/a");
        assert!(view.same_content(&View::at(9)));
    }
}
