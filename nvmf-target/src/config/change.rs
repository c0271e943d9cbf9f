//! What of a configuration can change while a node runs.

use std::fmt;

use super::Config;
use crate::{Hosts, Realm};

/// What a running node does not change. Nothing of a configuration with such a change is taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fixed {
    /// A key of the configuration.
    Key(&'static str),
    /// A key of a realm.
    OfRealm {
        /// Its name in the file.
        realm: String,
        /// The key.
        key: &'static str,
    },
    /// A realm that is missing. Its blobs are on the drives, and a node does not start without it.
    Gone {
        /// Its name.
        realm: String,
    },
}

impl fmt::Display for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "restart orield to change {key}"),
            Self::OfRealm { realm, key } => {
                write!(f, "restart orield to change {key} of the realm '{realm}'")
            }
            Self::Gone { realm } => write!(
                f,
                "the realm '{realm}' is missing, whose blobs are on the drives: put it back, with hosts = [] if nobody may connect any more"
            ),
        }
    }
}

/// What of a configuration's realms a node that runs is to change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Realms that others may connect to now.
    pub hosts: Vec<(String, Hosts)>,
    /// Realms that there were not.
    pub new: Vec<Realm>,
    /// Realms, and what else of them is otherwise.
    pub limits: Vec<(String, &'static str)>,
}

impl Config {
    /// What is otherwise in a new configuration of a node that runs, or all that it cannot change. Drives are left out:
    /// they are compared with those that it has.
    pub fn changes_to(&self, new: &Self) -> Result<Changes, Vec<Fixed>> {
        let mut fixed = self.fixed_keys(new);
        let mut changes = Changes::default();
        for realm in &new.realms {
            let Realm {
                name,
                options,
                hosts,
            } = realm;
            let mut known = self.realms.iter();
            let Some(old) = known.find(|old| old.options.id == options.id) else {
                changes.new.push(realm.clone());
                continue;
            };
            let before = &old.options;
            for (key, is_same) in [
                ("name", old.name == *name),
                ("cache", before.cache == options.cache),
            ] {
                if !is_same {
                    let realm = name.clone();
                    fixed.push(Fixed::OfRealm { realm, key });
                }
            }
            for (key, is_same) in [
                ("quota_mib", before.quota_blocks == options.quota_blocks),
                ("verify", before.verify == options.verify),
            ] {
                if !is_same {
                    changes.limits.push((name.clone(), key));
                }
            }
            if old.hosts != *hosts {
                changes.hosts.push((name.clone(), hosts.clone()));
            }
        }
        for old in &self.realms {
            if !(new.realms.iter()).any(|realm| realm.options.id == old.options.id) {
                let realm = old.name.clone();
                fixed.push(Fixed::Gone { realm });
            }
        }
        match fixed.is_empty() {
            true => Ok(changes),
            false => Err(fixed),
        }
    }

