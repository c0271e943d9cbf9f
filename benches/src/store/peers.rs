//! What people would use instead, on the same file system: plain files, and the crate foyer. Both put blobs until they
//! are durable, on threads of their own.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder,
    HybridCachePolicy,
};
use oriel_engine::reactor::sleep;

use super::load::{Course, Done, payload};
use crate::load::histogram::Latencies;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A file for each blob: written, its data flushed, and its folder flushed so that its name is durable.
    Files,
    /// foyer's cache with its block engine: as many blobs as are to be in flight inserted, its own queue waited for, and
    /// its files flushed, which it does not do itself.
    Foyer,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PeerError {
    #[error("the folder of the peers cannot be used: {0}")]
    Io(#[from] std::io::Error),
    #[error("foyer: {0}")]
    Foyer(String),
    #[error("a thread of the peers died")]
    Died,
}

/// Threads beyond this do not make a disk faster.
const THREADS_MAX: u32 = 32;
const MEMORY_OF_FOYER: usize = 64 << 20;

/// Puts blobs in a folder of its own below `directory`, which is gone afterwards.
pub(super) async fn put(peer: Peer, directory: &Path, course: Course) -> Result<Done, PeerError> {
    let folder = tempfile::Builder::new()
        .prefix("oriel-perf-peer-")
        .tempdir_in(directory)?;
    let path = folder.path().to_owned();
    let (send, done) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("peer".into())
        .spawn(move || {
            let result = match peer {
                Peer::Files => files(&path, &course),
                Peer::Foyer => foyer(&path, &course),
            };
            // Whoever asked is still there, or nobody wants to know.
            let _ = send.send(result);
        })?;
    let result = loop {
        match done.try_recv() {
            Ok(result) => break result,
            Err(mpsc::TryRecvError::Empty) => sleep(Duration::from_millis(1)).await,
            Err(mpsc::TryRecvError::Disconnected) => break Err(PeerError::Died),
        }
    };
    thread.join().map_err(|_| PeerError::Died)?;
    result
}

// ---- Files --------------------------------------------------------------------------------------------------------------

fn files(directory: &Path, course: &Course) -> Result<Done, PeerError> {
    let payload = payload(course.sizes.largest());
    let next = AtomicU64::new(0);
    let total = Mutex::new((0, 0, Duration::ZERO));
    let start = Instant::now();
    let work = || -> Result<(), PeerError> {
        let folder = File::open(directory)?;
        let (mut blobs, mut bytes) = (0, 0);
        while start.elapsed() < course.time {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let size = course.sizes.of(number);
            if (number + 1) * course.sizes.mean() > course.put_bytes_max {
                break;
            }
            let mut file = File::create(directory.join(number.to_string()))?;
            file.write_all(&payload[..size as usize])?;
            file.sync_data()?;
            folder.sync_all()?;
            blobs += 1;
            bytes += size;
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        *total = (total.0 + blobs, total.1 + bytes, start.elapsed());
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..course.depth.min(THREADS_MAX))
            .map(|_| scope.spawn(work))
            .collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(PeerError::Died)));
        ended.fold(Ok(()), Result::and)
    })?;
    let (blobs, bytes, time) = *total.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(done(blobs, bytes, time))
}

fn done(blobs: u64, bytes: u64, time: Duration) -> Done {
    Done {
        blobs,
        bytes,
        seconds: time.as_secs_f64(),
        latencies: Latencies::new(),
    }
}

// ---- foyer --------------------------------------------------------------------------------------------------------------

fn foyer(directory: &Path, course: &Course) -> Result<Done, PeerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(foyer_puts(directory, course));
    runtime.shutdown_timeout(Duration::from_secs(10));
    ended
}

async fn foyer_puts(directory: &Path, course: &Course) -> Result<Done, PeerError> {
    let failed = |error: foyer::Error| PeerError::Foyer(error.to_string());
    // A block holds a blob with what foyer writes before it.
    let block = (2 * course.sizes.largest())
        .next_power_of_two()
        .max(16 << 20) as usize;
    let room = (course.put_bytes_max as usize * 2).next_multiple_of(block) + 4 * block;
    // Its default drops what does not fit its buffers: these hold all that is in flight.
    let in_flight = course.depth as usize * course.sizes.largest() as usize;
    let device = FsDeviceBuilder::new(directory)
        .with_capacity(room)
        .with_direct(true)
        .build()
        .map_err(failed)?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(block)
        .with_flushers(2)
        .with_buffer_pool_size((4 * in_flight).max(64 << 20))
        .with_submit_queue_size_threshold((4 * in_flight).max(64 << 20));
    let cache: HybridCache<u64, Vec<u8>> = HybridCacheBuilder::new()
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(MEMORY_OF_FOYER)
        .with_weighter(|_, blob: &Vec<u8>| blob.len())
        .storage()
        .with_engine_config(engine)
        .build()
        .await
        .map_err(failed)?;
    let files: Vec<File> = fs::read_dir(directory)?
        .map(|entry| File::open(entry?.path()))
        .collect::<Result<_, _>>()?;
    let files = Arc::new(files);
    let payload = payload(course.sizes.largest());
    let (mut next, mut bytes) = (0, 0);
    let start = Instant::now();
    let mut took = Duration::ZERO;
    while start.elapsed() < course.time {
        let mut batch = 0;
        for number in next..next + u64::from(course.depth) {
            let size = course.sizes.of(number);
            if bytes + size > course.put_bytes_max {
                break;
            }
            cache.insert(number, payload[..size as usize].to_vec());
            bytes += size;
            batch += 1;
        }
        cache.storage().wait().await;
        for file in files.iter() {
            file.sync_data()?;
        }
        next += batch;
        took = start.elapsed();
        if batch < u64::from(course.depth) {
            break;
        }
    }
    // Blobs that it dropped were fast, and are not there.
    let mut kept = 0;
    for number in 0..next {
        kept += u64::from(cache.storage().may_contains(&number));
    }
    cache.close().await.map_err(failed)?;
    let share = kept as f64 / next.max(1) as f64;
    Ok(done(kept, (bytes as f64 * share) as u64, took))
}
