//! The store's calls, in this one place, and the seam under it as a side of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use oriel_engine::reactor::{JoinHandle, RemoteError, spawn_local};
use oriel_engine::store::{
    BLOCK_BYTES, Drive, DriveError, ExtentName, FormatOptions, IndexError, KeepError, Key, KeyKind,
    Log, LogMetrics, NodeError, NodeOpenError, Observe, OpenError, OpenOptions, Put, RealmId,
    RealmOptions, SpdkBuf, SpdkDrive, SpdkDriveError, SpdkExtent, StoreError, StoreId, format,
    index_in_memory, open, window_blocks,
};
use oriel_spdk::DmaBuf;
use oriel_spdk::bdev::{self, Access, BdevDesc, BlockRange};
use oriel_spdk::dma::NoDmaMemory;

use crate::load::rng::{Rng, mix};

pub(super) const REALM: RealmId = RealmId(0);
pub(super) const STORE: StoreId = StoreId(*b"oriel-perf store");

/// Why a side could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SideError {
    #[error(transparent)]
    Device(#[from] SpdkDriveError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Region(#[from] oriel_dht::region::CloseError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    OpenNode(#[from] NodeOpenError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(
        "the store holds no blob of {bytes} bytes under number {number}: it lost one that it had acknowledged"
    )]
    Lost { number: u64, bytes: u64 },
    #[error("a blob of number {number} was there before it was put")]
    There { number: u64 },
    #[error(transparent)]
    Bdev(#[from] bdev::OpenError),
    #[error(transparent)]
    Channel(#[from] bdev::ChannelError),
    #[error(transparent)]
    Request(#[from] bdev::RequestError),
    #[error(transparent)]
    Memory(#[from] NoDmaMemory),
    #[error("the reactor takes no more tasks: give less with -q")]
    NoTask,
}

/// What blobs can be put to and got from.
pub(super) trait Target: 'static {
    /// Bytes that nobody looks at, as the raw device's load has them.
    async fn put(&self, number: u64, bytes: u64) -> Result<(), SideError>;
    async fn get(&self, number: u64, bytes: u64) -> Result<(), SideError>;
    /// Has buffers at hand for so many blobs to be got at once.
    fn prepare(&self, bytes: u64, count: u32) -> Result<(), SideError>;
}

/// How a store is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) slab_bytes: u64,
    pub(super) blobs_max: u64,
    /// Whether what is read is checked.
    pub(super) verify: bool,
    pub(super) observe: Observe,
}

/// Buffers by their size, kept with what is in them: the raw device's load fills its own once as well.
#[derive(Default)]
struct Buffers(RefCell<BTreeMap<usize, Vec<SpdkBuf>>>);

impl Buffers {
    fn take(&self, drive: &SpdkDrive, blocks: u64) -> Result<SpdkBuf, DriveError> {
        let bytes = blocks as usize * BLOCK_BYTES;
        let kept = self.0.borrow_mut().get_mut(&bytes).and_then(Vec::pop);
        if let Some(buf) = kept {
            return Ok(buf);
        }
        let mut buf = drive.buffer(bytes)?;
        let mut rng = Rng::new(bytes as u64);
        let (first, rest) = buf.as_mut().split_at_mut(BLOCK_BYTES);
        for word in first.chunks_exact_mut(8) {
            word.copy_from_slice(&rng.next().to_le_bytes());
        }
        for block in rest.chunks_exact_mut(BLOCK_BYTES) {
            block.copy_from_slice(first);
        }
        Ok(buf)
    }

    fn prepare(&self, drive: &SpdkDrive, blocks: u64, count: u32) -> Result<(), SideError> {
        let taken: Result<Vec<_>, _> = (0..count).map(|_| self.take(drive, blocks)).collect();
        taken?.into_iter().for_each(|buf| self.keep(buf));
        Ok(())
    }

    fn keep(&self, buf: SpdkBuf) {
        let mut kept = self.0.borrow_mut();
        kept.entry(buf.as_ref().len()).or_default().push(buf);
    }
}

/// Zeroes a device's first block, so that nobody takes it for his.
pub(super) async fn wipe(device: &str) -> Result<(), SideError> {
    let desc = BdevDesc::open(device, Access::ReadWrite, |_| {})?;
    let zero = DmaBuf::zeroed(64 << 10, desc.buffer_align())?;
    let blocks = zero.len() as u64 / u64::from(desc.block_size());
    let channel = desc.channel()?;
    channel.write_at(zero, BlockRange::new(0, blocks)).await.1?;
    Ok(())
}

// ---- The store ----------------------------------------------------------------------------------------------------------

pub(crate) fn key(number: u64) -> Key {
    let mut bytes = [0; 32];
    for (word, place) in (1..).zip(bytes.chunks_exact_mut(8)) {
        place.copy_from_slice(&mix(number.wrapping_mul(4) + word).to_le_bytes());
    }
    Key::new(bytes)
}

pub(super) struct Store {
    log: Rc<Log<SpdkDrive>>,
    drive: SpdkDrive,
    writer: JoinHandle<Result<(), StoreError>>,
    buffers: Buffers,
}

impl Store {
    /// An empty store on a device; what was there is lost.
    pub(super) async fn fresh(device: &str, shape: Shape) -> Result<Self, SideError> {
        wipe(device).await?;
        let sizes = FormatOptions {
            slab_blocks: shape.slab_bytes / BLOCK_BYTES as u64,
            ..FormatOptions::default()
        };
        let drive = SpdkDrive::format(device, &sizes).await?;
        format(&drive, STORE, &sizes).await?;
        let options = OpenOptions {
            store: Some(STORE),
            blobs_max: shape.blobs_max,
            realms: vec![RealmOptions {
                verify: shape.verify,
                ..RealmOptions::new(REALM)
            }],
            observe: shape.observe,
            ..OpenOptions::default()
        };
        let index = index_in_memory(options.blobs_max)?;
        let (log, _) = open(drive.clone(), index, &options).await?;
        let log = Rc::new(log);
        let running = Rc::clone(&log);
        let writer = spawn_local("journal", async move { running.run().await });
        Ok(Self {
            log,
            drive,
            writer: writer.map_err(|_| SideError::NoTask)?,
            buffers: Buffers::default(),
        })
    }

    /// Which of 32 keys are there, a bit for each.
    pub(super) fn probe(&self, keys: &[Key; 32]) -> u64 {
        self.log.probe(REALM, keys)
    }

    pub(super) fn metrics(&self) -> LogMetrics {
        self.log.metrics()
    }

    pub(super) async fn close(self) -> Result<(), SideError> {
        self.log.close();
        self.writer.await?;
        drop(self.buffers);
        self.drive.close().await?;
        Ok(())
    }
}

impl Target for Store {
    async fn put(&self, number: u64, bytes: u64) -> Result<(), SideError> {
        let buf = self.buffers.take(&self.drive, window_blocks(bytes))?;
        let put = self
            .log
            .put_buf(REALM, key(number), KeyKind::Name, buf, bytes);
        let (buf, put) = put.await;
        self.buffers.keep(buf);
        match put? {
            Put::Created => Ok(()),
            Put::AlreadyThere => Err(SideError::There { number }),
        }
    }

    async fn get(&self, number: u64, bytes: u64) -> Result<(), SideError> {
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
        let buf = self.buffers.take(&self.drive, blocks)?;
        let (buf, read) = self.log.read_into(REALM, &key(number), 0, buf).await;
        self.buffers.keep(buf);
        match read? {
            Some(found) if found == bytes => Ok(()),
            _ => Err(SideError::Lost { number, bytes }),
        }
    }

    fn prepare(&self, bytes: u64, count: u32) -> Result<(), SideError> {
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
        self.buffers.prepare(&self.drive, blocks, count)
    }
}

// ---- The seam under it --------------------------------------------------------------------------------------------------

/// One extent, its blobs at fixed places: what the store could do if it did nothing but transfers.
pub(super) struct Seam {
    drive: SpdkDrive,
    extent: SpdkExtent,
    blocks: u64,
    buffers: Buffers,
}

impl Seam {
    pub(super) async fn fresh(
        device: &str,
        blob_bytes: u64,
        bytes: u64,
    ) -> Result<Self, SideError> {
        wipe(device).await?;
        // Nothing is in slabs here, and the default ones would not fit a small drive.
        let sizes = FormatOptions {
            slab_blocks: (64 << 20) / BLOCK_BYTES as u64,
            ..FormatOptions::default()
        };
        let drive = SpdkDrive::format(device, &sizes).await?;
        let blocks = blob_bytes.div_ceil(BLOCK_BYTES as u64);
        let room = drive.free_blocks().min(bytes / BLOCK_BYTES as u64) / blocks * blocks;
        let extent = drive.create(ExtentName::Slab(1), room).await?;
        Ok(Self {
            drive,
            extent,
            blocks,
            buffers: Buffers::default(),
        })
    }

    pub(super) async fn close(self) -> Result<(), SideError> {
        drop(self.extent);
        self.drive.close().await?;
        Ok(())
    }

    fn place(&self, number: u64) -> u64 {
        number % (self.drive.blocks(&self.extent) / self.blocks) * self.blocks
    }
}

impl Target for Seam {
    async fn put(&self, number: u64, _: u64) -> Result<(), SideError> {
        let buf = self.buffers.take(&self.drive, self.blocks)?;
        let at = self.place(number);
        let (buf, written) = self.drive.write(&self.extent, at, buf).await;
        self.buffers.keep(buf);
        Ok(written?)
    }

    async fn get(&self, number: u64, _: u64) -> Result<(), SideError> {
        let buf = self.buffers.take(&self.drive, self.blocks)?;
        let at = self.place(number);
        let (buf, read) = self.drive.read(&self.extent, at, buf).await;
        self.buffers.keep(buf);
        Ok(read?)
    }

    fn prepare(&self, _: u64, count: u32) -> Result<(), SideError> {
        self.buffers.prepare(&self.drive, self.blocks, count)
    }
}
