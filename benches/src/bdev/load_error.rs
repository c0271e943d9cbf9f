//! What can end a job.

use oriel_spdk::bdev::{IoError, Rejection};

use crate::load::course::Operation;
use crate::load::pattern::Mismatch;

/// What went wrong with a job's I/O.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoadError {
    #[error("a {operation} at block {block} failed: {source}")]
    Io {
        operation: Operation,
        block: u64,
        source: IoError,
    },
    #[error("a {operation} at block {block} was not taken: {source}")]
    Refused {
        operation: Operation,
        block: u64,
        source: Rejection,
    },
    #[error("{0}")]
    Mismatch(Mismatch),
    #[error("a reset of the drive failed: {0}")]
    Reset(IoError),
    #[error("the drive was removed")]
    Removed,
}
