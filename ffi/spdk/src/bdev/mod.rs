//! Block devices, as their user.
//!
//! [`create`] makes them, [`BdevDesc::open`] opens one, [`BdevDesc::channel`] gives the current
//! SPDK thread a way to send it requests. Requests come in two forms:
//!
//! - [`Io`] with a [`Complete`] handler: one box that circulates, nothing allocated for each
//!   request. For loops that must keep up with the device.
//! - `async` methods of [`Channel`] that take a [`DmaBuf`](crate::DmaBuf) and give it back.

pub mod create;
pub(crate) mod future;
pub(crate) mod io;
mod stat;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use oriel_spdk_sys as sys;
use thiserror::Error;

pub use future::{Memory, RequestError, Transferable};
pub use io::{BlockRange, Buffers, Channel, Complete, Io, IoError, Rejected, Rejection, Scatter};
pub use stat::{Stat, StatError};

use crate::thread::Home;

/// What a descriptor may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads only; others may write.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// What happened to an open device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BdevEvent {
    /// It is going away: let go of channels and the descriptor. What is in flight completes with
    /// errors.
    Removed,
    /// It has another size now.
    Resized,
    /// Something that SPDK knows and this crate does not.
    Other,
}

impl BdevEvent {
    pub(crate) fn from_raw(raw: c_int) -> Self {
        match raw as u32 {
            sys::ORIEL_BDEV_REMOVED => Self::Removed,
            sys::ORIEL_BDEV_RESIZED => Self::Resized,
            _ => Self::Other,
        }
    }
}

/// Why a device was not opened.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// No such device.
    #[error("there is no block device '{name}'; there are: {}", list(known))]
    NotFound {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Somebody in this process has it for himself, for example a blobstore.
    #[error(
        "the block device '{name}' is claimed by another user in this process and cannot be written: open it read-only, or end that user"
    )]
    Claimed {
        /// The device.
        name: String,
    },
    /// SPDK refused for another reason.
    #[error("the block device '{name}' could not be opened ({})", std::io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The device.
        name: String,
        /// The positive errno.
        errno: i32,
    },
}

/// A channel could not be had.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "no I/O channel to '{name}' on this thread: is there enough memory, and the device still there?"
)]
pub struct ChannelError {
    name: String,
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

/// The kinds of request that a device may or may not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum IoKind {
    /// Blocks to memory.
    Read,
    /// Memory to blocks.
    Write,
    /// The content of blocks is no longer needed.
    Unmap,
    /// What was completed becomes durable.
    Flush,
    /// Everything in flight is given up.
    Reset,
    /// An NVMe admin command as it came.
    NvmeAdmin,
    /// An NVMe I/O command as it came.
    NvmeIo,
    /// Blocks become zero.
    WriteZeroes,
    /// One request in flight is given up.
    Abort,
}

const KINDS: [(IoKind, u32); 9] = [
    (IoKind::Read, sys::ORIEL_IO_READ),
    (IoKind::Write, sys::ORIEL_IO_WRITE),
    (IoKind::Unmap, sys::ORIEL_IO_UNMAP),
    (IoKind::Flush, sys::ORIEL_IO_FLUSH),
    (IoKind::Reset, sys::ORIEL_IO_RESET),
    (IoKind::NvmeAdmin, sys::ORIEL_IO_NVME_ADMIN),
    (IoKind::NvmeIo, sys::ORIEL_IO_NVME_IO),
    (IoKind::WriteZeroes, sys::ORIEL_IO_WRITE_ZEROES),
    (IoKind::Abort, sys::ORIEL_IO_ABORT),
];

impl IoKind {
    pub(crate) fn from_raw(raw: c_int) -> Option<Self> {
        KINDS
            .iter()
            .find(|(_, number)| i64::from(*number) == i64::from(raw))
            .map(|(kind, _)| *kind)
    }

    fn raw(self) -> c_int {
        let found = KINDS.iter().find(|(kind, _)| *kind == self);
        found
            .map(|(_, number)| *number as c_int)
            .expect("KINDS lists every kind")
    }
}

