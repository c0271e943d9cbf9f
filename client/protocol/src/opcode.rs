//! The vendor commands by number.

use std::fmt;

use crate::error::DecodeError;

/// Where a command's data goes. NVMe has it in bits 1:0 of the opcode of a vendor-specific command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// There are none.
    None,
    /// From host to controller.
    ToController,
    /// From controller to host.
    ToHost,
}

impl Direction {
    /// What an opcode says: "Data Transfer" of the NVMe base specification, 00b none, 01b to the controller, 10b to the
    /// host. 11b, both, is used by no command here.
    pub const fn of(opcode: u8) -> Option<Self> {
        match opcode & 3 {
            0 => Some(Self::None),
            1 => Some(Self::ToController),
            2 => Some(Self::ToHost),
            _ => None,
        }
    }
}

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $direction:ident, $word:literal;)*) => {
        /// A vendor command of the blob protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Opcode {
            $($(#[$doc])* $name = $number,)*
        }

        impl Opcode {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The command's name, as documents have it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// Where its data goes.
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction,)* }
            }
        }

        impl TryFrom<u8> for Opcode {
            type Error = DecodeError;

            fn try_from(number: u8) -> Result<Self, DecodeError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    found => Err(DecodeError::Opcode { found }),
                }
            }
        }

        // The opcode's own bits have to say the same, or the transport moves the data the wrong way; and vendor-specific
        // I/O commands begin at 80h.
        $(const _: () = assert!($number >= 0x80 && matches!(Direction::of($number), Some(Direction::$direction)));)*
    };
}

opcodes! {
    /// Key to window.
    Locate = 0x82, ToHost, "LOCATE";
    /// Takes a key away.
    Delete = 0x84, None, "DELETE";
    /// Which of up to 32 keys are there.
    Probe = 0x85, ToController, "PROBE";
    /// A window to write.
    Reserve = 0x86, ToHost, "RESERVE";
    /// Makes windows that were written blobs.
    Commit = 0x89, ToController, "COMMIT";
    /// Keys, by their places in the log.
    List = 0x8a, ToHost, "LIST";
    /// A blob in one transfer.
    Put = 0x8d, ToController, "PUT";
    /// The routing table.
    Map = 0x8e, ToHost, "MAP";
    /// What was written into a window is a part of a blob.
    Part = 0x90, None, "PART";
    /// Keeps blobs of a cache for a time, or does not any more.
    Pin = 0x91, ToController, "PIN";
    /// Version, limits and figures.
    Stat = 0x92, ToHost, "STAT";
    /// A blob's parts become the blob.
    Finish = 0x94, None, "FINISH";
    /// A put by parts, of a blob that is longer than a window can be.
    Begin = 0x96, ToHost, "BEGIN";
    /// A put by parts goes on, or is given up.
    Hold = 0x98, None, "HOLD";
}

impl Opcode {
    /// The number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether a command that was sent and may have been done can be sent again without being asked: those that only
    /// look. COMMIT, PUT, PART and DELETE come to the same end twice, but their answers then tell less.
    pub const fn only_looks(self) -> bool {
        matches!(
            self,
            Self::Locate | Self::Probe | Self::List | Self::Map | Self::Stat
        )
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
