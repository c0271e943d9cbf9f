//! Who takes part: nodes, their weights, their failure domains, their states.

use std::fmt;
use std::str::FromStr;

use super::limits::{ADDRESS_BYTES_MAX, NAME_BYTES_MAX, NODES_MAX, WEIGHT_MAX};
use super::units::NodeSlot;

/// The name of a node, a rack or a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A name that nothing may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no name: use 1 to {NAME_BYTES_MAX} of the characters a-z A-Z 0-9 . _ - (it becomes part of NVMe names and of keys)"
)]
pub struct NameError {
    /// What was given.
    pub found: String,
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError {
                found: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// NVMe over TCP.
    Tcp,
    /// NVMe over RDMA.
    Rdma,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Rdma => "rdma",
        }
    }
}

/// Where a node listens: `tcp://10.0.0.1:4420`, `rdma://[fe80::1]:4420`, `tcp://node7.rack2:4420`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// How.
    pub transport: Transport,
    /// A name or an IP address; an IPv6 address without its brackets.
    host: String,
    /// The port.
    pub port: u16,
}

/// An address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no address: write transport, host and port, as in tcp://10.0.0.1:4420 or rdma://[fe80::1]:4420"
)]
pub struct AddressError {
    /// What was given.
    pub found: String,
}

impl Address {
    /// An address of its parts.
    ///
    /// # Errors
    ///
    /// A host that is empty, too long or has characters that no host has; port 0.
    pub fn new(transport: Transport, host: &str, port: u16) -> Result<Self, AddressError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        let good = !host.is_empty() && host.len() <= ADDRESS_BYTES_MAX && host.bytes().all(allowed);
        if !good || port == 0 {
            return Err(AddressError {
                found: format!("{}://{host}:{port}", transport.name()),
            });
        }
        Ok(Self {
            transport,
            host: host.to_owned(),
            port,
        })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parts = || {
            let (transport, rest) = text.split_once("://")?;
            let transport = match transport {
                "tcp" => Transport::Tcp,
                "rdma" => Transport::Rdma,
                _ => return None,
            };
            let (host, port) = rest.rsplit_once(':')?;
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            // Without brackets, where an IPv6 address ends and the port begins is anybody's guess.
            if bare.is_none() && host.contains(':') {
                return None;
            }
            Some((transport, bare.unwrap_or(host), port.parse().ok()?))
        };
        let wrong = || AddressError {
            found: text.to_owned(),
        };
        let (transport, host, port) = parts().ok_or_else(wrong)?;
        Self::new(transport, host, port).map_err(|_| wrong())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, port) = (self.transport.name(), self.port);
        if self.host.contains(':') {
            write!(f, "{transport}://[{}]:{port}", self.host)
        } else {
            write!(f, "{transport}://{}:{port}", self.host)
        }
    }
}

/// What part a node plays. Whether it answers at the moment is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// New: shards are on their way to it.
    Joining,
    /// Serves.
    Up,
    /// Serves, and its shards are on their way to others.
    Draining,
    /// Given up: its shards are rebuilt elsewhere from those of others.
    Down,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Joining, Self::Up, Self::Draining, Self::Down];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }

    /// Whether it gets shards.
    pub const fn takes(self) -> bool {
        matches!(self, Self::Joining | Self::Up)
    }

    /// Whether shards can be copied from it.
    pub const fn gives(self) -> bool {
        !matches!(self, Self::Down)
    }
}

/// A word that is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is no state: choose joining, up, draining or down")]
pub struct StateError {
    /// What was given.
    pub found: String,
}

impl FromStr for State {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        let wrong = || StateError {
            found: text.to_owned(),
        };
        let mut all = Self::ALL.into_iter();
        all.find(|state| state.name() == text).ok_or_else(wrong)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A node. Its name is its identity: a machine that comes back without its drives takes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in the ring.
    pub name: Name,
    /// What fails together with it; racks of one name in two zones are two racks.
    pub rack: Name,
    /// What fails together with its rack.
    pub zone: Name,
    /// How much it shall hold, beside others: any unit, for example GiB. At most [`WEIGHT_MAX`].
    pub weight: u32,
    /// What part it plays.
    pub state: State,
    /// Where it listens, the best first.
    pub addresses: Vec<Address>,
}

impl Member {
    /// The weight that counts for what it gets.
    pub fn share(&self) -> u32 {
        if self.state.takes() {
            self.weight.min(WEIGHT_MAX)
        } else {
            0
        }
    }
}

/// The nodes of a ring by their slots. A slot stays a node's while lines name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    slots: Vec<Option<Member>>,
}

