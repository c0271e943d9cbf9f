//! What cannot be decoded.

use std::fmt;

use crate::status::Status;

/// What a field has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Expected {
    /// This number.
    Exactly(u64),
    /// A number within bounds, both included. Nothing fits where `most` is less than `least`.
    Between {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Nothing but these bits.
    Bits(u64),
    /// A multiple of this number, and no more than that.
    MultipleOf {
        /// The unit.
        unit: u64,
        /// The most.
        most: u64,
    },
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exactly(number) => write!(f, "{number}"),
            Self::Between { least, most } if least > most => {
                write!(f, "absent: nothing fits there")
            }
            Self::Between { least, most } => write!(f, "from {least} to {most}"),
            Self::Bits(bits) => write!(f, "made of the bits {bits:#x} alone"),
            Self::MultipleOf { unit, most } => write!(f, "a multiple of {unit} and at most {most}"),
        }
    }
}

/// Why bytes are not what they should be. Both sides speak of the same field, so the sentence helps either to find who is
/// wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// No command of this protocol.
    #[error(
        "opcode {found:#04x} is no command of version {} of the blob protocol: update the side that is older",
        crate::PROTOCOL_VERSION
    )]
    Opcode {
        /// The opcode.
        found: u8,
    },
    /// The transfer has another length than the command goes with.
    #[error(
        "the transfer of {what} has {found} bytes, which has to be {expected}: send it with that length"
    )]
    Transfer {
        /// Of what.
        what: &'static str,
        /// Bytes there are.
        found: u64,
        /// Bytes there have to be.
        expected: Expected,
    },
    /// A field that no sender of this version fills so.
    #[error("{field} is {found}, which has to be {expected}: mend or update the sender")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it has to be.
        expected: Expected,
    },
    /// Bytes that do not have the checksum that stands beside them.
    #[error(
        "{what} has the checksum {found:#010x}, not {expected:#010x}: read it again, and look at the drive if that stays"
    )]
    Checksum {
        /// Of what.
        what: &'static str,
        /// That of the bytes.
        found: u32,
        /// The one that stands beside them.
        expected: u32,
    },
}

impl DecodeError {
    /// The status that a node completes such a command with.
    pub const fn status(&self) -> Status {
        match self {
            Self::Opcode { .. } => Status::InvalidOpcode,
            Self::Transfer { .. } => Status::DataLengthInvalid,
            Self::Field { .. } | Self::Checksum { .. } => Status::InvalidField,
        }
    }

    pub(crate) fn check(
        holds: bool,
        field: &'static str,
        found: u64,
        expected: Expected,
    ) -> Result<(), Self> {
        match holds {
            true => Ok(()),
            false => Err(Self::Field {
                field,
                found,
                expected,
            }),
        }
    }

    pub(crate) fn exactly(field: &'static str, found: u64, expected: u64) -> Result<(), Self> {
        Self::check(found == expected, field, found, Expected::Exactly(expected))
    }

    /// Checks flags.
    pub(crate) fn bits(field: &'static str, found: u64, known: u64) -> Result<(), Self> {
        Self::check(found & !known == 0, field, found, Expected::Bits(known))
    }

    /// Checks a reserved field.
    pub(crate) fn zeros(field: &'static str, bytes: &[u8]) -> Result<(), Self> {
        match bytes.iter().find(|byte| **byte != 0) {
            None => Ok(()),
            Some(byte) => Self::exactly(field, u64::from(*byte), 0),
        }
    }

    pub(crate) fn length(what: &'static str, found: usize, expected: u64) -> Result<(), Self> {
        let found = found as u64;
        match found == expected {
            true => Ok(()),
            false => Err(Self::Transfer {
                what,
                found,
                expected: Expected::Exactly(expected),
            }),
        }
    }

    /// Checks a length within bounds, in units.
    pub(crate) fn transfer(
        what: &'static str,
        found: u64,
        least: u64,
        most: u64,
    ) -> Result<(), Self> {
        let unit = u64::from(crate::limits::TRANSFER_UNIT);
        if !(least..=most).contains(&found) {
            return Err(Self::Transfer {
                what,
                found,
                expected: Expected::Between { least, most },
            });
        }
        match found.is_multiple_of(unit) {
            true => Ok(()),
            false => Err(Self::Transfer {
                what,
                found,
                expected: Expected::MultipleOf { unit, most },
            }),
        }
    }
}

/// The bytes of a wire struct, exactly as many as it has.
pub(crate) fn read<T: zerocopy::FromBytes>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    let wrong = || DecodeError::Transfer {
        what,
        found: bytes.len() as u64,
        expected: Expected::Exactly(size_of::<T>() as u64),
    };
    T::read_from_bytes(bytes).map_err(|_| wrong())
}
