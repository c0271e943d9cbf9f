//! Where a realm is: `nvme+tcp://HOST:PORT/REALM`, or `/dev/nvmeXnY`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oriel_protocol::SUBSYSTEM_PREFIX;

use crate::limits::PORT;

const SCHEME: &str = "nvme+tcp://";

/// Why a text is no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error(
        "'{text}' does not begin with {SCHEME}: write it as {SCHEME}HOST:PORT/REALM, or name a device of the kernel's as in /dev/nvme0n1"
    )]
    Scheme { text: String },
    #[error("'{text}' names no host: write it as {SCHEME}HOST:PORT/REALM")]
    Host { text: String },
    #[error("'{port}' is no port: give a number from 1 to 65535, or leave it out for {PORT}")]
    Port { port: String },
    #[error(
        "'{text}' names no realm: write it as {SCHEME}HOST:PORT/REALM, with the realm's name as the node is configured with it"
    )]
    Realm { text: String },
    #[error("'{realm}' is no realm's name: it has letters, digits, '-', '.' and '_' only")]
    BadRealm { realm: String },
}

/// What is to be reached there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// The realm of this name, whatever the node is called.
    Realm(String),
    /// This subsystem, and no question is asked.
    Subsystem(String),
}

/// How a realm is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum To {
    /// By this program's own initiator.
    Tcp(Address),
    /// By the kernel's, which has attached it as this device.
    Device(PathBuf),
}

impl FromStr for To {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.starts_with('/') {
            true => Ok(Self::Device(text.into())),
            false => text.parse().map(Self::Tcp),
        }
    }
}

/// A realm's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// A name, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) wanted: Wanted,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let whole = || text.to_owned();
        let rest = text.strip_prefix(SCHEME);
        let rest = rest.ok_or_else(|| AddressError::Scheme { text: whole() })?;
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_port(place);
        if host.is_empty() {
            return Err(AddressError::Host { text: whole() });
        }
        let port = match port {
            None => PORT,
            Some(port) => match port.parse() {
                Ok(number) if number != 0 => number,
                _ => return Err(AddressError::Port { port: port.into() }),
            },
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let wanted = match path {
            "" => return Err(AddressError::Realm { text: whole() }),
            nqn if nqn.starts_with("nqn.") => Wanted::Subsystem(nqn.into()),
            realm if realm.bytes().all(is_word) => Wanted::Realm(realm.into()),
            other => {
                return Err(AddressError::BadRealm {
                    realm: other.into(),
                });
            }
        };
        Ok(Self {
            host: host.into(),
            port,
            wanted,
        })
    }
}

/// An IPv6 address stands in brackets where a port may follow.
fn split_port(place: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = place
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return (host, rest.strip_prefix(':'));
    }
    match place.rsplit_once(':') {
        // Several colons without brackets are an address alone.
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (place, None),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The realm in a subsystem's name, if it is one of ours.
pub(crate) fn realm_of(subsystem: &str) -> Option<&str> {
    let (_, realm) = subsystem.strip_prefix(SUBSYSTEM_PREFIX)?.rsplit_once(':')?;
    Some(realm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> (String, u16, Wanted) {
        let Address { host, port, wanted } = text.parse().unwrap();
        (host, port, wanted)
    }

    #[test]
    fn addresses_are_read() {
        let realm = |name: &str| Wanted::Realm(name.into());
        let whole = address("nvme+tcp://10.0.0.1:4421/models");
        assert_eq!(whole, ("10.0.0.1".into(), 4421, realm("models")));
        let short = address("nvme+tcp://node7/kv.cache-1/");
        assert_eq!(short, ("node7".into(), 4420, realm("kv.cache-1")));
        let v6 = address("nvme+tcp://[fe80::1]:4422/a");
        assert_eq!(v6, ("fe80::1".into(), 4422, realm("a")));
        assert_eq!(address("nvme+tcp://fe80::1/a").1, 4420);
        let nqn = address("nvme+tcp://h/nqn.2026-11.io.oriel:n1:a");
        assert_eq!(nqn.2, Wanted::Subsystem("nqn.2026-11.io.oriel:n1:a".into()));
        let shown: Address = "nvme+tcp://[::1]/a".parse().unwrap();
        assert_eq!(shown.to_string(), "[::1]:4420");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_remedy() {
        for (text, says) in [
            ("10.0.0.1:4420/a", "begin with nvme+tcp://"),
            ("nvme+rdma://h/a", "begin with nvme+tcp://"),
            ("nvme+tcp:///a", "names no host"),
            ("nvme+tcp://:4420/a", "names no host"),
            ("nvme+tcp://h:0/a", "is no port"),
            ("nvme+tcp://h:65536/a", "is no port"),
            ("nvme+tcp://h:/a", "is no port"),
            ("nvme+tcp://h", "names no realm"),
            ("nvme+tcp://h/", "names no realm"),
            ("nvme+tcp://h/a/b", "is no realm's name"),
            ("nvme+tcp://h/ä", "is no realm's name"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_is_a_device_and_all_else_an_address() {
        let device: To = "/dev/nvme0n1".parse().unwrap();
        assert_eq!(device, To::Device("/dev/nvme0n1".into()));
        let tcp: To = "nvme+tcp://h/a".parse().unwrap();
        assert_eq!(tcp, To::Tcp("nvme+tcp://h/a".parse().unwrap()));
        let error = "nvme0n1".parse::<To>().unwrap_err().to_string();
        assert!(error.contains("/dev/nvme0n1"), "{error}");
    }

    #[test]
    fn a_subsystem_says_its_realm() {
        assert_eq!(realm_of("nqn.2026-11.io.oriel:n1:models"), Some("models"));
        assert_eq!(realm_of("nqn.2026-11.io.oriel:models"), None);
        assert_eq!(realm_of("nqn.2014-08.org.nvmexpress:a:b"), None);
    }
}
