//! The roster: what a store knows of its drives, written to each of them.
//!
//! ```text
//!  byte  0          8         12     16      32     40      48         56       64           72    74     76       78     80
//!        ├──────────┼─────────┼──────┼───────┼──────┼───────┼──────────┼────────┼────────────┼─────┼──────┼────────┼──────┤
//!        │"ORIELROS"│ version │CRC32C│ store │ term │ epoch │ promised │ writes │slot blocks │this │ next │members │slots │ 0 to 128
//!        └──────────┴─────────┴──────┴───────┴──────┴───────┴──────────┴────────┴────────────┴─────┴──────┴────────┴──────┘
//!  from 128 on, 64 bytes a member:   number (2) │ draining 1, hungry 2, voter 4 (2) │ 0 (4) │ capacity in blocks (8) │ name (48)
//!  from 16,512 on, 2 bytes a slot:   the number of the drive that has it; the n-th slot is the n-th run of `slot blocks`
//! ```
//!
//! Little-endian; the checksum covers the version and all that follows the checksum, to the end of the seven blocks. A
//! drive has two copies, written one after the other, so that one is whole whatever happens.
//!
//! **Who may change it.** Positions must never be used twice and no acknowledged blob may be overlooked, even if a store is
//! started with some of its drives and later with others. So changes go by majorities, as they do between nodes, although
//! one process has all drives:
//!
//! - A roster names its **voters**. A start takes the newest roster that it finds (`term`, then `epoch`), and may change
//!   anything only if more than half of that roster's voters are there.
//! - Each start first has a new term promised by a majority, then writes a roster of that term. Two starts that had
//!   different drives therefore never write different rosters of the same term and epoch.
//! - A roster counts once it is on every drive that is there; these are its voters. So a drive that fails while the store
//!   runs stops being one, and what is left can be started alone; the failed one cannot.

use super::super::drive::ExtentName;
use super::super::error::OpenError;
use super::super::record::{u32_at, u64_at};
use super::super::types::{BLOCK_BYTES, Position, StoreId};
use super::place::DriveNumber;
use crate::limits::{DRIVES_MAX, SLOTS_MAX};
use oriel_ec::Crc32c;

const MAGIC: [u8; 8] = *b"ORIELROS";
const VERSION: u32 = 1;

/// Blocks of each copy.
pub(super) const ROSTER_BLOCKS: u64 = 7;
const MEMBERS_AT: usize = 128;
const MEMBER_BYTES: usize = 64;
const NAME_BYTES: usize = 48;
const SLOTS_AT: usize = MEMBERS_AT + DRIVES_MAX * MEMBER_BYTES;

const _: () = assert!(SLOTS_AT == 16_512);
const _: () = assert!(SLOTS_AT + 2 * SLOTS_MAX <= ROSTER_BLOCKS as usize * BLOCK_BYTES);
const _: () = assert!(16 + NAME_BYTES == MEMBER_BYTES);

/// A drive of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Member {
    pub(super) number: DriveNumber,
    pub(super) capacity_blocks: u64,
    pub(super) is_draining: bool,
    pub(super) is_hungry: bool,
    pub(super) is_voter: bool,
    /// What the drive was called last, cut to 48 bytes.
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Roster {
    pub(super) store: StoreId,
    pub(super) term: u64,
    pub(super) epoch: u64,
    /// The newest term that this drive has promised.
    pub(super) promised: u64,
    /// Counts what was written to this drive.
    pub(super) writes: u64,
    /// Positions are leased to drives by so many.
    pub(super) slot_blocks: u64,
    /// The drive that this copy is on.
    pub(super) this: DriveNumber,
    /// The number of the drive that comes next.
    pub(super) next: u16,
    pub(super) members: Vec<Member>,
    pub(super) slots: Vec<DriveNumber>,
}

/// What a roster's blocks hold instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoRoster {
    Nothing,
    Newer { version: u32 },
    Damaged { expected: u32, found: u32 },
    Unknown,
}