/// The names of all devices, virtual ones included.
///
/// # Panics
/// On another SPDK thread than the one that started the subsystems: devices come and go there, and
/// SPDK's list has no lock in every release.
pub fn names() -> Vec<String> {
    assert!(
        crate::subsystems::run_here(),
        "block devices are listed on the SPDK thread that started the subsystems, while they run"
    );
    let mut names = Vec::new();
    // SAFETY: this is the thread that changes the list, and the walk calls nothing that does.
    let mut next = unsafe { sys::spdk_bdev_first() };
    while let Some(bdev) = NonNull::new(next) {
        names.push(info(bdev).0);
        // SAFETY: as above; `bdev` is in the list.
        next = unsafe { sys::spdk_bdev_next(bdev.as_ptr()) };
    }
    names
}

/// Whether a device of that name exists.
///
/// # Panics
/// As [`names`].
pub fn exists(name: &str) -> bool {
    names().iter().any(|known| known == name)
}

/// The devices that are open in this process, for those who wait until none is.
static OPEN: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

fn count_open(name: &str, change: impl FnOnce(usize) -> usize) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let count = change(open.get(name).copied().unwrap_or(0));
    match count {
        0 => open.remove(name),
        count => open.insert(name.to_owned(), count),
    };
}

/// The names of the devices that are open.
pub(crate) fn open_names() -> Vec<String> {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.keys().cloned().collect()
}

fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // SAFETY: SPDK's names are NUL-terminated and live as long as the device, which is open or listed.
    unsafe { CStr::from_ptr(chars) }
        .to_string_lossy()
        .into_owned()
}

fn info(bdev: NonNull<sys::spdk_bdev>) -> (String, sys::oriel_bdev_info) {
    let mut info = std::mem::MaybeUninit::zeroed();
    // SAFETY: the device exists, and the shim fills every field.
    unsafe { sys::oriel_bdev_info(bdev.as_ptr(), info.as_mut_ptr()) };
    // SAFETY: filled above; all-zero would be valid too.
    let info: sys::oriel_bdev_info = unsafe { info.assume_init() };
    (text(info.name), info)
}

type EventHandler = RefCell<Box<dyn FnMut(BdevEvent)>>;

/// What a descriptor, its channels and their requests share.
pub(crate) struct DescInner {
    raw: NonNull<sys::spdk_bdev_desc>,
    handle: *mut c_void,
    handler: *const EventHandler,
    pub(crate) home: Home,
    pub(crate) block_size: u32,
    name: String,
}

impl DescInner {
    pub(crate) fn as_ptr(&self) -> *mut sys::spdk_bdev_desc {
        self.raw.as_ptr()
    }

    pub(crate) fn bdev(&self) -> NonNull<sys::spdk_bdev> {
        // SAFETY: the descriptor is open, and its device exists until it is closed.
        NonNull::new(unsafe { sys::spdk_bdev_desc_get_bdev(self.raw.as_ptr()) })
            .expect("an open descriptor has a device")
    }
}

impl Drop for DescInner {
    fn drop(&mut self) {
        self.home.enter(|| {
            // SAFETY: opened on `home`, closed once; no channel is left, since each holds this Rc.
            unsafe { sys::oriel_bdev_close(self.raw.as_ptr(), self.handle) }
        });
        // SAFETY: gives up the count that open() leaked; closed descriptors get no more events.
        unsafe { Rc::decrement_strong_count(self.handler) };
        count_open(&self.name, |count| count - 1);
    }
}

extern "C" fn on_event(ctx: *mut c_void, event: c_int) {
    let handler = ctx.cast::<EventHandler>().cast_const();
    // SAFETY: the descriptor holds a count while it is open; this one keeps the handler alive even
    // if it drops its own descriptor.
    unsafe { Rc::increment_strong_count(handler) };
    // SAFETY: balances the increment above.
    let handler = unsafe { Rc::from_raw(handler) };
    (handler.borrow_mut())(BdevEvent::from_raw(event));
}

/// An open block device. It closes once this and every channel made from it is dropped.
pub struct BdevDesc {
    inner: Rc<DescInner>,
}

