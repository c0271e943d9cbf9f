//! A namespace's files.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::abi;
use crate::call;
use crate::operation::{Answer, Command};

/// Bytes of every Identify data structure.
pub const IDENTIFY_BYTES: usize = 4096;

/// The admin command Identify.
const IDENTIFY: u8 = 0x06;

/// The alignment of memory for O_DIRECT that every kernel takes with blocks of 4 KiB.
const ALIGNMENT_OF_OLD: usize = 4096;

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Neither `nvmeXnY` nor `ngXnY` is what it is called.
    Name,
    /// It is there, but no device of that kind.
    Kind,
    /// It is a file of that name and kind, but does not say which namespace it is: `EAGAIN` while the kernel has no path to it.
    NoNamespace(Errno),
    /// It cannot be opened.
    Open(Errno),
}

/// How Identify ended: its data, or the status of the command.
pub type Identified = Result<Box<[u8; IDENTIFY_BYTES]>, u16>;

/// A namespace that the kernel is attached to.
pub struct Device {
    block: OwnedFd,
    /// That of `/dev/ngXnY`; kernels before 5.13 have none.
    generic: Option<OwnedFd>,
    nsid: u32,
    alignment: usize,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("nsid", &self.nsid)
            .field("alignment", &self.alignment)
            .field("has_generic", &self.generic.is_some())
            .finish_non_exhaustive()
    }
}

/// The names of both files, from that of either: the kernel gives them the same numbers.
fn names(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = path.file_name()?.as_bytes();
    let numbers = name.strip_prefix(b"nvme").or(name.strip_prefix(b"ng"))?;
    let numbers = std::str::from_utf8(numbers).ok()?;
    let (controller, namespace) = numbers.split_once('n')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(controller) && is_number(namespace)).then(|| {
        (
            path.with_file_name(format!("nvme{numbers}")),
            path.with_file_name(format!("ng{numbers}")),
        )
    })
}

fn open(path: &Path, kind: FileType, flags: OFlags) -> Result<OwnedFd, OpenError> {
    let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
    // Looked at before it is opened: opening some devices does something.
    let found = rustix::fs::stat(path).map_err(OpenError::Open)?;
    if FileType::from_raw_mode(found.st_mode) != kind {
        return Err(OpenError::Kind);
    }
    rustix::fs::open(path, flags, Mode::empty()).map_err(OpenError::Open)
}

impl Device {
    /// Opens a namespace by its block device or its character device, or by a link to one of them.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let path = std::fs::canonicalize(path)
            .map_err(|error| OpenError::Open(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let (block, generic) = names(&path).ok_or(OpenError::Name)?;
        let block = open(&block, FileType::BlockDevice, OFlags::DIRECT)?;
        let generic = match open(&generic, FileType::CharacterDevice, OFlags::empty()) {
            Ok(generic) => Some(generic),
            Err(OpenError::Open(Errno::NOENT)) => None,
            Err(error) => return Err(error),
        };
        let nsid = call::namespace(block.as_fd()).map_err(OpenError::NoNamespace)?;
        let alignment = alignment_of(block.as_fd());
        Ok(Self {
            block,
            generic,
            nsid,
            alignment,
        })
    }

    /// Files in the place of devices, for tests.
    pub fn from_files(block: OwnedFd, generic: Option<OwnedFd>, nsid: u32) -> Self {
        let alignment = alignment_of(block.as_fd());
        Self {
            block,
            generic,
            nsid,
            alignment,
        }
    }

    /// The namespace's number in its controller.
    pub fn nsid(&self) -> u32 {
        self.nsid
    }

    /// Memory for reads and writes has to begin at a multiple of so many bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Whether the kernel has a path to the controller just now, as far as it knows. Asks nobody but the kernel.
    pub fn has_path(&self) -> bool {
        call::namespace(self.passes()) != Err(Errno::AGAIN)
    }

    /// Asks the controller what it (`structure` 1) or the namespace (0) is, and waits.
    pub fn identify(&self, structure: u32, timeout: Duration) -> Result<Identified, Errno> {
        let mut data = Box::new([0; IDENTIFY_BYTES]);
        let command = Command {
            opcode: IDENTIFY,
            dwords: [0, 0, structure, 0, 0, 0, 0, 0],
            timeout,
        };
        let nsid = if structure == 0 { self.nsid } else { 0 };
        let address = data.as_mut_ptr().expose_provenance() as u64;
        let command = command.for_kernel(nsid, address, IDENTIFY_BYTES as u32);
        // SAFETY: the data are this function's, as long, and not used before the command has ended.
        let answer = unsafe { call::pass(self.passes(), abi::ADMIN, &command) };
        answer.map(|Answer { status, .. }| match status {
            0 => Ok(data),
            status => Err(status),
        })
    }

    pub(crate) fn block(&self) -> BorrowedFd<'_> {
        self.block.as_fd()
    }

    pub(crate) fn generic(&self) -> Option<BorrowedFd<'_>> {
        self.generic.as_ref().map(AsFd::as_fd)
    }

    /// The file that passes commands through.
    pub(crate) fn passes(&self) -> BorrowedFd<'_> {
        self.generic().unwrap_or(self.block())
    }
}

/// What the kernel says, which it does since 6.1.
fn alignment_of(file: BorrowedFd<'_>) -> usize {
    let said = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    match said {
        Ok(said) if said.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            match said.stx_dio_mem_align {
                0 => ALIGNMENT_OF_OLD,
                alignment => alignment as usize,
            }
        }
        _ => ALIGNMENT_OF_OLD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_file_names_the_other() {
        let both = (PathBuf::from("/dev/nvme3n12"), PathBuf::from("/dev/ng3n12"));
        assert_eq!(names(Path::new("/dev/nvme3n12")), Some(both.clone()));
        assert_eq!(names(Path::new("/dev/ng3n12")), Some(both));
        for path in [
            "/dev/nvme0",
            "/dev/nvme0n1p1",
            "/dev/sda",
            "/dev/ngn1",
            "/",
            "/dev/nvme0c0n1",
        ] {
            assert_eq!(names(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("nvme0n1");
        let open = |path: &Path| Device::open(path).map(drop).unwrap_err();
        assert_eq!(open(&missing), OpenError::Open(Errno::NOENT));
        assert_eq!(open(Path::new("/dev/null")), OpenError::Name);
        std::fs::write(&missing, "a file").unwrap();
        assert_eq!(open(&missing), OpenError::Kind);
    }
}