    fn fixed_keys(&self, new: &Self) -> Vec<Fixed> {
        let Self {
            node,
            store,
            cores,
            memory_mib,
            hugepages,
            blobs_max,
            index,
            connections_max,
            // For drives that are formatted from now on, by a run of its own.
            format: _,
            background,
            // Drives come and go.
            devices: _,
            drains: _,
            gone: _,
            listeners,
            status,
            realms: _,
        } = self;
        let keys = [
            ("node", *node == new.node),
            ("store", *store == new.store),
            ("cores", *cores == new.cores),
            ("memory_mib", *memory_mib == new.memory_mib),
            ("hugepages", *hugepages == new.hugepages),
            ("blobs_max", *blobs_max == new.blobs_max),
            ("index", *index == new.index),
            ("connections_max", *connections_max == new.connections_max),
            ("[background]", *background == new.background),
            ("[[listener]]", *listeners == new.listeners),
            ("[status]", *status == new.status),
        ];
        let changed = keys.into_iter().filter(|(_, is_same)| !is_same);
        changed.map(|(key, _)| Fixed::Key(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const OLD: &str = r#"node = "n1"
store = "00112233445566778899aabbccddeeff"
memory_mib = 512
[[device]]
path = "drive"
[[listener]]
address = "127.0.0.1:4420"
[[realm]]
name = "models"
id = 1
hosts = "any"
[[realm]]
name = "cache"
id = 2
hosts = ["nqn.2016-06.io.oriel:gpu7"]
quota_mib = 64
"#;

    fn changes(changes: &[(&str, &str)]) -> Result<Changes, String> {
        let parse = |text: &str| Config::parse(Path::new("node.toml"), text).unwrap();
        let new = changes.iter().fold(OLD.to_owned(), |text, (old, new)| {
            assert!(text.contains(old), "{old}");
            text.replace(old, new)
        });
        parse(OLD).changes_to(&parse(&new)).map_err(|fixed| {
            let said: Vec<String> = fixed.iter().map(Fixed::to_string).collect();
            said.join("; ")
        })
    }

    #[test]
    fn what_takes_no_restart_is_found() {
        for (old, new) in [
            ("[[device]]", "[[device]]"),
            // Drives are formatted by another run.
            ("[[device]]", "[format]\nslab_mib = 8\n[[device]]"),
            // And compared with those that the node has.
            (
                "[[device]]",
                "gone = [1]\n[[device]]\npath = \"new\"\n[[device]]",
            ),
        ] {
            assert_eq!(changes(&[(old, new)]), Ok(Changes::default()), "{new}");
        }
        let closed = ("models".to_owned(), Hosts::Only(Vec::new()));
        let open = ("cache".to_owned(), Hosts::Any);
        let found = changes(&[
            ("\"any\"", "[]"),
            ("[\"nqn.2016-06.io.oriel:gpu7\"]", "\"any\""),
        ]);
        assert_eq!(found.unwrap().hosts, [closed, open]);
        let limits = |new: &str| changes(&[("quota_mib = 64", new)]).unwrap().limits;
        let of_cache = |key| ("cache".to_owned(), key);
        assert_eq!(limits("quota_mib = 65"), [of_cache("quota_mib")]);
        assert_eq!(
            limits("verify = true"),
            [of_cache("quota_mib"), of_cache("verify")]
        );
        let another = "[[realm]]\nname = \"new\"\nid = 3\nhosts = []\n[[realm]]\nname = \"models\"";
        let found = changes(&[("[[realm]]\nname = \"models\"", another)]).unwrap();
        assert_eq!((found.new.len(), &*found.new[0].name), (1, "new"));
        assert_eq!((found.hosts, found.limits), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_takes_a_restart_is_named() {
        for (old, new, word) in [
            ("\"n1\"", "\"n2\"", "to change node"),
            ("0011", "0012", "to change store"),
            ("512", "513", "to change memory_mib"),
            ("memory_mib = 512", "blobs_max = 7", "to change blobs_max"),
            (
                "memory_mib = 512",
                "connections_max = 9",
                "to change connections_max",
            ),
            ("memory_mib = 512", "index = \"index\"", "to change index"),
            (
                "[[device]]",
                "[background]\nscrub_mib_per_second = 7\n[[device]]",
                "to change [background]",
            ),
            (
                "memory_mib = 512",
                "hugepages = true",
                "to change hugepages",
            ),
            ("4420", "4421", "to change [[listener]]"),
            (
                "[[realm]]\nname = \"models\"",
                "[status]\naddress = \"127.0.0.1:0\"\n[[realm]]\nname = \"models\"",
                "to change [status]",
            ),
            ("\"cache\"", "\"c\"", "to change name of the realm 'c'"),
            (
                "quota_mib = 64",
                "quota_mib = 64\ncache = \"lru\"",
                "to change cache of the realm 'cache'",
            ),
        ] {
            // Nothing is changed, then, also not what could be.
            let said = changes(&[("\"any\"", "[]"), (old, new)]).unwrap_err();
            assert!(said.contains(&format!("restart orield {word}")), "{said}");
        }
        let said = changes(&[("4420", "4421"), ("id = 2", "id = 3")]).unwrap_err();
        for word in ["[[listener]]", "the realm 'cache' is missing"] {
            assert!(said.contains(word), "{said}");
        }
    }
}