impl BdevDesc {
    /// Opens a device on the current SPDK thread. `on_event` is called on the same thread.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub fn open(
        name: &str,
        access: Access,
        on_event_fn: impl FnMut(BdevEvent) + 'static,
    ) -> Result<Self, OpenError> {
        let home = Home::current("opening a block device");
        let not_found = || OpenError::NotFound {
            name: name.into(),
            // Elsewhere the list may change meanwhile.
            known: match crate::subsystems::run_here() {
                true => names(),
                false => Vec::new(),
            },
        };
        let c_name = CString::new(name).map_err(|_| not_found())?;
        let handler: Rc<EventHandler> = Rc::new(RefCell::new(Box::new(on_event_fn)));
        let handler = Rc::into_raw(handler);
        let mut raw = std::ptr::null_mut();
        let mut handle = std::ptr::null_mut();
        let write = access == Access::ReadWrite;
        // SAFETY: an SPDK thread is current; the handler lives until the descriptor is closed.
        let rc = unsafe {
            sys::oriel_bdev_open(
                c_name.as_ptr(),
                write,
                Some(on_event),
                handler.cast_mut().cast(),
                &mut raw,
                &mut handle,
            )
        };
        let Some(raw) = NonNull::new(raw).filter(|_| rc == 0) else {
            // SAFETY: a failed open kept no pointer to the handler.
            unsafe { Rc::decrement_strong_count(handler) };
            // Old releases call a missing device an invalid argument.
            return Err(match -rc {
                _ if crate::subsystems::run_here() && !exists(name) => not_found(),
                libc::ENODEV | libc::EINVAL => not_found(),
                libc::EPERM => OpenError::Claimed { name: name.into() },
                errno => OpenError::Failed {
                    name: name.into(),
                    errno,
                },
            });
        };
        // SAFETY: just opened.
        let bdev = unsafe { sys::spdk_bdev_desc_get_bdev(raw.as_ptr()) };
        let bdev = NonNull::new(bdev).expect("an open descriptor has a device");
        let block_size = info(bdev).1.block_size;
        count_open(name, |count| count + 1);
        let inner = DescInner {
            raw,
            handle,
            handler,
            home,
            block_size,
            name: name.into(),
        };
        Ok(Self {
            inner: Rc::new(inner),
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What kind of device it is, in SPDK's words, for example "Malloc disk".
    pub fn product(&self) -> String {
        text(info(self.inner.bdev()).1.product)
    }

    /// Bytes in a block.
    pub fn block_size(&self) -> u32 {
        self.inner.block_size
    }

    /// Blocks now; a resize changes it.
    pub fn block_count(&self) -> u64 {
        info(self.inner.bdev()).1.blocks
    }

    /// What buffers' addresses should be a multiple of, in bytes.
    pub fn buffer_align(&self) -> usize {
        info(self.inner.bdev()).1.buffer_align.max(1)
    }

    /// Requests that do not cross multiples of this many blocks are not split; 0 if there is none.
    pub fn optimal_boundary_blocks(&self) -> u32 {
        info(self.inner.bdev()).1.optimal_boundary_blocks
    }

    /// The least that can be written without the device reading first, in blocks.
    pub fn write_unit_blocks(&self) -> u32 {
        info(self.inner.bdev()).1.write_unit_blocks
    }

    /// Whether completed writes wait in a volatile cache until a flush.
    pub fn has_write_cache(&self) -> bool {
        info(self.inner.bdev()).1.write_cache
    }

    /// The device's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        info(self.inner.bdev()).1.uuid
    }

    /// Whether the device takes such requests.
    pub fn supports(&self, kind: IoKind) -> bool {
        // SAFETY: the device exists while the descriptor is open.
        unsafe { sys::oriel_bdev_supports(self.inner.bdev().as_ptr(), kind.raw()) }
    }

    /// A way to send requests from the current SPDK thread, which may differ from the one that
    /// opened the device only if both are polled by the same OS thread.
    ///
    /// # Panics
    /// When no SPDK thread is current.
    pub fn channel(&self) -> Result<Channel, ChannelError> {
        let home = Home::current("an I/O channel");
        // SAFETY: the descriptor is open and an SPDK thread is current.
        let raw = unsafe { sys::spdk_bdev_get_io_channel(self.inner.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| ChannelError {
            name: self.inner.name.clone(),
        })?;
        Ok(Channel::new(raw, Rc::clone(&self.inner), home))
    }

    /// What the device has done since it came to be.
    pub async fn stat(&self) -> Result<Stat, StatError> {
        stat::read(&self.inner).await
    }
}
