//! What all tables can do, wherever their lines lie.

use super::line::{Line, LineError};
use super::units::{Key, PartitionId, Partitions};

/// A table of lines: of this process ([`Ring`](super::Ring)), in bytes that somebody sent ([`RingView`](super::RingView))
/// or in memory that others write to ([`SharedTable`](super::SharedTable)).
pub trait Table {
    /// The number of partitions.
    fn partitions(&self) -> Partitions;

    /// The line of a partition, one cache line read.
    ///
    /// # Errors
    ///
    /// The line is damaged, or there is no such partition.
    fn line(&self, partition: PartitionId) -> Result<Line, LineError>;

    /// Who owns a key: the line of its partition.
    ///
    /// # Errors
    ///
    /// The line is damaged.
    #[inline]
    fn lookup(&self, key: &Key) -> Result<Line, LineError> {
        self.line(self.partitions().of(key))
    }
}
