//! Where in the log a blob is: a key's 128-bit fingerprint to its position, length and flags, in one cache line.
//!
//! ```text
//!   partition 0                          partition 1           ...     chosen by the key's hash
//!   ┌──────┬──────┬──────┬──────┬───     ┌──────┬──────┬───
//!   │ line │ line │ line │ line │ ...    │ line │ line │ ...          64 bytes: two entries (see `line`)
//!   └──────┴──────┴──────┴──────┴───     └──────┴──────┴───
//!   hints: 16 bits for each line         one writer each, readers everywhere
//! ```
//!
//! A key has a home line and one other line. Most are at home. The home's hint says, for each of eight classes of its
//! keys, whether any is elsewhere; so a lookup touches one line: the home, or the other line where the hint says so.
//! The places of hint and home depend on the key alone, so that their loads overlap.
//!
//! Without such a hint no table of two, three or four entries a line comes to 1.1 lines for a hit at 85 % full, however
//! its keys are placed: keys crowd their homes at random, and 22, 17 or 14 % of them find no room there.
//!
//! Invariants:
//! - Two keys are the same if all 128 bits are. An answer is never that of another key, nor half of one entry and
//!   half of another (see `line`), nor missing because the entry was just moved (see `table`).
//! - One writer for each partition, by type. Readers take no lock and write nothing but heat.
//! - What an earlier run left is used only if it was closed, and is verified line by line.
//!
//! What it does not do: it stores no keys and no blobs, and survives no crash. After one it is made anew from the
//! store's checkpoint and journal, by several threads at once ([`rebuild`]).

mod address;
mod entry;
mod layout;
mod line;
mod pause;
mod table;
mod writer;

#[cfg(not(loom))]
mod open;
#[cfg(not(loom))]
mod reader;
#[cfg(not(loom))]
mod rebuild;

#[cfg(all(test, loom))]
mod loom_tests;

pub use entry::{Entry, Fingerprint, Flags, Heat, Length, Position};
pub use layout::{IndexSize, SizeError};
#[cfg(not(loom))]
pub use open::{AdoptError, CloseError, CreateError};
#[cfg(not(loom))]
pub use reader::Index;
#[cfg(not(loom))]
pub use rebuild::{RebuildError, rebuild};
pub use table::Touched;
pub use writer::{InsertError, PositionRange, ReplaceError, Verification, Writer};