/// Why nodes cannot be the members of a ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// Two nodes of one name.
    #[error("two nodes are named {name}: every node needs a name of its own")]
    SameName {
        /// The name.
        name: Name,
    },
    /// More nodes than slots.
    #[error("{found} nodes: a ring has at most {NODES_MAX}, those counted that lines still name")]
    TooMany {
        /// The number of nodes.
        found: usize,
    },
}

impl Members {
    /// No node.
    pub const EMPTY: Self = Self { slots: Vec::new() };

    /// Members by slot, as they were told by another.
    pub(super) fn from_slots(slots: Vec<Option<Member>>) -> Self {
        Self { slots }
    }

    /// The number of slots, empty ones counted.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The node in a slot.
    pub fn get(&self, slot: NodeSlot) -> Option<&Member> {
        self.slots.get(slot.index())?.as_ref()
    }

    /// The nodes and their slots.
    pub fn iter(&self) -> impl Iterator<Item = (NodeSlot, &Member)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(at, member)| Some((NodeSlot(at as u16), member.as_ref()?)))
    }

    /// The slot of a node.
    pub fn find(&self, name: &Name) -> Option<NodeSlot> {
        self.iter()
            .find(|(_, member)| member.name == *name)
            .map(|(slot, _)| slot)
    }

    /// These nodes instead, whoever was known keeping its slot. Of those that are gone, the named ones stay as `down`.
    pub(super) fn replaced(
        &self,
        nodes: &[Member],
        named: impl Fn(NodeSlot) -> bool,
    ) -> Result<Self, MembersError> {
        let mut sorted: Vec<&Member> = nodes.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(MembersError::SameName {
                name: pair[0].name.clone(),
            });
        }
        let mut known = vec![false; sorted.len()];
        let mut slots: Vec<Option<Member>> = Vec::with_capacity(self.slots.len());
        for (at, member) in self.slots.iter().enumerate() {
            let stays = member.as_ref().and_then(|member| {
                match sorted.binary_search_by(|node| node.name.cmp(&member.name)) {
                    Ok(found) => {
                        known[found] = true;
                        Some(sorted[found].clone())
                    }
                    Err(_) => named(NodeSlot(at as u16)).then(|| Member {
                        state: State::Down,
                        ..member.clone()
                    }),
                }
            });
            slots.push(stays);
        }
        let mut free = 0;
        for (node, _) in sorted.iter().zip(&known).filter(|(_, known)| !**known) {
            while slots.get(free).is_some_and(Option::is_some) {
                free += 1;
            }
            match slots.get_mut(free) {
                Some(slot) => *slot = Some((*node).clone()),
                None => slots.push(Some((*node).clone())),
            }
        }
        while slots.last().is_some_and(Option::is_none) {
            slots.pop();
        }
        if slots.len() > NODES_MAX {
            return Err(MembersError::TooMany { found: slots.len() });
        }
        Ok(Self { slots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Member {
        let word: Name = "r".parse().unwrap();
        Member {
            name: name.parse().unwrap(),
            rack: word.clone(),
            zone: word,
            weight: 1,
            state: State::Up,
            addresses: Vec::new(),
        }
    }

    fn names(members: &Members) -> Vec<String> {
        let name = |member: &Option<Member>| {
            let text = member
                .as_ref()
                .map(|member| format!("{}:{}", member.name, member.state));
            text.unwrap_or_default()
        };
        members.slots.iter().map(name).collect()
    }

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in [
            "tcp://10.0.0.1:4420",
            "rdma://[fe80::1%eth0]:1",
            "tcp://a-b.c:65535",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "10.0.0.1:4420",
            "tcp://:1",
            "tcp://a:0",
            "tcp://a",
            "tcp://a:65536",
            "quic://a:1",
            "tcp://fe80::1:4420",
            "tcp://a b:1",
            "tcp://[]:1",
        ] {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("'{text}' is no address")),
                "{message}"
            );
        }
    }

    #[test]
    fn names_are_those_that_nvme_names_and_keys_can_hold() {
        for text in ["a", "Node-7.rack_2", &"x".repeat(64)] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a/b", "a:b", "ü", &"x".repeat(65)] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_node_keeps_its_slot_and_a_named_one_stays_as_down() {
        let first = Members::EMPTY
            .replaced(&[node("b"), node("a"), node("c")], |_| false)
            .unwrap();
        assert_eq!(names(&first), ["a:up", "b:up", "c:up"]);
        let second = first
            .replaced(&[node("c"), node("d"), node("0")], |slot| {
                slot == NodeSlot(1)
            })
            .unwrap();
        assert_eq!(names(&second), ["0:up", "b:down", "c:up", "d:up"]);
        let third = second.replaced(&[node("0")], |_| false).unwrap();
        assert_eq!(names(&third), ["0:up"]);
        let twice = third.replaced(&[node("x"), node("x")], |_| false);
        assert!(matches!(twice, Err(MembersError::SameName { .. })));
    }
}
