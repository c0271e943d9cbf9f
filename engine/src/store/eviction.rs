//! Which blob of a cache goes first: pure policies, fed by what happens to blobs, each by its fingerprint.
//!
//! A policy keeps 32 bytes of a blob and its place in a hash table, beside what the store keeps.

mod lru;
mod queues;
mod s3fifo;

use oriel_dht::index::Fingerprint;

use lru::Lru;
use s3fifo::S3Fifo;

/// How often a blob that is passed over may come again before all others have come: from the queue it was in, once for each
/// use that others of S3-FIFO's main queue may have left, and once more.
pub(super) const LOOKS_MAX: u64 = s3fifo::USES_MAX as u64 + 2;

/// How a cache chooses what goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// What was not used for longest.
    Lru,
    /// What was not used again soon after it came, then what was not used for long: three queues, in which a scan of many
    /// blobs does not push out those that are used.
    S3Fifo,
}

/// A policy at work.
pub(super) trait Eviction {
    /// A blob has come.
    fn inserted(&mut self, blob: Fingerprint, blocks: u64);
    /// It was used; nothing if it is not known.
    fn accessed(&mut self, blob: Fingerprint);
    /// It is gone, or about to go; nothing if it is not known.
    fn removed(&mut self, blob: Fingerprint);
    /// The one that goes next, and its blocks. It stays known until it is removed.
    fn victim(&mut self) -> Option<(Fingerprint, u64)>;
    /// This one may not go now: others come before it.
    fn spare(&mut self, blob: Fingerprint);
}

impl Policy {
    pub(super) fn begin(self) -> Box<dyn Eviction> {
        match self {
            Self::Lru => Box::new(Lru::default()),
            Self::S3Fifo => Box::new(S3Fifo::default()),
        }
    }
}
