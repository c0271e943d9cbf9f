//! The blob protocol: what a node and its clients say to each other beside NVMe's own READ, WRITE and FLUSH.
//!
//! ```text
//!   64-byte command                               data of the transfer                     completion, dword 0
//!   ┌───────────┬───────────────────────────┐
//!   │ opcode    │ Arguments: dwords 2, 3,   │     Location · Window · Page · Chunk · Begun · Stat  ◄── to the host
//!   │ (Opcode)  │ 10 to 15 (Command)        │     keys · Blob records · record and bytes    ──► to the controller
//!   └───────────┴───────────────────────────┘                                                  (`result`)
//! ```
//!
//! Everything that arrives is decoded strictly: each length, count and offset is held against the bytes that are really
//! there, reserved fields are zero, and flags that this version does not know are refused. A decoder reads a value or says
//! which field is wrong, what it is and what it has to be; what it reads encodes to the same bytes again. Nothing here
//! allocates by a number from the wire, panics on one, or does any I/O.
//!
//! All numbers are little-endian. `docs/protocol.md` is the same, byte by byte, for those who write in another language.
#![forbid(unsafe_code)]

mod command;
mod error;
pub mod limits;
mod list;
mod location;
mod map;
mod opcode;
pub mod parts;
mod record;
mod reserve;
pub mod result;
mod stat;
mod status;
pub mod trailer;
mod units;

pub use command::{Arguments, Command, ListRequest, Prefix, decode_keys, encode_keys};
pub use error::{DecodeError, Expected};
pub use list::{LIST_HEADER_BYTES, Listed, Page, PageRecords};
pub use location::{Checksum, LOCATION_BYTES, Located, Location, Place, Vector};
pub use map::{CHUNK_HEADER_BYTES, Chunk};
pub use opcode::{Direction, Opcode};
pub use parts::{BEGUN_BYTES, Begun, InParts, Part, PartOf, PutId};
pub use record::{
    Blob, RECORD_BYTES, decode_commit, decode_put, encode_commit, encode_put, put_bytes,
};
pub use reserve::{WINDOW_BYTES, Window};
pub use stat::{STAT_BYTES, Stat};
pub use status::{Advice, Status};
pub use units::{Epoch, Key, KeyKind, Length, Position, StoreId};

/// What the names of all realms' subsystems begin with; node and realm follow, with a colon between them.
pub const SUBSYSTEM_PREFIX: &str = "nqn.2026-11.io.oriel:";

/// The version of all that this crate describes. STAT tells it; a client of another version goes no further.
pub const PROTOCOL_VERSION: u32 = 2;
