//! Creating, opening and closing a region.

use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::error::{CloseError, CreateError, OpenError, SectionError};
use super::header::{AT_STATE, Fault, Header, LAYOUT_VERSION, STATE_WORDS};
use super::latency::{self, Latency};
use super::memory::{self, AtomicU64, Memory};
use super::place::{Ground, Persistence, Place};
use super::section::About;
use super::{History, Section, SectionKind, SectionSpec};
use crate::limits::{LINE_WORDS, REGION_HEADER_BYTES};

/// What to do with what is already in the place of a new region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Create nothing over it.
    Keep,
    /// It may be lost.
    Replace,
}

/// A mapped region. Dropping it without [`Region::close`] leaves it marked as in use.
pub struct Region {
    memory: Arc<Memory>,
    header: Header,
    history: History,
    generation: u64,
    persistence: Persistence,
    path: PathBuf,
    /// None for memory. Holds the lock.
    ground: Option<Ground>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("path", &self.path)
            .field("bytes", &self.header.bytes)
            .field("history", &self.history)
            .field("persistence", &self.persistence)
            .finish_non_exhaustive()
    }
}

impl Region {
    /// Lays a new region out, and marks it as in use.
    pub fn create(
        place: &Place,
        sections: &[SectionSpec],
        existing: Existing,
    ) -> Result<Self, CreateError> {
        let identity = RandomState::new().build_hasher().finish();
        let header =
            Header::lay_out(sections, identity).map_err(|what| CreateError::Sections { what })?;
        let path = place.path();
        let (ground, memory, persistence) = match place {
            Place::Memory { large_pages } => {
                let memory =
                    Memory::anonymous(header.bytes as usize).map_err(|source| OpenError::Map {
                        path: path.clone(),
                        bytes: header.bytes,
                        source,
                    })?;
                if *large_pages {
                    memory.prefer_large_pages();
                }
                memory.populate();
                (None, memory, Persistence::Volatile)
            }
            Place::Path(at) => {
                let ground = Ground::open(at, true)?;
                let bytes = make_room(&ground, &header, existing)?;
                let memory = ground.map(bytes)?;
                let persistence = ground.persistence();
                (Some(ground), memory, persistence)
            }
        };
        let region = Self {
            memory: Arc::new(memory),
            header,
            history: History::Fresh,
            generation: 1,
            persistence,
            path,
            ground,
        };
        region.write_header()?;
        Ok(region)
    }

    /// Opens a region that is there, and marks it as in use. [`Region::history`] says how its last user left it.
    pub fn open(place: &Place) -> Result<Self, OpenError> {
        let path = place.path();
        let Place::Path(at) = place else {
            return Err(OpenError::Blank { path });
        };
        let ground = Ground::open(at, false)?;
        let words = ground.header()?;
        let header = Header::decode(&words).map_err(|fault| explain(fault, &ground))?;
        if ground.bytes < header.bytes {
            return Err(OpenError::Truncated {
                path,
                wanted: header.bytes,
                found: ground.bytes,
            });
        }
        let bytes = header.bytes.next_multiple_of(ground.page_bytes);
        if bytes > ground.bytes {
            let what = "its size is no multiple of the device's pages";
            return Err(OpenError::Contradiction { path, what });
        }
        let memory = Arc::new(ground.map(bytes)?);
        let (history, last) = header.history(&words);
        let region = Self {
            memory,
            header,
            history,
            generation: last.wrapping_add(1),
            persistence: ground.persistence(),
            path,
            ground: Some(ground),
        };
        region
            .mark(false)
            .map_err(|source| region.unmarked(source))?;
        Ok(region)
    }

    /// What the last user left behind.
    pub fn history(&self) -> History {
        self.history
    }

    /// What makes this region's stores outlast the power.
    pub fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Bytes of the whole region.
    pub fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// The section of a kind, which has to have this version.
    pub fn section(&self, kind: SectionKind, version: u32) -> Result<Section, SectionError> {
        let is_it = |placed: &&super::header::Placed| placed.spec.kind == kind;
        let placed = self.header.sections.iter().find(is_it);
        let placed = placed.ok_or(SectionError::Absent { kind })?;
        if placed.spec.version != version {
            return Err(SectionError::OtherVersion {
                kind,
                found: placed.spec.version,
                wanted: version,
            });
        }
        let word = size_of::<AtomicU64>();
        Ok(Section::new(
            self.memory.clone(),
            placed.offset as usize / word,
            placed.spec.bytes as usize / word,
            About {
                history: self.history,
                generation: self.generation,
                persistence: self.persistence,
                zeroed: self.history == History::Fresh && !self.is_device(),
            },
        ))
    }

