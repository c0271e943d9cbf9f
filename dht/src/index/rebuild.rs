//! Filling an index from several sources at once, each on a thread of its own.
//!
//! A source has keys of all partitions, and a partition has one writer. So each thread sorts its keys into a tray for
//! every partition, and empties a full tray with the partition's writer in hand, which is locked for that long.

use std::sync::{Mutex, PoisonError};

use super::entry::{Entry, Fingerprint};
use super::reader::Index;
use super::writer::{InsertError, Writer};

/// Keys that wait for their writer: enough to make the lock's cost nothing, few enough to stay in the cache.
const TRAY: usize = 128;
/// Keys whose memory is on the way ahead of the one being inserted.
const AHEAD: usize = 8;

/// Why a rebuild stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// More than the index has room for.
    #[error(
        "the index is too small for what it is rebuilt from: {entries} entries fill a partition of {slots} places; make it larger"
    )]
    Full {
        /// Entries of the partition that is full.
        entries: u64,
        /// Its places.
        slots: u64,
    },
}

/// Inserts what the sources yield, each source on a thread of its own. Where a key comes more than once, the entry with
/// the highest position stays: it is the youngest, since positions of the log only grow. Returns the entries that the
/// writers have then, and stops at the first error.
pub fn rebuild<S>(
    index: &Index,
    writers: &mut [Writer],
    sources: Vec<S>,
) -> Result<u64, RebuildError>
where
    S: Iterator<Item = (Fingerprint, Entry)> + Send,
{
    let writers: Vec<Mutex<&mut Writer>> = writers.iter_mut().map(Mutex::new).collect();
    assert_eq!(
        writers.len(),
        index.partitions() as usize,
        "a rebuild takes all writers"
    );
    let outcomes: Vec<Result<(), RebuildError>> = std::thread::scope(|scope| {
        let writers = &writers;
        let threads: Vec<_> = sources
            .into_iter()
            .map(|source| scope.spawn(move || pour(index, writers, source)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    outcomes.into_iter().collect::<Result<(), _>>()?;
    let entries = |writer: &Mutex<&mut Writer>| {
        let writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.entries()
    };
    Ok(writers.iter().map(entries).sum())
}

fn pour(
    index: &Index,
    writers: &[Mutex<&mut Writer>],
    source: impl Iterator<Item = (Fingerprint, Entry)>,
) -> Result<(), RebuildError> {
    let mut trays = vec![Vec::with_capacity(TRAY); writers.len()];
    for item in source {
        let partition = index.partition_of(item.0) as usize;
        trays[partition].push(item);
        if trays[partition].len() == TRAY {
            empty(&mut trays[partition], &writers[partition])?;
        }
    }
    for (tray, writer) in trays.iter_mut().zip(writers) {
        empty(tray, writer)?;
    }
    Ok(())
}

fn empty(
    tray: &mut Vec<(Fingerprint, Entry)>,
    writer: &Mutex<&mut Writer>,
) -> Result<(), RebuildError> {
    // A thread that panicked with the writer in hand takes the whole rebuild down with it, when it is joined.
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    for (at, (fingerprint, entry)) in tray.iter().enumerate() {
        if let Some((later, _)) = tray.get(at + AHEAD) {
            writer.prefetch(*later);
        }
        match writer.insert(*fingerprint, *entry) {
            Ok(()) => {}
            Err(InsertError::Full { entries, slots, .. }) => {
                return Err(RebuildError::Full { entries, slots });
            }
            Err(InsertError::Present { present, given }) => {
                if given.position > present.position {
                    // It is at `present.position`: the writer is in our hand.
                    let replaced =
                        writer.replace_if_unchanged(*fingerprint, present.position, given);
                    debug_assert!(replaced.is_ok());
                }
            }
        }
    }
    tray.clear();
    Ok(())
}
