//! A vendor command as it stands in the 64 bytes of an NVMe command.
//!
//! ```text
//!  byte   0     1     2     4     8      12     16     24           40     44     48     52     56     60
//!       ┌─────┬─────┬─────┬─────┬──────┬──────┬──────┬────────────┬──────┬──────┬──────┬──────┬──────┬──────┐
//!       │ op  │flags│ CID │ NSID│ dw 2 │ dw 3 │ MPTR │ SGL        │dw 10 │dw 11 │dw 12 │dw 13 │dw 14 │dw 15 │
//!       └─────┴─────┴─────┴─────┴──────┴──────┴──────┴────────────┴──────┴──────┴──────┴──────┴──────┴──────┘
//!                                └── Arguments ──┘                 └────────────── Arguments ──────────────┘
//! ```

use crate::error::{DecodeError, Expected};
use crate::limits::{
    COMMIT_RECORDS_MAX, KEY_BYTES, NAMESPACE_BLOCKS, PREFIX_BYTES_MAX, PROBE_KEYS_MAX,
    TRANSFER_BYTES_MAX,
};
use crate::list::{LIST_HEADER_BYTES, LISTED_BYTES};
use crate::location::LOCATION_BYTES;
use crate::map::CHUNK_HEADER_BYTES;
use crate::opcode::Opcode;
use crate::parts::{BEGUN_BYTES, Part, PartOf, PutId, number_of_part};
use crate::record::RECORD_BYTES;
use crate::reserve::WINDOW_BYTES;
use crate::stat::STAT_BYTES;
use crate::units::{Key, KeyKind, Length, Position};

/// Bytes of an NVMe command.
const COMMAND_BYTES: usize = 64;

/// Dword 13 of a RESERVE: the window is for a part.
const OF_PART: u32 = 1;

/// Where in the command each of the arguments stands.
const DWORDS_AT: [usize; 8] = [8, 12, 40, 44, 48, 52, 56, 60];

const _: () = assert!(DWORDS_AT[7] + 4 == COMMAND_BYTES && DWORDS_AT.len() * 4 == KEY_BYTES);

const DWORD_NAMES: [&str; 8] = [
    "dword 2", "dword 3", "dword 10", "dword 11", "dword 12", "dword 13", "dword 14", "dword 15",
];

/// Dwords 2, 3 and 10 to 15 of a command, in this order: the 32 bytes that are its own to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arguments(pub [u32; 8]);

impl Arguments {
    /// Those of a command.
    pub fn from_command(command: &[u8; COMMAND_BYTES]) -> Self {
        Self(DWORDS_AT.map(|at| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&command[at..at + 4]);
            u32::from_le_bytes(bytes)
        }))
    }

    /// Puts them into a command.
    pub fn write_to(&self, command: &mut [u8; COMMAND_BYTES]) {
        for (at, dword) in DWORDS_AT.into_iter().zip(self.0) {
            command[at..at + 4].copy_from_slice(&dword.to_le_bytes());
        }
    }

    fn of_key(key: &Key) -> Self {
        let mut dwords = [0; 8];
        for (dword, bytes) in dwords.iter_mut().zip(key.bytes().chunks_exact(4)) {
            *dword = bytes
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u32::from(*byte));
        }
        Self(dwords)
    }

    fn key(&self) -> Key {
        let mut bytes = [0; KEY_BYTES];
        for (place, dword) in bytes.chunks_exact_mut(4).zip(self.0) {
            place.copy_from_slice(&dword.to_le_bytes());
        }
        Key::new(bytes)
    }

    /// The 64-bit number whose lower half is the argument at a place.
    pub(crate) fn wide(&self, place: usize) -> u64 {
        u64::from(self.0[place]) | u64::from(self.0[place + 1]) << 32
    }

    pub(crate) fn set_wide(&mut self, place: usize, number: u64) {
        self.0[place] = number as u32;
        self.0[place + 1] = (number >> 32) as u32;
    }

    /// The flag that is all of an argument.
    fn flag(&self, place: usize, field: &'static str) -> Result<bool, DecodeError> {
        let expected = Expected::Between { least: 0, most: 1 };
        let found = self.0[place];
        DecodeError::check(found <= 1, field, u64::from(found), expected)?;
        Ok(found == 1)
    }

    /// Checks that the arguments at all other places are zero.
    pub(crate) fn nothing_but(&self, used: &[usize]) -> Result<(), DecodeError> {
        for (place, name) in DWORD_NAMES.into_iter().enumerate() {
            if !used.contains(&place) {
                DecodeError::exactly(name, u64::from(self.0[place]), 0)?;
            }
        }
        Ok(())
    }
}

