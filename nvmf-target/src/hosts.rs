//! Who may connect to a realm.

use std::path::PathBuf;

use oriel_spdk::nvmf::Nqn;

/// Who may connect to a realm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Everybody who reaches a listener.
    Any,
    /// These, and nobody else.
    Only(Vec<Host>),
}

/// A host that may connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// What it calls itself.
    pub nqn: Nqn,
    /// How it proves that, if it has to, by DH-HMAC-CHAP.
    pub keys: Option<HostKeys>,
}

/// Files with secrets, as `nvme gen-dhchap-key` prints them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostKeys {
    /// What the host proves that it knows.
    pub host: PathBuf,
    /// What the node proves that it knows, if the host asks.
    pub controller: Option<PathBuf>,
}

impl From<Nqn> for Host {
    fn from(nqn: Nqn) -> Self {
        Self { nqn, keys: None }
    }
}

impl Hosts {
    /// Those that may connect by their names alone.
    pub(crate) fn list(&self) -> &[Host] {
        match self {
            Self::Any => &[],
            Self::Only(hosts) => hosts,
        }
    }

    /// Whether a host of that name may connect.
    pub(crate) fn allow(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(hosts) => hosts.iter().any(|host| host.nqn.as_str() == name),
        }
    }

    /// Whether somebody may connect by them who may not by others, or only in another way.
    pub(crate) fn withdrawn_by(&self, others: &Self) -> bool {
        match (self, others) {
            (_, Self::Any) => false,
            (Self::Any, Self::Only(_)) => true,
            (Self::Only(hosts), Self::Only(others)) => {
                hosts.iter().any(|host| !others.contains(host))
            }
        }
    }

    /// The files with secrets of all hosts.
    pub(crate) fn key_files(&self) -> impl Iterator<Item = &PathBuf> {
        let keys = self.list().iter().filter_map(|host| host.keys.as_ref());
        keys.flat_map(|keys| std::iter::once(&keys.host).chain(&keys.controller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_loses_what_is_known() {
        let host = |name: &str| Host::from(name.parse::<Nqn>().unwrap());
        let [a, b] = [
            host("nqn.2016-06.io.oriel:a"),
            host("nqn.2016-06.io.oriel:b"),
        ];
        let (one, both) = (
            Hosts::Only(vec![a.clone()]),
            Hosts::Only(vec![b, a.clone()]),
        );
        assert!(!one.withdrawn_by(&both) && both.withdrawn_by(&one));
        assert!(Hosts::Any.withdrawn_by(&both) && !both.withdrawn_by(&Hosts::Any));
        assert!(both.allow("nqn.2016-06.io.oriel:b") && !one.allow("nqn.2016-06.io.oriel:b"));
        // One that has to prove who it is from now on may not stay without having done so.
        let keyed = Hosts::Only(vec![Host {
            keys: Some(HostKeys {
                host: "key".into(),
                controller: Some("other".into()),
            }),
            ..a
        }]);
        assert!(one.withdrawn_by(&keyed));
        assert_eq!(keyed.key_files().count(), 2);
    }
}
