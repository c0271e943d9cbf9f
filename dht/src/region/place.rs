//! Where a region lies: memory of the process, a file, or a DAX device.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::OpenError;
use super::flush::Flush;
use super::header::HEADER_WORDS;
use super::memory::Memory;
use crate::limits::{REGION_HEADER_BYTES, SECTION_ALIGN_BYTES};

/// Where a region lies, or is to lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Memory of this process, gone with it.
    Memory {
        /// Ask for large pages, which make a random load a third faster.
        large_pages: bool,
    },
    /// A file on any file system (hugetlbfs and tmpfs included), or a DAX device such as `/dev/dax0.0`.
    Path(PathBuf),
}

impl Place {
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Memory { .. } => PathBuf::from("(memory of this process)"),
            Self::Path(path) => path.clone(),
        }
    }
}

/// What has to be done so that what was written outlasts the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing helps: the memory is volatile.
    Volatile,
    /// The kernel writes the file back.
    File,
    /// Lines leave the processor's caches by this instruction.
    Lines(Flush),
}

/// An open file or device, locked, and what is known about it.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Bytes that are there.
    pub(super) bytes: u64,
    /// What sizes and mappings are multiples of.
    pub(super) page_bytes: u64,
    /// None for a file.
    device: Option<Device>,
}

#[derive(Debug)]
struct Device {
    persistent: bool,
}

impl Ground {
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open {
            path: path.into(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse { path: path.into() });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let about = file.metadata().map_err(failed)?;
        let (bytes, page_bytes, device) = if about.file_type().is_char_device() {
            let device = SysFs::of(about.rdev());
            if !device.is_dax() {
                return Err(OpenError::WrongKind { path: path.into() });
            }
            let persistent = device.is_persistent().map_err(failed)?;
            let bytes = device.number("size").map_err(failed)?;
            let align = device.number("align").map_err(failed)?;
            (bytes, align, Some(Device { persistent }))
        } else if about.is_file() {
            (about.len(), about.blksize(), None)
        } else {
            return Err(OpenError::WrongKind { path: path.into() });
        };
        Ok(Self {
            path: path.into(),
            file,
            bytes,
            page_bytes: page_bytes.max(SECTION_ALIGN_BYTES as u64),
            device,
        })
    }

    pub(super) fn is_device(&self) -> bool {
        self.device.is_some()
    }

    pub(super) fn persistence(&self) -> Persistence {
        match &self.device {
            None => Persistence::File,
            Some(device) if device.persistent => Persistence::Lines(Flush::detect()),
            Some(_) => Persistence::Volatile,
        }
    }

    /// The header's words, without mapping the rest of the place.
    pub(super) fn header(&self) -> Result<[u64; HEADER_WORDS], OpenError> {
        let mut words = [0; HEADER_WORDS];
        if self.bytes < REGION_HEADER_BYTES as u64 {
            return Err(if self.bytes == 0 {
                OpenError::Blank {
                    path: self.path.clone(),
                }
            } else {
                OpenError::Truncated {
                    path: self.path.clone(),
                    wanted: REGION_HEADER_BYTES as u64,
                    found: self.bytes,
                }
            });
        }
        if self.is_device() {
            // A DAX device cannot be read, only mapped: its first page, and only for this.
            let memory = self.map(self.page_bytes)?;
            for (word, there) in words.iter_mut().zip(memory.words()) {
                *word = there.load(std::sync::atomic::Ordering::Relaxed);
            }
        } else {
            let mut bytes = [0; REGION_HEADER_BYTES];
            self.file
                .read_exact_at(&mut bytes, 0)
                .map_err(|source| OpenError::Open {
                    path: self.path.clone(),
                    source,
                })?;
            for (word, there) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_le_bytes(*there);
            }
        }
        Ok(words)
    }

    pub(super) fn map(&self, bytes: u64) -> Result<Memory, OpenError> {
        let failed = |source| OpenError::Map {
            path: self.path.clone(),
            bytes,
            source,
        };
        let bytes = usize::try_from(bytes).map_err(|_| failed(ErrorKind::OutOfMemory.into()))?;
        Memory::shared(self.file.as_fd(), bytes).map_err(failed)
    }
}

/// A character device in sysfs.
struct SysFs(PathBuf);

impl SysFs {
    fn of(device: u64) -> Self {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Self(PathBuf::from(format!("/sys/dev/char/{major}:{minor}")))
    }

    fn is_dax(&self) -> bool {
        self.0
            .join("subsystem")
            .canonicalize()
            .is_ok_and(|subsystem| subsystem.ends_with("dax"))
    }

    /// The devices of persistent memory hang below a bus of the NVDIMM subsystem (`ndbus`), whether the memory came
    /// by CXL or by ACPI; volatile ones below their memory range.
    fn is_persistent(&self) -> io::Result<bool> {
        let real = self.0.canonicalize()?;
        let below = |part: std::path::Component<'_>| {
            part.as_os_str()
                .to_str()
                .is_some_and(|name| name.starts_with("ndbus"))
        };
        Ok(real.components().any(below))
    }

    fn number(&self, attribute: &str) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.0.join(attribute))?;
        text.trim()
            .parse()
            .map_err(|_| ErrorKind::InvalidData.into())
    }
}
