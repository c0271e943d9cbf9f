//! A ring as bytes: what the MAP command serves, offset by offset.
//!
//! ```text
//!  0            64                    64 + members, rounded up to 64                          end
//!  +------------+---------------------+--------+--------+--------+-- ----------- --+----------+
//!  | header     | members             | line 0 | line 1 | line 2 |                 | line P-1 |
//!  +------------+---------------------+--------+--------+--------+-- ----------- --+----------+
//!
//!  header  0  magic "ORIELMAP"           member, slot by slot:
//!          8  u16 version (1)              u8  0: nobody, else 1 joining, 2 up, 3 draining, 4 down
//!         10  u8  partitions, log2         u32 weight
//!         11  u8  owners                   u8 length, name; u8 length, rack; u8 length, zone
//!         12  u8  most shards in a zone    u8 addresses, each:
//!         13  u8  ... in a rack               u8 1 tcp, 2 rdma; u16 port; u8 length, host
//!         14  u8  ... on a node
//!         15  u8  0
//!         16  u32 epoch
//!         20  u32 node slots
//!         24  u32 bytes of members
//!         28  u32 CRC32C of members
//!         32  zeros
//!         60  u32 CRC32C of bytes 0 to 59
//! ```
//!
//! All numbers are little-endian. Lines carry their own checksums. Who fetches
//! this piece by piece while the ring changes gets lines of later epochs than
//! the header's, which [`RingView::open`] refuses: fetch the header again.

use super::limits::{ADDRESSES_MAX, LINE_BYTES, NODES_MAX};
use super::line::{Line, LineError, words_of};
use super::member::{Address, Member, Members, Name, State, Transport};
use super::table::Table;
use super::units::{Epoch, PartitionId, Partitions};
use super::{Ring, Spec, Spread};

/// The bytes of the header.
pub(super) const HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"ORIELMAP";
const VERSION: u16 = 1;

const VERSION_AT: usize = 8;
const BITS_AT: usize = 10;
const OWNERS_AT: usize = 11;
const CAPS_AT: usize = 12;
const EPOCH_AT: usize = 16;
const SLOTS_AT: usize = 20;
const MEMBERS_BYTES_AT: usize = 24;
const MEMBERS_SUM_AT: usize = 28;
const ZEROS_AT: usize = 32;
const SUM_AT: usize = 60;

const _: () = assert!(VERSION_AT == MAGIC.len() && BITS_AT == VERSION_AT + 2);
const _: () = assert!(CAPS_AT == OWNERS_AT + 1 && CAPS_AT + 3 < EPOCH_AT);
const _: () = assert!(MEMBERS_SUM_AT + 4 == ZEROS_AT && SUM_AT + 4 == HEADER_BYTES);
const _: () = assert!(HEADER_BYTES.is_multiple_of(LINE_BYTES));

/// Why bytes are not a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PagesError {
    /// Not even a header.
    #[error("{found} bytes are no routing table: its header alone has {HEADER_BYTES}")]
    Short {
        /// The bytes there are.
        found: usize,
    },
    /// Something else.
    #[error("no routing table: it would begin with the bytes \"ORIELMAP\"")]
    Magic,
    /// Another version of the layout.
    #[error(
        "a routing table of layout version {found}, where {VERSION} is known: update the side that is older"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// The header is damaged.
    #[error(
        "the routing table's header is damaged: checksum {found:#010x}, computed {computed:#010x}; fetch it again"
    )]
    HeaderChecksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the header's other bytes.
        computed: u32,
    },
    /// The header's checksum is right, and its numbers cannot be.
    #[error(
        "the routing table's header has a number at byte {at} that no ring has: its writer is of another version"
    )]
    HeaderNumber {
        /// Where.
        at: usize,
    },
    /// The bytes end early or go on too long.
    #[error("{found} bytes of a routing table that has {expected}: fetch the rest")]
    Length {
        /// The bytes there are.
        found: usize,
        /// The bytes that the header speaks of.
        expected: usize,
    },
    /// The members are damaged.
    #[error(
        "the routing table's members are damaged: checksum {found:#010x}, computed {computed:#010x}; fetch it again"
    )]
    MembersChecksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The members' checksum is right, and they cannot be.
    #[error(
        "the member in slot {slot} of the routing table cannot be read: its writer is of another version"
    )]
    Member {
        /// Its slot.
        slot: usize,
    },
    /// A line is damaged.
    #[error(transparent)]
    Line(#[from] LineError),
    /// A line came later than the header.
    #[error(
        "partition {partition} is of epoch {found}, later than the header's {header}: the ring has changed meanwhile; fetch all of it again"
    )]
    Later {
        /// The partition.
        partition: PartitionId,
        /// The line's epoch.
        found: Epoch,
        /// The header's.
        header: Epoch,
    },
    /// A line does not go with the header or the members.
    #[error(
        "the line of partition {partition} names a node or a number of owners that this ring does not have; fetch all of it again"
    )]
    Owners {
        /// The partition.
        partition: PartitionId,
    },
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    epoch: Epoch,
    spec: Spec,
    slots: usize,
    members_bytes: usize,
    members_sum: u32,
}