    fn is_device(&self) -> bool {
        self.ground.as_ref().is_some_and(Ground::is_device)
    }

    /// Brings every page in now, so that none is brought in under a lookup or insert.
    pub fn populate(&self) {
        self.memory.populate();
    }

    /// Measures how long a load from this memory takes when the caches do not have it.
    pub fn latency(&self) -> Latency {
        latency::measure(self.memory.words())
    }

    /// Makes all that was written durable, as far as the memory allows, and marks the region as clean. Every table has
    /// to have given up its section before.
    pub fn close(self) -> Result<(), CloseError> {
        let users = Arc::strong_count(&self.memory) - 1;
        if users > 0 {
            return Err(CloseError::StillInUse {
                users,
                region: Box::new(self),
            });
        }
        self.settle(self.memory.bytes())
            .and_then(|()| self.mark(true))
            .map_err(|source| CloseError::WriteBack {
                path: self.path.clone(),
                source,
            })
    }

    /// Makes the first bytes of the region durable, by the kernel or by writing the processor's caches back.
    fn settle(&self, bytes: usize) -> io::Result<()> {
        match self.persistence {
            Persistence::File => self.memory.sync_file(bytes),
            _ => {
                let words = bytes / size_of::<AtomicU64>();
                persist(&self.memory.words()[..words], self.persistence);
                Ok(())
            }
        }
    }

    fn unmarked(&self, source: io::Error) -> OpenError {
        OpenError::Mark {
            path: self.path.clone(),
            source,
        }
    }

    /// The state line goes first, so that a header that is whole never has an old one beside it.
    fn write_header(&self) -> Result<(), OpenError> {
        self.mark(false).map_err(|source| self.unmarked(source))?;
        let header = self.header.encode();
        let words = self.memory.words();
        for (at, word) in header.iter().enumerate() {
            if !(AT_STATE..AT_STATE + STATE_WORDS).contains(&at) {
                words[at].store(*word, Ordering::Release);
            }
        }
        self.settle(REGION_HEADER_BYTES)
            .map_err(|source| self.unmarked(source))
    }

    /// Returns when the mark is durable.
    fn mark(&self, clean: bool) -> io::Result<()> {
        let line = &self.memory.words()[AT_STATE..AT_STATE + LINE_WORDS];
        for (word, value) in line.iter().zip(self.header.state(clean, self.generation)) {
            word.store(value, Ordering::Release);
        }
        self.settle(REGION_HEADER_BYTES)
    }
}

/// Checks what is in the place and makes it large enough. Returns the bytes to map.
fn make_room(ground: &Ground, header: &Header, existing: Existing) -> Result<u64, CreateError> {
    let bytes = header.bytes.next_multiple_of(ground.page_bytes);
    let path = || ground.path.clone();
    if existing == Existing::Keep {
        match ground.header() {
            Err(OpenError::Blank { .. }) => {}
            Ok(words) if words.iter().all(|word| *word == 0) => {}
            Ok(_) | Err(OpenError::Truncated { .. }) => {
                return Err(CreateError::NotBlank { path: path() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    if ground.is_device() {
        if ground.bytes < bytes {
            return Err(CreateError::TooSmall {
                path: path(),
                wanted: bytes,
                found: ground.bytes,
            });
        }
        return Ok(bytes);
    }
    // Down to nothing first, so that no byte of what was there is left.
    ground
        .file
        .set_len(0)
        .and_then(|()| ground.file.set_len(bytes))
        .and_then(|()| reserve(&ground.file, bytes))
        .map_err(|source| CreateError::Size {
            path: path(),
            bytes,
            source,
        })?;
    Ok(bytes)
}

/// Takes the room now: a mapping that finds its file system full later ends the process.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn explain(fault: Fault, ground: &Ground) -> OpenError {
    let path = ground.path.clone();
    let current = LAYOUT_VERSION;
    match fault {
        Fault::Blank => OpenError::Blank { path },
        Fault::Foreign { found } => OpenError::Foreign { path, found },
        Fault::Version { found } if found < current => OpenError::Older {
            path,
            found,
            current,
        },
        Fault::Version { found } => OpenError::Newer {
            path,
            found,
            current,
        },
        Fault::Torn { expected, found } => OpenError::Torn {
            path,
            expected,
            found,
        },
        Fault::Contradiction(what) => OpenError::Contradiction { path, what },
    }
}

/// Writes the lines of these words back, where that is what makes them durable.
pub(super) fn persist(words: &[AtomicU64], persistence: Persistence) {
    if let Persistence::Lines(flush) = persistence {
        // Words are in whole lines: a region and its sections begin at a line.
        for line in words.chunks(LINE_WORDS) {
            memory::write_back(&line[0], flush);
        }
        memory::write_back_fence();
    }
}
