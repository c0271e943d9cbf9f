//! A drive in memory that forgets what was not flushed when its power goes.
//!
//! What is written is seen by reads at once, and durable after the next flush. At the crash every write since then is
//! there, or not, or in a part of its blocks; and a call that was under way has had its effect or has not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use oriel_engine::store::{BLOCK_BYTES, Drive, DriveError, ExtentName, Transferred};

type Extents = BTreeMap<ExtentName, Vec<u8>>;

/// What is on a drive without power.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Image(pub(crate) Extents);

struct Write {
    number: u64,
    name: ExtentName,
    block: u64,
    bytes: Vec<u8>,
}

/// What was under way when the power went, and may have had its effect.
enum UnderWay {
    Create(ExtentName, u64),
    Delete(ExtentName),
}

struct State {
    now: Extents,
    durable: Extents,
    unflushed: Vec<Write>,
    writes: u64,
    under_way: Option<UnderWay>,
    blocks: u64,
    calls: u64,
    crash_at: Option<u64>,
    is_dead: bool,
    /// Flushes say that they are done and do nothing: to see whether a test would notice.
    lies: bool,
}

#[derive(Clone)]
pub(crate) struct SimDrive(Rc<RefCell<State>>);

impl SimDrive {
    /// A drive with this on it, whose power goes at the call of that number.
    pub(crate) fn new(image: Image, blocks: u64, crash_at: Option<u64>) -> Self {
        Self(Rc::new(RefCell::new(State {
            now: image.0.clone(),
            durable: image.0,
            unflushed: Vec::new(),
            writes: 0,
            under_way: None,
            blocks,
            calls: 0,
            crash_at,
            is_dead: false,
            lies: false,
        })))
    }

    pub(crate) fn lie_about_flushes(&self) {
        self.0.borrow_mut().lies = true;
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.0.borrow().is_dead
    }

    /// Changes a byte of what is on the drive.
    pub(crate) fn flip(image: &mut Image, name: ExtentName, byte: usize, mask: u8) {
        if let Some(byte) = image.0.get_mut(&name).and_then(|bytes| bytes.get_mut(byte)) {
            *byte ^= mask;
        }
    }

    /// What is on the drive if its power goes now and all was flushed.
    pub(crate) fn image(&self) -> Image {
        Image(self.0.borrow().now.clone())
    }

    /// Everything that may be on the drive after the crash.
    pub(crate) fn images(&self) -> Vec<Image> {
        let state = self.0.borrow();
        let mut images = vec![state.durable.clone()];
        match &state.under_way {
            None => {}
            Some(UnderWay::Create(name, blocks)) => {
                let mut made = state.durable.clone();
                made.insert(*name, garbage(*blocks));
                images.push(made);
            }
            Some(UnderWay::Delete(name)) => {
                let mut gone = state.durable.clone();
                gone.remove(name);
                images.push(gone);
            }
        }
        for write in &state.unflushed {
            let blocks = write.bytes.len() / BLOCK_BYTES;
            let half = blocks / 2;
            let mut parts = vec![0..0, 0..blocks];
            if half > 0 {
                parts.extend([0..half, half..blocks]);
            }
            images = images
                .iter()
                .flat_map(|image| {
                    parts.iter().map(|part| {
                        let mut image = image.clone();
                        if let Some(extent) = image.get_mut(&write.name) {
                            let bytes = part.start * BLOCK_BYTES..part.end * BLOCK_BYTES;
                            let at = write.block as usize * BLOCK_BYTES;
                            extent[at + bytes.start..at + bytes.end]
                                .copy_from_slice(&write.bytes[bytes]);
                        }
                        image
                    })
                })
                .collect();
        }
        images.into_iter().map(Image).collect()
    }