impl NoRoster {
    pub(super) fn error(self, copy: u8) -> OpenError {
        let extent = ExtentName::Roster(copy);
        let damaged = |detail: &str| OpenError::Damaged {
            extent,
            block: 0,
            detail: detail.into(),
        };
        match self {
            Self::Nothing => damaged("it does not start with ORIELROS"),
            Self::Newer { version } => OpenError::Newer {
                version,
                known: VERSION,
            },
            Self::Damaged { expected, found } => OpenError::checksum(extent, 0, expected, found),
            Self::Unknown => damaged("it says something that this version does not know"),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn checksum(bytes: &[u8]) -> u32 {
    Crc32c::of(&bytes[8..12]).and(&bytes[16..]).value()
}

/// As much of a name as there is room for.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

impl Roster {
    pub(super) fn encode(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.0);
        let words = [
            self.term,
            self.epoch,
            self.promised,
            self.writes,
            self.slot_blocks,
        ];
        for (at, word) in (32..).step_by(8).zip(words) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let (members, slots) = (self.members.len() as u16, self.slots.len() as u16);
        for (at, half) in (72..)
            .step_by(2)
            .zip([self.this.0, self.next, members, slots])
        {
            bytes[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        for (member, place) in self
            .members
            .iter()
            .zip(bytes[MEMBERS_AT..SLOTS_AT].chunks_exact_mut(MEMBER_BYTES))
        {
            let flags = u16::from(member.is_draining)
                | u16::from(member.is_hungry) << 1
                | u16::from(member.is_voter) << 2;
            place[..2].copy_from_slice(&member.number.0.to_le_bytes());
            place[2..4].copy_from_slice(&flags.to_le_bytes());
            place[8..16].copy_from_slice(&member.capacity_blocks.to_le_bytes());
            let name = cut(&member.name).as_bytes();
            place[16..16 + name.len()].copy_from_slice(name);
        }
        for (slot, place) in self.slots.iter().zip(bytes[SLOTS_AT..].chunks_exact_mut(2)) {
            place.copy_from_slice(&slot.0.to_le_bytes());
        }
        let checksum = checksum(bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NoRoster> {
        if bytes[..8] != MAGIC {
            return Err(NoRoster::Nothing);
        }
        let (expected, found) = (u32_at(bytes, 12), checksum(bytes));
        if expected != found {
            return Err(NoRoster::Damaged { expected, found });
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(NoRoster::Newer { version });
        }
        let mut store = StoreId([0; 16]);
        store.0.copy_from_slice(&bytes[16..32]);
        let (members, slots) = (
            usize::from(u16_at(bytes, 76)),
            usize::from(u16_at(bytes, 78)),
        );
        let slot_blocks = u64_at(bytes, 64);
        if members > DRIVES_MAX || slots > SLOTS_MAX || !slot_blocks.is_power_of_two() {
            return Err(NoRoster::Unknown);
        }
        let member = |place: &[u8]| {
            let flags = u16_at(place, 2);
            let name = place[16..].split(|byte| *byte == 0).next();
            (flags < 8).then(|| Member {
                number: DriveNumber(u16_at(place, 0)),
                capacity_blocks: u64_at(place, 8),
                is_draining: flags & 1 != 0,
                is_hungry: flags & 2 != 0,
                is_voter: flags & 4 != 0,
                name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
            })
        };
        let places = bytes[MEMBERS_AT..SLOTS_AT]
            .chunks_exact(MEMBER_BYTES)
            .take(members);
        let members: Option<Vec<Member>> = places.map(member).collect();
        let places = bytes[SLOTS_AT..].chunks_exact(2).take(slots);
        Ok(Self {
            store,
            term: u64_at(bytes, 32),
            epoch: u64_at(bytes, 40),
            promised: u64_at(bytes, 48),
            writes: u64_at(bytes, 56),
            slot_blocks,
            this: DriveNumber(u16_at(bytes, 72)),
            next: u16_at(bytes, 74),
            members: members.ok_or(NoRoster::Unknown)?,
            slots: places.map(|place| DriveNumber(u16_at(place, 0))).collect(),
        })
    }

    /// What makes one roster newer than another.
    pub(super) fn age(&self) -> (u64, u64) {
        (self.term, self.epoch)
    }

    pub(super) fn member(&self, number: DriveNumber) -> Option<&Member> {
        self.members.iter().find(|member| member.number == number)
    }

    pub(super) fn member_mut(&mut self, number: DriveNumber) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.number == number)
    }

    /// Voters, and how many of them are among these drives.
    pub(super) fn voters(&self, here: &[DriveNumber]) -> Voters {
        let voters = self.members.iter().filter(|member| member.is_voter);
        Voters {
            here: voters
                .clone()
                .filter(|voter| here.contains(&voter.number))
                .count(),
            all: voters.count(),
        }
    }

    /// Gives a drive another run of positions; `false` if there is none left.
    pub(super) fn lease(&mut self, number: DriveNumber) -> bool {
        let end = (self.slots.len() as u64 + 1).saturating_mul(self.slot_blocks);
        if self.slots.len() == SLOTS_MAX || end > 1 << oriel_dht::limits::POSITION_BITS {
            return false;
        }
        self.slots.push(number);
        true
    }

    /// The slabs that a drive may make.
    pub(super) fn leases(
        &self,
        number: DriveNumber,
        slab_blocks: u64,
    ) -> Vec<std::ops::Range<u64>> {
        let of_slot = self.slot_blocks / slab_blocks;
        let own = (0..)
            .zip(&self.slots)
            .filter(|(_, owner)| **owner == number);
        own.map(|(slot, _): (u64, _)| slot * of_slot..(slot + 1) * of_slot)
            .collect()
    }
}

/// How many drives have a say, and how many of them are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Voters {
    /// Those that are there.
    pub here: usize,
    /// All of them.
    pub all: usize,
}

impl Voters {
    pub(super) fn is_majority(self) -> bool {
        self.here * 2 > self.all
    }
}

/// The slot that a position is in.
pub(super) fn slot_of(position: Position, slot_blocks: u64) -> usize {
    (position.0 / slot_blocks) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roster() -> Roster {
        let member = |number, name: &str, flags: u8| Member {
            number: DriveNumber(number),
            capacity_blocks: 0x0102_0304,
            is_draining: flags & 1 != 0,
            is_hungry: flags & 2 != 0,
            is_voter: flags & 4 != 0,
            name: name.into(),
        };
        Roster {
            store: StoreId([7; 16]),
            term: 0x11,
            epoch: 0x22,
            promised: 0x33,
            writes: 0x44,
            slot_blocks: 1 << 38,
            this: DriveNumber(2),
            next: 9,
            members: vec![member(2, "nvme0n1", 6), member(8, "nvme1n1", 1)],
            slots: vec![DriveNumber(2), DriveNumber(8), DriveNumber(2)],
        }
    }

    fn encoded(roster: &Roster) -> Vec<u8> {
        let mut bytes = vec![0xff; ROSTER_BLOCKS as usize * BLOCK_BYTES];
        roster.encode(&mut bytes);
        bytes
    }

    /// The format on the drives: a change here needs another version.
    #[test]
    fn the_bytes_of_a_roster_are_these() {
        let bytes = encoded(&roster());
        let sum = checksum(&bytes).to_le_bytes();
        let head = [
            &b"ORIELROS"[..],
            &[1, 0, 0, 0],
            &sum,
            &[7; 16],
            &[0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0],
            &[0x33, 0, 0, 0, 0, 0, 0, 0, 0x44, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0x40, 0, 0, 0, 2, 0, 9, 0, 2, 0, 3, 0],
        ];
        let head = head.concat();
        assert_eq!(bytes[..head.len()], head);
        let member = [
            &[2, 0, 6, 0, 0, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0][..],
            b"nvme0n1",
        ]
        .concat();
        assert_eq!(bytes[128..128 + member.len()], member);
        assert_eq!(bytes[192..196], [8, 0, 1, 0]);
        assert_eq!(bytes[16_512..16_520], [2, 0, 8, 0, 2, 0, 0, 0]);
        assert_eq!(Roster::decode(&bytes), Ok(roster()));
    }

    #[test]
    fn what_is_damaged_or_newer_is_no_roster() {
        let bytes = encoded(&roster());
        for at in (0..bytes.len()).step_by(37).chain(0..200) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert!(Roster::decode(&flipped).is_err(), "byte {at}");
        }
        let mut newer = bytes.clone();
        newer[8] = 2;
        let sum = checksum(&newer);
        newer[12..16].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Roster::decode(&newer), Err(NoRoster::Newer { version: 2 }));
        assert_eq!(
            Roster::decode(&vec![0; bytes.len()]),
            Err(NoRoster::Nothing)
        );
    }

    #[test]
    fn long_names_are_cut_between_letters() {
        let mut long = roster();
        long.members[0].name = "ö".repeat(40);
        let decoded = Roster::decode(&encoded(&long)).unwrap();
        assert_eq!(decoded.members[0].name, "ö".repeat(24));
    }

    #[test]
    fn leases_are_of_one_drive_each_and_end_with_the_namespace() {
        let mut roster = roster();
        roster.slots.clear();
        let mut seen = std::collections::BTreeSet::new();
        for turn in 0..SLOTS_MAX {
            assert!(roster.lease(DriveNumber(if turn % 3 == 0 { 8 } else { 2 })));
        }
        assert!(!roster.lease(DriveNumber(2)), "2^50 blocks are leased");
        for number in [2, 8] {
            for slabs in roster.leases(DriveNumber(number), 1 << 18) {
                assert_eq!(slabs.end - slabs.start, 1 << 20);
                assert!(seen.insert(slabs.start), "{slabs:?}");
            }
        }
        assert_eq!(seen.len(), SLOTS_MAX);
    }
}
