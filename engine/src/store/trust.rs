//! Believing an index that was taken over from the last run.
//!
//! Blobs that it knows are served at once: the checksums say whether a blob is what it should be. Whatever would count on a
//! key not being there waits until all of it is verified: changes, listings, and the answer that there is no such blob. So
//! nothing comes into the journal that a wrong index has said.

use oriel_dht::index::Verification;

use super::answer::answer;
use super::drive::Drive;
use super::error::StoreError;
use super::keys::KeepError;
use super::log::{Log, yield_now};
use super::stamp::Stamp;
use crate::limits::VERIFIED_LINES;

impl<D: Drive> Log<D> {
    /// Waits until the index is known to be right.
    pub(super) async fn trusted(&self) -> Result<(), StoreError> {
        if self.is_trusted.get() {
            return Ok(());
        }
        self.check_running()?;
        let (send, heard) = answer();
        self.doubting.borrow_mut().push(send);
        // If nobody answers, then the log has stopped or ends.
        let _ = heard.await;
        match self.is_trusted.get() {
            true => Ok(()),
            false => Err(self.check_running().err().unwrap_or(StoreError::Closing)),
        }
    }

    /// What is to be said where the index speaks of a blob that its slab does not know.
    ///
    /// # Panics
    /// When the index was verified: then it is the store that is wrong.
    pub(super) fn not_in_slab(&self) -> StoreError {
        assert!(
            !self.is_trusted.get(),
            "a blob of the index is known to its slab"
        );
        StoreError::IndexDamaged
    }

    /// Verifies the index, a step at a time.
    pub(super) async fn verify_index(&self) -> Result<(), StoreError> {
        while !self.is_trusted.get() {
            if self.is_ending.get() || self.check_running().is_err() {
                break;
            }
            let step = self.state.borrow_mut().keys.verify_step(VERIFIED_LINES);
            match step {
                Verification::Unfinished => {}
                Verification::Sound => self.is_trusted.set(true),
                Verification::Damaged => {
                    tracing::error!("the index that was taken over is damaged");
                    self.doubting.take();
                    return Err(self.stop_because(Vec::new(), StoreError::IndexDamaged));
                }
            }
            yield_now().await;
        }
        for heard in self.doubting.take() {
            heard.send(());
        }
        Ok(())
    }

    /// Leaves the index for the next run, once [`run`](Self::run) has ended. Its memory has to be closed after that, as by
    /// [`IndexFile::close`](super::IndexFile::close).
    pub fn keep_index(self) -> Result<(), KeepError> {
        let ended = matches!(*self.stopped.borrow(), Some(StoreError::Closing));
        let stamp = self.last_stamp.get().filter(|_| ended);
        let stamp: Stamp = stamp.ok_or(KeepError::NotEnded)?;
        self.state.into_inner().keys.keep(&stamp)
    }
}