    /// Counts a call, and lets others have theirs before it is carried out. Once the power is gone nothing ends.
    async fn turn(&self) -> bool {
        let mut waited = false;
        poll_fn(|cx| {
            if waited {
                return Poll::Ready(());
            }
            waited = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        let mut state = self.0.borrow_mut();
        if state.is_dead {
            return false;
        }
        state.calls += 1;
        if state.crash_at == Some(state.calls) {
            state.is_dead = true;
        }
        true
    }

    /// For ever, if the power went at this call.
    async fn answer(&self) {
        let dead = self.has_crashed();
        poll_fn(|_| if dead { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

/// New extents hold what was there before.
fn garbage(blocks: u64) -> Vec<u8> {
    vec![0xa5; blocks as usize * BLOCK_BYTES]
}

impl Drive for SimDrive {
    type Extent = (ExtentName, u64);
    type Buf = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Result<Vec<u8>, DriveError> {
        Ok(vec![0; bytes])
    }

    fn free_blocks(&self) -> u64 {
        let state = self.0.borrow();
        let used: usize = state.now.values().map(Vec::len).sum();
        state.blocks - (used / BLOCK_BYTES) as u64
    }

    async fn extents(&self) -> Result<Vec<(ExtentName, Self::Extent)>, DriveError> {
        self.turn().await;
        self.answer().await;
        let state = self.0.borrow();
        let named = |(name, bytes): (&ExtentName, &Vec<u8>)| {
            (*name, (*name, (bytes.len() / BLOCK_BYTES) as u64))
        };
        Ok(state.now.iter().map(named).collect())
    }

    async fn create(&self, name: ExtentName, blocks: u64) -> Result<Self::Extent, DriveError> {
        if blocks > self.free_blocks() {
            return Err(DriveError::NoRoom { blocks });
        }
        if self.turn().await {
            let mut state = self.0.borrow_mut();
            if state.is_dead {
                state.under_way = Some(UnderWay::Create(name, blocks));
            } else {
                let before = state.now.insert(name, garbage(blocks));
                assert!(before.is_none(), "{name} was made twice");
                state.durable.insert(name, garbage(blocks));
            }
        }
        self.answer().await;
        Ok((name, blocks))
    }

    async fn delete(&self, extent: Self::Extent) -> Result<(), DriveError> {
        if self.turn().await {
            let mut state = self.0.borrow_mut();
            if state.is_dead {
                state.under_way = Some(UnderWay::Delete(extent.0));
            } else {
                let there = state.now.remove(&extent.0);
                assert!(there.is_some(), "{} was deleted twice", extent.0);
                state.durable.remove(&extent.0);
                state.unflushed.retain(|write| write.name != extent.0);
            }
        }
        self.answer().await;
        Ok(())
    }

    fn blocks(&self, extent: &Self::Extent) -> u64 {
        extent.1
    }

    async fn read(
        &self,
        extent: &Self::Extent,
        block: u64,
        mut buf: Vec<u8>,
    ) -> Transferred<Vec<u8>> {
        self.turn().await;
        self.answer().await;
        let state = self.0.borrow();
        let bytes = state
            .now
            .get(&extent.0)
            .expect("a read of an extent that is there");
        let at = block as usize * BLOCK_BYTES;
        let end = at + buf.len();
        buf.copy_from_slice(&bytes[at..end]);
        (buf, Ok(()))
    }

    async fn write(&self, extent: &Self::Extent, block: u64, buf: Vec<u8>) -> Transferred<Vec<u8>> {
        if self.turn().await {
            let mut state = self.0.borrow_mut();
            let at = block as usize * BLOCK_BYTES;
            let bytes = state
                .now
                .get_mut(&extent.0)
                .expect("a write to an extent that is there");
            bytes[at..at + buf.len()].copy_from_slice(&buf);
            let number = state.writes;
            state.writes += 1;
            state.unflushed.push(Write {
                number,
                name: extent.0,
                block,
                bytes: buf.clone(),
            });
        }
        self.answer().await;
        (buf, Ok(()))
    }

    async fn flush(&self) -> Result<(), DriveError> {
        // A write that ends while the flush is under way is none of its business.
        let begun = self.0.borrow().writes;
        if self.turn().await {
            let mut state = self.0.borrow_mut();
            if !state.is_dead && !state.lies {
                let before = state
                    .unflushed
                    .iter()
                    .take_while(|write| write.number < begun);
                let count = before.count();
                let writes: Vec<Write> = state.unflushed.drain(..count).collect();
                for write in writes {
                    let at = write.block as usize * BLOCK_BYTES;
                    if let Some(bytes) = state.durable.get_mut(&write.name) {
                        bytes[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
                    }
                }
            }
        }
        self.answer().await;
        Ok(())
    }
}
