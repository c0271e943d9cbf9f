//! A drive in memory that forgets what was not flushed when its power goes.
//!
//! A call is under way from when it is made until it **ends**: at once in the next round, or, with a [`Temper`], after
//! a while, whether anybody still waits for it or not. What has been written is seen by reads when the write has ended,
//! and durable after a flush that began later. At a crash, every write that was not flushed or was under way is there, or
//! not, or in a part of its blocks; the making or deletion of an extent that was under way has happened or has not.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use oriel_engine::store::{
    BLOCK_BYTES, Drive, DriveError, ExtentName, NoGuest, NodeDrive, Transferred,
};

use super::calls::{Call, Given, Lie, Observer, Power, State, What, Write};
use super::faults::{Harm, Temper};
use super::image::{Block, Image};
use super::world::Rng;

#[derive(Clone)]
pub(crate) struct SimDrive(Rc<RefCell<State>>);

impl SimDrive {
    /// A drive with this on it.
    pub(crate) fn new(image: Image, blocks: u64) -> Self {
        Self(Rc::new(RefCell::new(State::new(image, blocks))))
    }

    pub(crate) fn lying(self, lie: Option<Lie>) -> Self {
        self.0.borrow_mut().lie = lie;
        self
    }

    pub(crate) fn with_temper(self, temper: Rc<Temper>) -> Self {
        self.0.borrow_mut().temper = Some(temper);
        self
    }

    /// There is no memory for buffers of more bytes.
    pub(crate) fn limit_buffers(&self, bytes: usize) {
        self.0.borrow_mut().buffer_max = bytes;
    }

    /// After so many reads one brings something else than what is there, once.
    pub(crate) fn misread_after(&self, reads: u64) {
        self.0.borrow_mut().misread_after = Some(reads);
    }

    /// Whether that is still to come.
    pub(crate) fn will_misread(&self) -> bool {
        self.0.borrow().misread_after.is_some()
    }

    /// The same drive after its power went.
    pub(crate) fn after_crash(&self, rng: &mut Rng) -> Self {
        Self(Rc::new(RefCell::new(self.0.borrow().after_crash(rng))))
    }

    /// The same drive after the program that used it was killed: the drive keeps what it had not made durable.
    pub(crate) fn after_kill(&self, rng: &mut Rng) -> Self {
        Self(Rc::new(RefCell::new(self.0.borrow().after_kill(rng))))
    }

    /// The power goes when the call of that number would end.
    pub(crate) fn crash_at(&self, call: u64) {
        self.0.borrow_mut().crash_at = Some(call);
    }

    /// Has its power from where others have theirs.
    pub(crate) fn with_power(self, power: &Rc<Power>) -> Self {
        self.0.borrow_mut().power = Some(power.clone());
        self
    }

    /// From the call of that number on everything fails.
    pub(crate) fn remove_at(&self, call: u64) {
        self.0.borrow_mut().remove_at = Some(call);
    }

    /// From the call of that number on everything fails that would change what is on it.
    pub(crate) fn wear_out_at(&self, call: u64) {
        self.0.borrow_mut().wear_out_at = Some(call);
    }

    pub(crate) fn is_worn_out(&self) -> bool {
        self.0.borrow().is_worn_out()
    }

    /// Shows the observer, at each call, everything that would be left if the power went there.
    pub(crate) fn observe(&self, observer: Observer) {
        self.0.borrow_mut().observer = Some(observer);
    }

    pub(crate) fn stop_observing(&self) {
        self.0.borrow_mut().observer = None;
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.0.borrow().has_crashed
    }

    pub(crate) fn will_be_removed(&self) -> bool {
        self.0.borrow().remove_at.is_some()
    }

    pub(crate) fn is_removed(&self) -> bool {
        let state = self.0.borrow();
        state.remove_at.is_some_and(|at| state.ended_calls >= at)
    }

    pub(crate) fn ended_calls(&self) -> u64 {
        self.0.borrow().ended_calls
    }

    pub(crate) fn harm(&self) -> Harm {
        self.0.borrow().harm.clone()
    }

    /// What is on the drive if all that has ended is durable.
    pub(crate) fn image(&self) -> Image {
        self.0.borrow().now.clone()
    }

    /// What is on the drive for certain.
    pub(crate) fn durable_image(&self) -> Image {
        self.0.borrow().durable.clone()
    }

    /// The least that was free in this life when somebody asked.
    pub(crate) fn least_free(&self) -> u64 {
        self.0.borrow().least_free.get()
    }

    /// Everything that may be on the drive if its power goes now.
    pub(crate) fn images(&self) -> Vec<Image> {
        self.0.borrow().images()
    }

    /// Whether the newest frame that is certain to be on the drive is not what was written: nothing comes after it that
    /// would say that it is missing. Frames that are not certain to be there do not count.
    pub(crate) fn end_of_journal_is_harmed(&self) -> bool {
        self.0.borrow().end_of_journal_is_harmed()
    }

