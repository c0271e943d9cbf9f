//! Blobs that a checked read, or compaction, has found damaged, which the store itself looks at once more.
//!
//! ```text
//!  read: its bytes do not verify ──► the reader's error, at once
//!                 └──► list ──► is the blob still there? ──► read all of it, as a scrub does ──► quarantine
//! ```
//!
//! A read of another core that does not verify is done again by the drive's core, so all of them come by here. What finds no
//! place in the list is looked at when it is read again, or by the next scrub: until then every checked read of it fails.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use super::drive::Drive;
use super::journal::remember;
use super::log::Log;
use super::scrub::Found;
use super::types::Position;
use crate::limits::SUSPECTS_MAX;

/// Where they begin; the first one may be under the eye.
#[derive(Default)]
pub(super) struct Suspects(RefCell<VecDeque<Position>>);

impl<D: Drive> Log<D> {
    /// What was read from a window is not what was written there.
    pub(super) fn suspect(&self, window: Position) {
        let mut suspects = self.suspects.0.borrow_mut();
        if suspects.len() < SUSPECTS_MAX && !suspects.contains(&window) {
            suspects.push_back(window);
            self.ring_scrub();
        }
    }

    /// One after the other, for as long as the journal is written.
    pub(super) async fn look_at_suspects(&self) {
        if self.trusted().await.is_err() {
            return;
        }
        loop {
            let next = poll_fn(|cx| {
                if self.rests() {
                    return Poll::Ready(None);
                }
                if let Some(window) = self.suspects.0.borrow().front() {
                    return Poll::Ready(Some(*window));
                }
                remember(&mut self.scrub_bell.borrow_mut(), cx.waker());
                Poll::Pending
            });
            let Some(window) = next.await else {
                return;
            };
            // There is seldom one, so the log does without the room for that.
            Box::pin(self.look_at(window)).await;
            self.suspects.0.borrow_mut().pop_front();
        }
    }

    async fn look_at(&self, window: Position) {
        let is_known = || self.state.borrow().quarantine.contains(&window);
        if is_known() {
            return;
        }
        let number = window.0 / self.layout.slab_blocks;
        let Some((realm, records)) = self.records_to_scrub(number, window).await else {
            return;
        };
        // One that is deleted or has moved can be read for a while by who knows where it was.
        let Some(record) = records.first().filter(|first| first.position == window) else {
            return;
        };
        let began = self.clock.now();
        let found = self.scrub_blob(realm, record).await;
        if self.rests() || is_known() {
            return;
        }
        if let Found::Whole = found {
            let key = record.key;
            tracing::warn!(%realm, %key, position = %window, "a blob that was read damaged is whole when it is read again");
        }
        self.note(realm, record, found, began);
    }
}
