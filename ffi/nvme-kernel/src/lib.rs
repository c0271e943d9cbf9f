//! A safe wrapper of Linux's own NVMe devices: a namespace's block device (`/dev/nvmeXnY`), and its character device
//! (`/dev/ngXnY`), which passes NVMe commands through.
//!
//! ```text
//!   Device     the namespace's two files, what it says of itself                  device.rs
//!   Held       memory that nobody looks at while the kernel may use it           held.rs
//!   Queue      operations under way, many at a time, for one thread              queue.rs
//!    ├─ Ring       by io_uring: reads and writes, and IORING_OP_URING_CMD        ring.rs
//!    └─ Crew       by threads that wait: pread, pwrite, NVME_IOCTL_IO64_CMD      crew.rs, call.rs
//! ```
//!
//! - Memory goes into a [`Held`] and comes out of it when all operations on it have ended, so nothing that the kernel may
//!   still write to is read, written or freed. A queue that is dropped with operations under way leaves their memory to
//!   the kernel for ever.
//! - A queue takes as many operations as it was made for and gives the next one back.
//! - It does not try again, wait for a controller that is away, or cut what is too long: that is its user's to decide.
//!
//! `abi.rs` has the kernel's structures and numbers, with their sizes asserted.

mod abi;
mod call;
mod crew;
mod device;
mod held;
mod operation;
mod queue;
mod ring;

pub use device::{Device, IDENTIFY_BYTES, Identified, OpenError};
pub use held::{Buffer, Held, Piece};
pub use operation::{Answer, Command, Operation};
pub use queue::{Ended, Means, Queue, QueueError, Waker};
pub use rustix::io::Errno;