/// The first bytes of keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Prefix {
    bytes: [u8; PREFIX_BYTES_MAX],
    length: u8,
}

impl Prefix {
    /// What every key begins with.
    pub const ANY: Self = Self {
        bytes: [0; PREFIX_BYTES_MAX],
        length: 0,
    };

    /// `None` if there are more than eight bytes.
    pub fn new(prefix: &[u8]) -> Option<Self> {
        let mut bytes = [0; PREFIX_BYTES_MAX];
        bytes.get_mut(..prefix.len())?.copy_from_slice(prefix);
        Some(Self {
            bytes,
            length: prefix.len() as u8,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether a key begins so.
    pub fn is_of(&self, key: &Key) -> bool {
        key.bytes().starts_with(self.bytes())
    }
}

/// What LIST asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListRequest {
    /// Blobs from this block of the log on. 0 is the beginning; the page before says where to go on.
    pub cursor: Position,
    /// Only those whose keys begin so.
    pub prefix: Prefix,
}

/// A command and its arguments. Keys and records that travel as data are decoded by [`decode_keys`], [`crate::decode_commit`]
/// and [`crate::decode_put`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Where a blob is.
    Locate {
        /// Its key.
        key: Key,
    },
    /// Which keys are there.
    Probe {
        /// How many.
        keys: u8,
    },
    /// Blobs stay for a time, whatever their cache needs room for.
    Pin {
        /// How many keys.
        keys: u8,
        /// For so long from now on; 0: they may go.
        time_ms: u32,
    },
    /// A window for a blob, or for a part of one.
    Reserve {
        /// Of up to so many bytes.
        length: Length,
        /// The part.
        part: Option<PartOf>,
    },
    /// Windows become blobs.
    Commit {
        /// How many.
        records: u8,
    },
    /// A blob at once.
    Put,
    /// A blob goes.
    Delete {
        /// Its key.
        key: Key,
    },
    /// Blobs by their places.
    List(ListRequest),
    /// The routing table.
    Map {
        /// From this byte on.
        offset: u64,
    },
    /// Version, limits, figures.
    Stat,
    /// A blob is to be put by parts.
    Begin {
        /// Its key.
        key: Key,
    },
    /// What was written into a window is a part.
    Part(Part),
    /// The parts that were put are the blob.
    Finish {
        /// The put.
        put: PutId,
        /// The blob's length.
        length: Length,
        /// What kind of key it has.
        kind: KeyKind,
    },
    /// A put by parts goes on, or does not.
    Hold {
        /// The put.
        put: PutId,
        /// Whether it is given up.
        is_over: bool,
    },
}

impl Command {
    /// Its opcode.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Locate { .. } => Opcode::Locate,
            Self::Probe { .. } => Opcode::Probe,
            Self::Pin { .. } => Opcode::Pin,
            Self::Reserve { .. } => Opcode::Reserve,
            Self::Commit { .. } => Opcode::Commit,
            Self::Put => Opcode::Put,
            Self::Delete { .. } => Opcode::Delete,
            Self::List(_) => Opcode::List,
            Self::Map { .. } => Opcode::Map,
            Self::Stat => Opcode::Stat,
            Self::Begin { .. } => Opcode::Begin,
            Self::Part(_) => Opcode::Part,
            Self::Finish { .. } => Opcode::Finish,
            Self::Hold { .. } => Opcode::Hold,
        }
    }

    /// Its arguments.
    pub fn arguments(&self) -> Arguments {
        let mut arguments = Arguments::default();
        match self {
            Self::Locate { key } | Self::Delete { key } | Self::Begin { key } => {
                return Arguments::of_key(key);
            }
            Self::Probe { keys: count } | Self::Commit { records: count } => {
                arguments.0[2] = u32::from(*count);
            }
            Self::Pin { keys, time_ms } => {
                arguments.0[2] = u32::from(*keys);
                arguments.0[4] = *time_ms;
            }
            Self::Reserve { length, part } => {
                arguments.set_wide(2, length.get());
                if let Some(PartOf { put, number }) = part {
                    arguments.set_wide(0, put.0);
                    arguments.0[4] = u32::from(*number);
                    arguments.0[5] = OF_PART;
                }
            }
            Self::Part(part) => return part.arguments(),
            Self::Finish { put, length, kind } => {
                arguments.set_wide(0, put.0);
                arguments.set_wide(2, length.get());
                arguments.0[4] = u32::from(*kind == KeyKind::Content);
            }
            Self::Hold { put, is_over } => {
                arguments.set_wide(0, put.0);
                arguments.0[4] = u32::from(*is_over);
            }
            Self::List(ListRequest { cursor, prefix }) => {
                arguments.set_wide(0, u64::from_le_bytes(prefix.bytes));
                arguments.set_wide(2, cursor.0);
                arguments.0[4] = u32::from(prefix.length);
            }
            Self::Map { offset } => arguments.set_wide(2, *offset),
            Self::Put | Self::Stat => {}
        }
        arguments
    }

    /// Reads a command whose transfer has so many bytes.
    pub fn decode(
        opcode: u8,
        arguments: &Arguments,
        transfer_bytes: u64,
    ) -> Result<Self, DecodeError> {
        let opcode = Opcode::try_from(opcode)?;
        let command = match opcode {
            Opcode::Locate => Self::Locate {
                key: arguments.key(),
            },
            Opcode::Delete => Self::Delete {
                key: arguments.key(),
            },
            Opcode::Probe => {
                arguments.nothing_but(&[2])?;
                let keys = count(
                    arguments.0[2],
                    PROBE_KEYS_MAX,
                    "dword 10, the number of keys",
                )?;
                Self::Probe { keys }
            }
            Opcode::Pin => {
                arguments.nothing_but(&[2, 4])?;
                let most = PROBE_KEYS_MAX;
                let keys = count(arguments.0[2], most, "dword 10, the number of keys")?;
                let time_ms = arguments.0[4];
                Self::Pin { keys, time_ms }
            }
            Opcode::Commit => {
                arguments.nothing_but(&[2])?;
                let most = COMMIT_RECORDS_MAX;
                let records = count(arguments.0[2], most, "dword 10, the number of records")?;
                Self::Commit { records }
            }
            Opcode::Reserve => Self::Reserve {
                length: Length::decode(arguments.wide(2), "dwords 10 and 11, the length")?,
                part: decode_part_of(arguments)?,
            },
            Opcode::Begin => Self::Begin {
                key: arguments.key(),
            },
            Opcode::Part => Self::Part(Part::decode(arguments)?),
            Opcode::Finish => {
                arguments.nothing_but(&[0, 1, 2, 3, 4])?;
                let is_content = arguments.flag(4, "dword 12, the kind of key")?;
                Self::Finish {
                    put: PutId(arguments.wide(0)),
                    length: Length::decode(arguments.wide(2), "dwords 10 and 11, the length")?,
                    kind: if is_content {
                        KeyKind::Content
                    } else {
                        KeyKind::Name
                    },
                }
            }
            Opcode::Hold => {
                arguments.nothing_but(&[0, 1, 4])?;
                Self::Hold {
                    put: PutId(arguments.wide(0)),
                    is_over: arguments.flag(4, "dword 12, whether the put is over")?,
                }
            }
            Opcode::Put => {
                arguments.nothing_but(&[])?;
                Self::Put
            }
            Opcode::List => Self::List(decode_list(arguments)?),
            Opcode::Map => {
                arguments.nothing_but(&[2, 3])?;
                Self::Map {
                    offset: arguments.wide(2),
                }
            }
            Opcode::Stat => {
                arguments.nothing_but(&[])?;
                Self::Stat
            }
        };
        command.check_transfer(transfer_bytes)?;
        Ok(command)
    }

    /// Checks the bytes of a transfer that goes with it.
    fn check_transfer(&self, found: u64) -> Result<(), DecodeError> {
        let what = self.opcode().word();
        let (least, most) = self.transfer_bytes();
        if least == most && found != least {
            let expected = Expected::Exactly(least);
            return Err(DecodeError::Transfer {
                what,
                found,
                expected,
            });
        }
        DecodeError::transfer(what, found, least, most)
    }

    /// The least and the most bytes of its transfer.
    pub const fn transfer_bytes(&self) -> (u64, u64) {
        let most = TRANSFER_BYTES_MAX as u64;
        match self {
            Self::Locate { .. } => (LOCATION_BYTES as u64, LOCATION_BYTES as u64),
            Self::Delete { .. } | Self::Part(_) | Self::Finish { .. } | Self::Hold { .. } => (0, 0),
            Self::Begin { .. } => (BEGUN_BYTES as u64, BEGUN_BYTES as u64),
            Self::Probe { keys } | Self::Pin { keys, .. } => {
                let bytes = *keys as u64 * KEY_BYTES as u64;
                (bytes, bytes)
            }
            Self::Commit { records } => {
                let bytes = *records as u64 * RECORD_BYTES as u64;
                (bytes, bytes)
            }
            Self::Reserve { .. } => (WINDOW_BYTES as u64, WINDOW_BYTES as u64),
            Self::Put => (RECORD_BYTES as u64 + 4, most),
            Self::List(_) => ((LIST_HEADER_BYTES + LISTED_BYTES) as u64, most),
            Self::Map { .. } => (CHUNK_HEADER_BYTES as u64 + 4, most),
            Self::Stat => (STAT_BYTES as u64, STAT_BYTES as u64),
        }
    }
}

