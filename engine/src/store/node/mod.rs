//! A store of many drives, used from many cores.
//!
//! One [`Log`](super::Log) is one drive on one core; a store has as many as it has drives, called **lanes** here, and what
//! this folder adds is where each key's blob belongs, and that this goes on being true while drives come, go, fail and come
//! back.
//!
//! ```text
//!   core 0                      core 1                         core 2
//!   NodeStore (clone)           NodeStore (clone)              NodeStore (clone)
//!      │ key ──► partition ──► drive                              │
//!      ├────────────────────────►├──── message, reply ───────────►│
//!   Seat: lane of drive 0       Seat: lanes of drives 1, 3     Seat: lane of drive 2
//!   Keeper: roster, table, mover
//! ```
//!
//! | file | |
//! |---|---|
//! | `place.rs` | which drive a key belongs on, and where else it may be; the invariant behind it |
//! | `roster.rs`, `ledger.rs` | what is written to every drive about all of them, and who may change it |
//! | `table.rs` | the same for all cores, with a version |
//! | `gate.rs` | changes of one version of the table at a time |
//! | `seat.rs`, `lane.rs`, `kept.rs` | a drive on its core, and its index |
//! | `handle.rs`, `reads.rs`, `position.rs`, `whole.rs`, `pins.rs` | what users call: [`NodeStore`] |
//! | `parts.rs`, `parted.rs`, `large_put.rs`, `parts_put.rs`, `puts.rs`, `sweep.rs` | blobs longer than a slab, in parts on all drives |
//! | `open.rs`, `keeper.rs`, `changes.rs`, `mover.rs` | opening; drives that come and go; blobs that go home |
//!
//! **Positions** are the store's: the namespace is cut into slots, which the roster leases to drives one by one, so a
//! position says which drive it is on, and none is ever used twice.
//!
//! **Drives that outrun a core** are split before they come here, by SPDK's split devices: a lane on each part, on a core
//! of its own. So a blobstore, its metadata thread, its extents and its failure are one drive's everywhere in this folder.
//!
//! **What it does not do:** it keeps no second copy of a blob, so what is on a lost drive is gone with it; copies are made
//! above, by stripes over nodes.

mod changes;
mod error;
mod gate;
mod handle;
mod join;
mod keeper;
mod kept;
mod lane;
mod large_put;
mod ledger;
mod mover;
mod observe;
mod open;
mod parted;
mod parts;
mod parts_put;
mod pins;
mod place;
mod position;
mod puts;
mod reads;
mod roster;
mod seat;
mod shelf;
mod sweep;
mod table;
mod visit;
mod whole;

pub use error::{ChangeError, DriveLabel, Loss, NodeError, NodeOpenError};
pub use handle::NodeStore;
pub use keeper::Keeper;
pub use kept::{IndexPlace, remove_old_indexes};
pub use large_put::LargePut;
pub use observe::{DriveMetrics, NodeMetrics};
pub use open::{NodeFormat, NodeOptions, NodeRecovery, Sleep, format_node, open_node};
pub use parts::Found;
pub use parts_put::PartsPut;
pub use place::DriveNumber;
pub use reads::NodePage;
pub use roster::Voters;
pub use seat::{Guest, NoGuest, NodeDrive, ReadEnd, Seat};
pub use table::Departed;
pub use whole::{DriveStat, NodeStat};