impl Header {
    fn lines_at(&self) -> usize {
        HEADER_BYTES + self.members_bytes.next_multiple_of(LINE_BYTES)
    }

    fn total(&self) -> usize {
        self.lines_at() + self.spec.partitions().count() * LINE_BYTES
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT..][..2].copy_from_slice(&VERSION.to_le_bytes());
        bytes[BITS_AT] = self.spec.partitions().bits();
        bytes[OWNERS_AT] = self.spec.owners() as u8;
        bytes[CAPS_AT..][..3].copy_from_slice(&self.spec.spread().caps());
        let numbers = [
            (EPOCH_AT, self.epoch.0),
            (SLOTS_AT, self.slots as u32),
            (MEMBERS_BYTES_AT, self.members_bytes as u32),
            (MEMBERS_SUM_AT, self.members_sum),
        ];
        for (at, number) in numbers {
            bytes[at..][..4].copy_from_slice(&number.to_le_bytes());
        }
        let sum = crc32c::crc32c(&bytes[..SUM_AT]);
        bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(all: &[u8]) -> Result<Self, PagesError> {
        let found = all.len();
        let bytes: &[u8; HEADER_BYTES] = all.first_chunk().ok_or(PagesError::Short { found })?;
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if !bytes.starts_with(&MAGIC) {
            return Err(PagesError::Magic);
        }
        let (found, computed) = (number(SUM_AT), crc32c::crc32c(&bytes[..SUM_AT]));
        if found != computed {
            return Err(PagesError::HeaderChecksum { found, computed });
        }
        let version = u16::from_le_bytes([bytes[VERSION_AT], bytes[VERSION_AT + 1]]);
        if version != VERSION {
            return Err(PagesError::Version { found: version });
        }
        let wrong = |at| PagesError::HeaderNumber { at };
        let partitions = 1u64.checked_shl(bytes[BITS_AT].into()).unwrap_or(0);
        let partitions = Partitions::new(partitions).map_err(|_| wrong(BITS_AT))?;
        let [zone, rack, node] = [0, 1, 2].map(|level| bytes[CAPS_AT + level]);
        let spread = Spread { node, rack, zone };
        let spec = Spec::new(partitions, bytes[OWNERS_AT], spread).map_err(|_| wrong(OWNERS_AT))?;
        let slots = number(SLOTS_AT) as usize;
        if slots > NODES_MAX {
            return Err(wrong(SLOTS_AT));
        }
        let zeros = [bytes[CAPS_AT + 3]];
        let mut zeros = zeros.iter().chain(&bytes[ZEROS_AT..SUM_AT]);
        if zeros.any(|byte| *byte != 0) {
            return Err(wrong(ZEROS_AT));
        }
        Ok(Self {
            epoch: Epoch(number(EPOCH_AT)),
            spec,
            slots,
            members_bytes: number(MEMBERS_BYTES_AT) as usize,
            members_sum: number(MEMBERS_SUM_AT),
        })
    }
}

impl Ring {
    /// The ring as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut members = Vec::new();
        for slot in 0..self.members.slots() {
            put_member(&mut members, self.members.get(super::NodeSlot(slot as u16)));
        }
        let header = Header {
            epoch: self.epoch,
            spec: self.spec,
            slots: self.members.slots(),
            members_bytes: members.len(),
            members_sum: crc32c::crc32c(&members),
        };
        let mut bytes = Vec::with_capacity(header.total());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&members);
        bytes.resize(header.lines_at(), 0);
        for line in &self.lines {
            bytes.extend_from_slice(&line.bytes());
        }
        bytes
    }

    /// The ring that bytes are.
    ///
    /// # Errors
    ///
    /// Bytes that are damaged, incomplete, of different epochs, or something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PagesError> {
        let view = RingView::open(bytes)?;
        let lines = view
            .partitions()
            .iter()
            .map(|partition| view.line(partition));
        let lines = lines.collect::<Result<_, _>>()?;
        Ok(Self {
            epoch: view.header.epoch,
            spec: view.header.spec,
            lines,
            members: view.members,
        })
    }
}

/// A ring in bytes that somebody sent, where they lie: to route without a copy of the lines. Bytes that begin at a
/// multiple of 64 make a lookup read one cache line rather than two.
#[derive(Clone, Debug)]
pub struct RingView<'a> {
    header: Header,
    members: Members,
    lines: &'a [[u8; LINE_BYTES]],
}

impl<'a> RingView<'a> {
    /// The length of the whole, by its first bytes, of which the header is enough.
    ///
    /// # Errors
    ///
    /// Bytes that are no header.
    pub fn total_bytes(start: &[u8]) -> Result<usize, PagesError> {
        Header::decode(start).map(|header| header.total())
    }