    async fn call(&self, what: What) -> Result<Given, DriveError> {
        let id = self.begin(what);
        let timed = self.0.borrow().temper.clone();
        if let Some(temper) = &timed {
            let drive = self.clone();
            temper
                .world
                .after(temper.latency(), move || drive.0.borrow_mut().end(id));
        }
        let mut waited = false;
        let _waiting = Waiting { drive: self, id };
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if timed.is_none() {
                match std::mem::replace(&mut waited, true) {
                    false => cx.waker().wake_by_ref(),
                    true => state.end(id),
                }
            }
            if let Some(given) = state.given.remove(&id) {
                return Poll::Ready(given);
            }
            if let Some(call) = state.calls.get_mut(&id) {
                call.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    fn begin(&self, what: What) -> u64 {
        let mut state = self.0.borrow_mut();
        let id = state.made_calls;
        state.made_calls += 1;
        state.calls.insert(
            id,
            Call {
                what,
                waker: None,
                is_given_up: false,
            },
        );
        id
    }
}

/// Somebody waits for the call's end, until this is dropped.
struct Waiting<'a> {
    drive: &'a SimDrive,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.drive.0.borrow_mut().calls.get_mut(&self.id) {
            call.is_given_up = true;
        }
    }
}

impl Drive for SimDrive {
    type Extent = (ExtentName, u64);
    type Buf = Vec<u8>;

    fn buffer(&self, bytes: usize) -> Result<Vec<u8>, DriveError> {
        let temper = self.0.borrow().temper.clone();
        let fits = bytes <= self.0.borrow().buffer_max;
        match fits && temper.is_none_or(|temper| temper.has_memory()) {
            true => Ok(vec![0; bytes]),
            false => Err(DriveError::NoMemory { bytes }),
        }
    }

    fn free_blocks(&self) -> u64 {
        let state = self.0.borrow();
        let under_way = state.calls.values().map(|call| match call.what {
            What::Create(_, blocks) => blocks,
            _ => 0,
        });
        let used = state.now.used_blocks() + under_way.sum::<u64>();
        let free = state.blocks.saturating_sub(used);
        state.least_free.set(state.least_free.get().min(free));
        free
    }

    async fn extents(&self) -> Result<Vec<(ExtentName, Self::Extent)>, DriveError> {
        match self.call(What::Extents).await? {
            Given::Extents(all) => Ok(all.into_iter().map(|extent| (extent.0, extent)).collect()),
            _ => unreachable!("the extents were asked for"),
        }
    }

    async fn create(&self, name: ExtentName, blocks: u64) -> Result<Self::Extent, DriveError> {
        if blocks > self.free_blocks() {
            return Err(DriveError::NoRoom { blocks });
        }
        // Whoever waits for another slab can do without it for a moment.
        if matches!(name, ExtentName::Slab(_)) {
            self.buffer(BLOCK_BYTES)?;
        }
        self.call(What::Create(name, blocks)).await?;
        Ok((name, blocks))
    }

    async fn delete(&self, extent: Self::Extent) -> Result<(), DriveError> {
        self.call(What::Delete(extent.0)).await.map(|_| ())
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
        let blocks = (buf.len() / BLOCK_BYTES) as u64;
        let read = match self.call(What::Read(extent.0, block, blocks)).await {
            Ok(Given::Blocks(blocks)) => {
                for (place, block) in buf.chunks_exact_mut(BLOCK_BYTES).zip(blocks) {
                    place.copy_from_slice(block.bytes());
                }
                let misread = &mut self.0.borrow_mut().misread_after;
                match misread {
                    Some(0) => {
                        buf[7] ^= 0x10;
                        *misread = None;
                    }
                    Some(reads) => *reads -= 1,
                    None => {}
                }
                Ok(())
            }
            Ok(_) => unreachable!("blocks were asked for"),
            Err(error) => Err(error),
        };
        (buf, read)
    }

    async fn write(&self, extent: &Self::Extent, block: u64, buf: Vec<u8>) -> Transferred<Vec<u8>> {
        let blocks = buf.chunks_exact(BLOCK_BYTES).map(Block::new).collect();
        let write = Write {
            number: u64::MAX,
            name: extent.0,
            block,
            blocks,
        };
        let written = self.call(What::Write(write)).await;
        (buf, written.map(|_| ()))
    }

    async fn flush(&self) -> Result<(), DriveError> {
        let begun = self.0.borrow().ended_writes;
        self.call(What::Flush(begun)).await.map(|_| ())
    }
}

impl NodeDrive for SimDrive {
    type Payload = Vec<u8>;
    type Guest = NoGuest;

    fn payload(bytes: usize) -> Result<Vec<u8>, DriveError> {
        Ok(vec![0; bytes])
    }

    fn take(&self, payload: Vec<u8>) -> Vec<u8> {
        payload
    }

    fn give(buf: Vec<u8>) -> Vec<u8> {
        buf
    }

    async fn removed(&self) {
        poll_fn(|cx| {
            if self.is_removed() {
                return Poll::Ready(());
            }
            self.0.borrow_mut().removal_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn close(self) -> Result<(), DriveError> {
        Ok(())
    }
}
