//! Making an index in a section, adopting one, and closing it so that it can be adopted.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::address::{Seeds, Shape};
use super::layout::{self, IndexSize, SizeError, Summary};
use super::reader::Index;
use super::table::Table;
use super::writer::Writer;
use crate::limits::SLOTS;
use crate::region::{History, Section};

/// Why an index was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The size makes no index.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The section is smaller than the index.
    #[error(
        "the index takes {wanted} bytes and its section has {found}; make the section as large as IndexSize::section_bytes says"
    )]
    TooSmall {
        /// Bytes of the index.
        wanted: u64,
        /// Bytes of the section.
        found: u64,
    },
}

/// Why an index of an earlier run was not adopted. It has to be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The region was not closed.
    #[error("the region was not shut down cleanly, so its index is not believed; rebuild it")]
    NotClean,
    /// The index in it was not closed, or this part of it is damaged.
    #[error(
        "partition {partition} of the index was not closed, or its summary is damaged; rebuild the index"
    )]
    NotClosed {
        /// The first such partition.
        partition: u32,
    },
    /// The section holds no index, or its first line is damaged.
    #[error(
        "the section holds no index of this version, or its header is damaged; rebuild the index"
    )]
    Header,
}

/// Why an index was not closed. A region that holds it is not to be closed either.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// A writer is missing.
    #[error(
        "{found} of {wanted} writers of the index came back; end every user of the index first"
    )]
    WritersMissing {
        /// Writers given.
        found: usize,
        /// Partitions.
        wanted: usize,
    },
    /// It was found damaged: it must not look as if it could be believed.
    #[error("the index was found damaged, so it is not closed; rebuild it at the next start")]
    Damaged,
}

impl Index {
    /// Makes an empty index in a section, whatever is there. The writers are in the order of their partitions.
    pub fn create(section: Section, size: &IndexSize) -> Result<(Self, Vec<Writer>), CreateError> {
        let layout = size.layout()?;
        let (wanted, found) = (layout.words() * 8, section.bytes());
        if wanted > found {
            return Err(CreateError::TooSmall { wanted, found });
        }
        let random = RandomState::new();
        let seeds = Seeds([0_u64, 1, 2].map(|which| random.hash_one(which)));
        let words = &section.words()[..layout.words() as usize];
        if !section.was_zeroed() {
            for word in words {
                word.store(0, Ordering::Relaxed);
            }
        }
        layout::write_header(words, layout, seeds);
        let lines = size.lines().min(layout.lines_max);
        let table = Arc::new(Table::new(section, layout, seeds, true));
        let writers = (0..layout.partitions as usize).map(|partition| {
            table.part(partition).set_shape(Shape::of(lines));
            Writer::new(table.clone(), partition, 0, 0)
        });
        let writers = writers.collect();
        Ok((Self { table }, writers))
    }

    /// Takes over the index that an earlier run closed, without looking at its lines. Until the writers have verified
    /// them ([`Writer::verify_step`]), every lookup verifies those that it looks at.
    pub fn adopt(section: Section) -> Result<(Self, Vec<Writer>), AdoptError> {
        if section.history() != History::Clean {
            return Err(AdoptError::NotClean);
        }
        let header = layout::read_header(section.words());
        let (layout, seeds) = header.map_err(|layout::HeaderDamaged| AdoptError::Header)?;
        let last = section.generation().wrapping_sub(1);
        let mut summaries = Vec::new();
        for partition in 0..layout.partitions {
            let line = &section.words()[layout.summary(partition)..];
            let believed = |summary: &Summary| {
                summary.generation == last
                    && Shape::believe(summary.shape, layout.lines_max)
                        .is_some_and(|shape| summary.entries <= shape.lines() * SLOTS as u64)
            };
            let summary = Summary::read(line).filter(believed);
            let partition = partition as u32;
            summaries.push(summary.ok_or(AdoptError::NotClosed { partition })?);
        }
        let table = Arc::new(Table::new(section, layout, seeds, false));
        let writers = summaries.iter().enumerate().map(|(partition, summary)| {
            table.part(partition).set_shape(Shape(summary.shape));
            Writer::new(table.clone(), partition, summary.entries, summary.sum)
        });
        let writers = writers.collect();
        Ok((Self { table }, writers))
    }

    /// Leaves the index so that the next run can adopt it, and gives its section up; clones of the index have to be
    /// gone before the region can be closed. Where it fails, drop the region without closing it.
    pub fn close(self, writers: Vec<Writer>) -> Result<(), CloseError> {
        let wanted = self.table.layout.partitions as usize;
        let mut here = vec![false; wanted];
        for writer in &writers {
            if Arc::ptr_eq(writer.table(), &self.table) {
                here[writer.partition() as usize] = true;
            }
        }
        let found = here.iter().filter(|here| **here).count();
        if found < wanted {
            return Err(CloseError::WritersMissing { found, wanted });
        }
        if self.is_damaged() {
            return Err(CloseError::Damaged);
        }
        let section = &self.table.section;
        for writer in writers {
            let summary = Summary {
                generation: section.generation(),
                entries: writer.entries(),
                sum: writer.sum(),
                shape: self.table.part(writer.partition() as usize).shape().0,
            };
            let at = self.table.layout.summary(u64::from(writer.partition()));
            summary.write(&section.words()[at..]);
        }
        Ok(())
    }
}
