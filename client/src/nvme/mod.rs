//! NVMe's own structures, as the base specification and that of fabrics lay them out: pure encoding and decoding.

pub mod command;
pub mod discovery;
pub mod fabrics;
pub mod identify;
pub mod status;

pub use command::{Command, Flow};
pub use status::{Completion, Status};