    /// Checks all of it: header, members, every line.
    ///
    /// # Errors
    ///
    /// Bytes that are damaged, incomplete, of different epochs, or something else.
    pub fn open(bytes: &'a [u8]) -> Result<Self, PagesError> {
        let header = Header::decode(bytes)?;
        if bytes.len() != header.total() {
            return Err(PagesError::Length {
                found: bytes.len(),
                expected: header.total(),
            });
        }
        let (before, lines) = bytes.split_at(header.lines_at());
        let (members, padding) = before[HEADER_BYTES..].split_at(header.members_bytes);
        let (found, computed) = (header.members_sum, crc32c::crc32c(members));
        if found != computed {
            return Err(PagesError::MembersChecksum { found, computed });
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Err(PagesError::HeaderNumber {
                at: HEADER_BYTES + header.members_bytes,
            });
        }
        let view = Self {
            header,
            members: take_members(members, header.slots)?,
            lines: lines.as_chunks().0,
        };
        view.check_lines()?;
        Ok(view)
    }

    fn check_lines(&self) -> Result<(), PagesError> {
        for partition in self.partitions().iter() {
            let line = self.line(partition)?;
            if line.epoch() > self.header.epoch {
                return Err(PagesError::Later {
                    partition,
                    found: line.epoch(),
                    header: self.header.epoch,
                });
            }
            let known = line
                .nodes()
                .iter()
                .all(|node| self.members.get(*node).is_some());
            if !known || line.len() != self.header.spec.owners() {
                return Err(PagesError::Owners { partition });
            }
        }
        Ok(())
    }

    /// The version of this ring.
    pub const fn epoch(&self) -> Epoch {
        self.header.epoch
    }

    /// What it was asked for.
    pub const fn spec(&self) -> Spec {
        self.header.spec
    }

    /// The nodes by their slots.
    pub const fn members(&self) -> &Members {
        &self.members
    }
}

impl Table for RingView<'_> {
    #[inline]
    fn partitions(&self) -> Partitions {
        self.header.spec.partitions()
    }

    #[inline]
    fn line(&self, partition: PartitionId) -> Result<Line, LineError> {
        match self.lines.get(partition.index()) {
            Some(bytes) => Line::check(partition, words_of(bytes)),
            None => Err(LineError::NoPartition {
                partition,
                partitions: self.lines.len(),
            }),
        }
    }
}

fn state_number(state: State) -> u8 {
    match state {
        State::Joining => 1,
        State::Up => 2,
        State::Draining => 3,
        State::Down => 4,
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(text.len() as u8);
    bytes.extend_from_slice(text.as_bytes());
}

fn put_member(bytes: &mut Vec<u8>, member: Option<&Member>) {
    let Some(member) = member else {
        bytes.push(0);
        return;
    };
    bytes.push(state_number(member.state));
    bytes.extend_from_slice(&member.weight.to_le_bytes());
    for name in [&member.name, &member.rack, &member.zone] {
        put_text(bytes, name.as_str());
    }
    let addresses = &member.addresses[..ADDRESSES_MAX.min(member.addresses.len())];
    bytes.push(addresses.len() as u8);
    for address in addresses {
        bytes.push(match address.transport {
            Transport::Tcp => 1,
            Transport::Rdma => 2,
        });
        bytes.extend_from_slice(&address.port.to_le_bytes());
        put_text(bytes, address.host());
    }
}

fn take_members(mut bytes: &[u8], slots: usize) -> Result<Members, PagesError> {
    let mut members = Vec::new();
    for slot in 0..slots {
        let member = take_member(&mut bytes).ok_or(PagesError::Member { slot })?;
        members.push(member);
    }
    if !bytes.is_empty() {
        return Err(PagesError::Member { slot: slots });
    }
    Ok(Members::from_slots(members))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let [length] = take(bytes)?;
    let (text, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

/// An outer nothing: it cannot be read. An inner nothing: there is nobody in the slot.
fn take_member(bytes: &mut &[u8]) -> Option<Option<Member>> {
    let [kind] = take(bytes)?;
    if kind == 0 {
        return Some(None);
    }
    let state = State::ALL
        .into_iter()
        .find(|state| state_number(*state) == kind)?;
    let weight = u32::from_le_bytes(take(bytes)?);
    let mut name = || take_text(bytes)?.parse::<Name>().ok();
    let (name, rack, zone) = (name()?, name()?, name()?);
    let [count] = take(bytes)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let [transport] = take(bytes)?;
        let transport = match transport {
            1 => Transport::Tcp,
            2 => Transport::Rdma,
            _ => return None,
        };
        let port = u16::from_le_bytes(take(bytes)?);
        addresses.push(Address::new(transport, take_text(bytes)?, port).ok()?);
    }
    Some(Some(Member {
        name,
        rack,
        zone,
        weight,
        state,
        addresses,
    }))
}