fn count(found: u32, most: usize, field: &'static str) -> Result<u8, DecodeError> {
    let expected = Expected::Between {
        least: 1,
        most: most as u64,
    };
    let holds = (1..=most as u32).contains(&found);
    DecodeError::check(holds, field, u64::from(found), expected)?;
    Ok(found as u8)
}

fn decode_part_of(arguments: &Arguments) -> Result<Option<PartOf>, DecodeError> {
    match arguments.flag(5, "dword 13, whether the window is for a part")? {
        false => arguments.nothing_but(&[2, 3]).map(|()| None),
        true => {
            arguments.nothing_but(&[0, 1, 2, 3, 4, 5])?;
            Ok(Some(PartOf {
                put: PutId(arguments.wide(0)),
                number: number_of_part(arguments.0[4], "dword 12, the number of the part")?,
            }))
        }
    }
}

fn decode_list(arguments: &Arguments) -> Result<ListRequest, DecodeError> {
    arguments.nothing_but(&[0, 1, 2, 3, 4])?;
    let length = arguments.0[4];
    let expected = Expected::Between {
        least: 0,
        most: PREFIX_BYTES_MAX as u64,
    };
    let field = "dword 12, the length of the prefix";
    DecodeError::check(
        length <= PREFIX_BYTES_MAX as u32,
        field,
        u64::from(length),
        expected,
    )?;
    let bytes = arguments.wide(0).to_le_bytes();
    DecodeError::zeros(
        "dwords 2 and 3 behind the prefix",
        &bytes[length as usize..],
    )?;
    let cursor = arguments.wide(2);
    let expected = Expected::Between {
        least: 0,
        most: NAMESPACE_BLOCKS,
    };
    DecodeError::check(
        cursor <= NAMESPACE_BLOCKS,
        "dwords 10 and 11, the cursor",
        cursor,
        expected,
    )?;
    Ok(ListRequest {
        cursor: Position(cursor),
        prefix: Prefix {
            bytes,
            length: length as u8,
        },
    })
}

/// The data of a PROBE or a PIN; `None` for no keys or more than there may be.
pub fn encode_keys(keys: &[Key]) -> Option<Vec<u8>> {
    let fits = (1..=PROBE_KEYS_MAX).contains(&keys.len());
    fits.then(|| keys.iter().flat_map(|key| *key.bytes()).collect())
}

/// The keys of a PROBE or a PIN, as many as the command said.
pub fn decode_keys(
    count: u8,
    data: &[u8],
) -> Result<impl ExactSizeIterator<Item = Key>, DecodeError> {
    DecodeError::length("the keys", data.len(), u64::from(count) * KEY_BYTES as u64)?;
    let (keys, _) = data.as_chunks::<KEY_BYTES>();
    Ok(keys.iter().map(|key| Key::new(*key)))
}
