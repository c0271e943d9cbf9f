//! Applying what the journals say beyond the checkpoint.

use std::rc::Rc;

use super::checkpoint::Header;
use super::drive::{Drive, DriveError, ExtentName};
use super::error::OpenError;
use super::frame::{self, Entry, FRAME_BLOCKS_MAX, Found};
use super::log::{Layout, Tail};
use super::recovery::Extents;
use super::scan::{SCAN_BLOCKS, read};
use super::slab::Slab;
use super::state::State;
use super::types::BLOCK_BYTES;

/// A journal, read from its front to its end, each block about once.
struct Window<'a, D: Drive> {
    drive: &'a D,
    extent: &'a D::Extent,
    blocks: u64,
    /// Where the buffer begins.
    start: u64,
    buf: Option<D::Buf>,
}

impl<'a, D: Drive> Window<'a, D> {
    fn new(drive: &'a D, extent: &'a D::Extent, blocks: u64) -> Self {
        Self {
            drive,
            extent,
            blocks,
            start: 0,
            buf: None,
        }
    }

    /// The bytes from a block on, with the longest frame that may begin there.
    async fn from(&mut self, block: u64) -> Result<&[u8], DriveError> {
        let needed = (block + FRAME_BLOCKS_MAX).min(self.blocks);
        let there = self
            .buf
            .as_ref()
            .map_or(0, |buf| buf.as_ref().len() / BLOCK_BYTES) as u64;
        if self.buf.is_none() || block < self.start || needed > self.start + there {
            let count = (self.blocks - block).min(SCAN_BLOCKS);
            self.buf = Some(read(self.drive, self.extent, block, count).await?);
            self.start = block;
        }
        let buf = self.buf.as_ref().expect("it was just read");
        Ok(&buf.as_ref()[(block - self.start) as usize * BLOCK_BYTES..])
    }
}

impl Header {
    /// Where the journal that follows begins.
    pub(super) fn tail(&self) -> Tail {
        Tail {
            epoch: self.epoch,
            sequence: self.sequence,
            block: 0,
        }
    }
}

/// Reads the journals of a store.
pub(super) struct Replay<'a, D: Drive> {
    pub(super) drive: &'a D,
    pub(super) layout: &'a Layout<D::Extent>,
    pub(super) extents: &'a Extents<D>,
}

impl<D: Drive> Replay<'_, D> {
    /// Applies the frames that follow the checkpoint, and gives the place of the next one.
    pub(super) async fn replay(
        &self,
        header: &Header,
        state: &mut State<D::Extent>,
    ) -> Result<Tail, OpenError> {
        let end = self.replay_journal(header.tail(), state).await?;
        // The next checkpoint was begun before the power went, or not: its journal tells.
        let next = Tail {
            epoch: end.epoch + 1,
            block: 0,
            ..end
        };
        let last = self.replay_journal(next, state).await?;
        match last.block {
            0 => Ok(end),
            _ => Ok(last),
        }
    }

    async fn replay_journal(
        &self,
        mut tail: Tail,
        state: &mut State<D::Extent>,
    ) -> Result<Tail, OpenError> {
        let which = tail.epoch & 1;
        let name = ExtentName::Journal(which as u8);
        let journal = &self.layout.journals[which as usize];
        let mut window = Window::new(self.drive, journal, self.layout.journal_blocks);
        loop {
            let place = frame::Place {
                store: self.layout.store,
                epoch: tail.epoch,
                sequence: tail.sequence,
                block: tail.block,
            };
            if tail.block == self.layout.journal_blocks {
                return Ok(tail);
            }
            match frame::decode(window.from(tail.block).await?, &place) {
                Found::Frame { entries, blocks } => {
                    self.apply(state, &entries, name, tail.block)?;
                    tail.sequence += 1;
                    tail.block += blocks;
                }
                Found::Unknown => {
                    return Err(OpenError::Damaged {
                        extent: name,
                        block: tail.block,
                        detail: "a frame says something that this version does not know".into(),
                    });
                }
                Found::Nothing | Found::Elsewhere(_) => {
                    check_end(&mut window, name, &place).await?;
                    return Ok(tail);
                }
            }
        }
    }

    fn apply(
        &self,
        state: &mut State<D::Extent>,
        entries: &[Entry],
        journal: ExtentName,
        block: u64,
    ) -> Result<(), OpenError> {
        for entry in entries {
            if let Entry::Slab(number, realm) = entry {
                let name = ExtentName::Slab(number.0);
                let missing = || OpenError::Missing {
                    extent: name,
                    why: format!("{journal}, block {block}, names it"),
                };
                let extent = self.extents.get(&name).ok_or_else(missing)?;
                if !state.realms.contains_key(realm) {
                    let (realm, name) = (*realm, None);
                    return Err(OpenError::UnknownRealm { realm, name });
                }
                let mut slab = Slab::new(Rc::new(extent.clone()), *realm);
                slab.seal();
                // One that was made before the checkpoint is in it already.
                state.slabs.entry(number.0).or_insert(slab);
            }
            let applied = state.apply(entry, self.layout.slab_blocks);
            applied.map_err(|contradiction| OpenError::Damaged {
                extent: journal,
                block,
                detail: contradiction.0.into(),
            })?;
        }
        Ok(())
    }
}

/// A journal ends at a frame that is not there. One that was written later shows that it was there once.
async fn check_end<D: Drive>(
    journal: &mut Window<'_, D>,
    name: ExtentName,
    end: &frame::Place,
) -> Result<(), OpenError> {
    for block in end.block..journal.blocks {
        let place = frame::Place { block, ..*end };
        let later = match frame::decode(journal.from(block).await?, &place) {
            // A frame is written once, so one of the same number is the one that is missing, gone astray.
            Found::Elsewhere(found) => found.sequence >= end.sequence,
            Found::Frame { .. } | Found::Unknown => block != end.block,
            Found::Nothing => false,
        };
        if later {
            return Err(OpenError::Damaged {
                extent: name,
                block: end.block,
                detail: format!(
                    "frame {} of epoch {} is not there, but a later one is, at block {block}",
                    end.sequence, end.epoch
                ),
            });
        }
    }
    Ok(())
}
