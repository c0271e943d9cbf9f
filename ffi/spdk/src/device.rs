//! Block devices written in Rust.
//!
//! A [`Device`] answers [`Request`]s, which SPDK, a blobstore or an NVMe-oF target sends it through
//! the bdev layer. It is shared by all SPDK threads; what belongs to one thread lives in its
//! [`Device::Channel`]. Every request must be completed; one that is dropped fails.

mod lent;

use std::ffi::{CString, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oriel_spdk_sys as sys;
use thiserror::Error;

use crate::bdev::{BlockRange, IoError, IoKind};
use crate::oneshot::{oneshot, reply_rc};
use crate::thread::Home;
pub use lent::Lent;

/// What a device does.
pub trait Device: Send + Sync + 'static {
    /// What one SPDK thread needs to drive it.
    type Channel: 'static;

    /// Whether it takes such requests.
    fn supports(&self, kind: IoKind) -> bool;

    /// Called when an SPDK thread starts to use the device. None if it cannot be used there.
    fn channel(&self) -> Option<Self::Channel>;

    /// The NVMe I/O commands that it takes beside those that `supports` tells of, by opcode. An NVMe-oF target lists them in its
    /// Commands Supported and Effects log.
    fn nvme_commands(&self) -> Vec<(u8, NvmeEffect)> {
        Vec::new()
    }

    /// Takes a request on the channel's SPDK thread. It may be completed at once or later.
    fn submit(&self, channel: &Self::Channel, request: Request);
}

/// What an NVMe command does to the blocks of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmeEffect {
    /// It only looks at them.
    Looks,
    /// It may change what is in them.
    Changes,
}

impl NvmeEffect {
    fn bits(self) -> u32 {
        let changes = match self {
            Self::Looks => 0,
            Self::Changes => sys::ORIEL_EFFECT_CHANGES_CONTENT,
        };
        sys::ORIEL_EFFECT_SUPPORTED | changes
    }
}

/// NVMe's own I/O commands that a device takes if it takes such requests.
const NVME_COMMANDS: [(IoKind, u8, NvmeEffect); 5] = [
    (IoKind::Flush, 0x00, NvmeEffect::Looks),
    (IoKind::Write, 0x01, NvmeEffect::Changes),
    (IoKind::Read, 0x02, NvmeEffect::Looks),
    (IoKind::WriteZeroes, 0x08, NvmeEffect::Changes),
    (IoKind::Unmap, 0x09, NvmeEffect::Changes),
];

/// By opcode, what the Commands Supported and Effects log says.
fn effects<D: Device>(device: &D) -> [u32; 256] {
    let own = NVME_COMMANDS.into_iter();
    let own = own.filter(|(kind, ..)| device.supports(*kind));
    let own = own.map(|(_, opcode, effect)| (opcode, effect));
    let mut effects = [0; 256];
    for (opcode, effect) in own.chain(device.nvme_commands()) {
        effects[usize::from(opcode)] = effect.bits();
    }
    effects
}

/// How a device presents itself.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// Its name among block devices.
    pub name: String,
    /// What kind of device it is.
    pub product: String,
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Requests are split so that none crosses a multiple of this many blocks; 0 for no splitting.
    pub boundary_blocks: u32,
    /// Whether completed writes wait in a volatile cache until a flush.
    pub write_cache: bool,
    /// Its UUID.
    pub uuid: [u8; 16],
}

/// Why a device was not registered.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is taken.
    #[error("a block device '{name}' exists already: choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A geometry that cannot be.
    #[error(
        "a device of {blocks} blocks of {block_size} bytes cannot be: both must be positive, the size a multiple of 512"
    )]
    BadGeometry {
        /// Blocks.
        blocks: u64,
        /// Bytes in a block.
        block_size: u32,
    },
    /// A name that C cannot carry.
    #[error("the device's name or product contains a NUL byte")]
    BadName,
    /// SPDK refused for another reason.
    #[error("the block device '{name}' could not be registered ({})", std::io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The name.
        name: String,
        /// The positive errno.
        errno: i32,
    },
}

/// An NVMe pass-through command and its buffer.
pub struct NvmeCommand<'a> {
    /// The 64 bytes of the command.
    pub bytes: &'a [u8; 64],
    /// The data, if the command carries any.
    pub data: &'a mut [u8],
}

/// A request to a [`Device`]. Complete it; dropping it fails it.
pub struct Request {
    raw: NonNull<sys::spdk_bdev_io>,
    io: sys::oriel_io,
}

/// The status of a request that was dropped: NVMe's generic "internal error".
const DROPPED: IoError = IoError {
    status_type: 0,
    status_code: 0x06,
};

impl Request {
    fn of(raw: NonNull<sys::spdk_bdev_io>) -> Self {
        let mut parts = std::mem::MaybeUninit::zeroed();
        // SAFETY: the request is live, and the shim fills the struct.
        unsafe { sys::oriel_io_get(raw.as_ptr(), parts.as_mut_ptr()) };
        // SAFETY: filled above; all-zero would be valid too.
        let io = unsafe { parts.assume_init() };
        Self { raw, io }
    }

    /// What is asked. None for a kind that this crate does not know; fail those.
    pub fn kind(&self) -> Option<IoKind> {
        IoKind::from_raw(self.io.type_)
    }

    /// The blocks that it is about.
    pub fn range(&self) -> BlockRange {
        BlockRange::new(self.io.offset_blocks, self.io.num_blocks)
    }

    /// The memory to fill (read) or to take from (write), in order.
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let count = if self.io.iov.is_null() {
            0
        } else {
            self.io.iovcnt.max(0) as usize
        };
        let base = self.io.iov;
        (0..count).map(move |index| {
            // SAFETY: SPDK's array has `iovcnt` entries, and `index` is below that.
            let iov = unsafe { base.add(index) };
            // SAFETY: the entry is initialised and lives until the request completes.
            let iov = unsafe { &*iov };
            // SAFETY: each entry is memory lent to this request alone, and the exclusive borrow of
            // self lets one user at it at a time; entries of one request do not overlap.
            unsafe { std::slice::from_raw_parts_mut(iov.iov_base.cast::<u8>(), iov.iov_len) }
        })
    }

    /// The NVMe command, if this is a pass-through.
    pub fn nvme(&mut self) -> Option<NvmeCommand<'_>> {
        let bytes = NonNull::new(self.io.nvme_cmd.cast_mut().cast::<[u8; 64]>())?;
        let len = if self.io.nvme_buf.is_null() {
            0
        } else {
            self.io.nvme_len as usize
        };
        let start = NonNull::new(self.io.nvme_buf.cast::<u8>()).unwrap_or(NonNull::dangling());
        // SAFETY: SPDK's command is 64 bytes (the NVMe base specification's submission queue entry)
        // and lives until the request completes.
        let bytes = unsafe { bytes.as_ref() };
        // SAFETY: SPDK lends `nvme_len` bytes to this request; an empty slice needs no memory.
        let data = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) };
        Some(NvmeCommand { bytes, data })
    }

    /// Ends the request.
    pub fn complete(self, result: Result<(), IoError>) {
        match result {
            Ok(()) => {
                let raw = self.into_raw();
                // SAFETY: the request is live and completed once: into_raw disarmed drop.
                unsafe { sys::oriel_io_complete(raw.as_ptr(), true) };
            }
            Err(error) => self.complete_nvme(0, error),
        }
    }

    /// Ends an NVMe pass-through successfully, with dword 0 of its completion.
    pub fn complete_with_dword0(self, dword0: u32) {
        self.complete_nvme(
            dword0,
            IoError {
                status_type: 0,
                status_code: 0,
            },
        );
    }

    /// Ends an NVMe pass-through with dword 0 of its completion and a status.
    pub fn complete_nvme(self, dword0: u32, status: IoError) {
        let raw = self.into_raw();
        // SAFETY: as in complete().
        unsafe {
            sys::oriel_io_complete_nvme(
                raw.as_ptr(),
                dword0,
                status.status_type.into(),
                status.status_code.into(),
            )
        };
    }

    fn into_raw(self) -> NonNull<sys::spdk_bdev_io> {
        let raw = self.raw;
        std::mem::forget(self);
        raw
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let (status_type, status_code) = (DROPPED.status_type.into(), DROPPED.status_code.into());
        // SAFETY: the request is live: whoever completes it forgets it first.
        unsafe { sys::oriel_io_complete_nvme(self.raw.as_ptr(), 0, status_type, status_code) };
    }
}

/// A device as SPDK has it.
struct Held<D> {
    device: D,
    is_gone: Arc<AtomicBool>,
}

extern "C" fn destruct<D: Device>(ctx: *mut c_void) {
    // SAFETY: `ctx` is the box that register() leaked; SPDK destroys a device once, after its channels.
    let held = unsafe { Box::from_raw(ctx.cast::<Held<D>>()) };
    held.is_gone.store(true, Ordering::Release);
}

extern "C" fn supports<D: Device>(ctx: *mut c_void, kind: c_int) -> bool {
    // SAFETY: the device lives until destruct.
    let Held { device, .. } = unsafe { &*ctx.cast::<Held<D>>() };
    IoKind::from_raw(kind).is_some_and(|kind| device.supports(kind))
}

extern "C" fn channel_create<D: Device>(ctx: *mut c_void) -> *mut c_void {
    // SAFETY: the device lives until destruct.
    let Held { device, .. } = unsafe { &*ctx.cast::<Held<D>>() };
    // One byte of padding keeps the box from being zero-sized: null means "none" to the shim.
    device.channel().map_or(std::ptr::null_mut(), |channel| {
        Box::into_raw(Box::new((channel, 0u8))).cast()
    })
}

extern "C" fn channel_destroy<D: Device>(_ctx: *mut c_void, channel: *mut c_void) {
    // SAFETY: made by channel_create, destroyed once, on the same thread.
    drop(unsafe { Box::from_raw(channel.cast::<(D::Channel, u8)>()) });
}

extern "C" fn submit<D: Device>(
    ctx: *mut c_void,
    channel: *mut c_void,
    io: *mut sys::spdk_bdev_io,
) {
    // SAFETY: the device lives until destruct.
    let Held { device, .. } = unsafe { &*ctx.cast::<Held<D>>() };
    // SAFETY: the channel lives until channel_destroy; only shared references are ever made.
    let channel = unsafe { &*channel.cast::<(D::Channel, u8)>() };
    let raw = NonNull::new(io).expect("SPDK submits live requests");
    device.submit(&channel.0, Request::of(raw));
}

/// A registered device. [`Registered::unregister`] takes it away; dropping this leaves it to the
/// end of the subsystems.
pub struct Registered {
    raw: NonNull<sys::oriel_bdev>,
    is_gone: Arc<AtomicBool>,
    home: Home,
    _on_one_thread: PhantomData<*mut ()>,
}

/// A device did not go.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the block device could not be unregistered ({})", std::io::Error::from_raw_os_error(*errno))]
pub struct UnregisterError {
    errno: i32,
}

/// Registers a device with the bdev layer, on the current SPDK thread.
///
/// # Panics
/// When no SPDK thread is current.
pub fn register<D: Device>(spec: &DeviceSpec, device: D) -> Result<Registered, RegisterError> {
    let home = Home::current("registering a block device");
    if spec.blocks == 0 || spec.block_size == 0 || !spec.block_size.is_multiple_of(512) {
        return Err(RegisterError::BadGeometry {
            blocks: spec.blocks,
            block_size: spec.block_size,
        });
    }
    let name = CString::new(&*spec.name).map_err(|_| RegisterError::BadName)?;
    let product = CString::new(&*spec.product).map_err(|_| RegisterError::BadName)?;
    let ops = sys::oriel_bdev_ops {
        destruct: Some(destruct::<D>),
        supports: Some(supports::<D>),
        channel_create: Some(channel_create::<D>),
        channel_destroy: Some(channel_destroy::<D>),
        submit: Some(submit::<D>),
    };
    let effects = effects(&device);
    let raw_spec = sys::oriel_bdev_spec {
        name: name.as_ptr(),
        product: product.as_ptr(),
        effects: effects.as_ptr(),
        blocks: spec.blocks,
        block_size: spec.block_size,
        optimal_boundary_blocks: spec.boundary_blocks,
        write_cache: spec.write_cache,
        uuid: spec.uuid,
    };
    let is_gone = Arc::new(AtomicBool::new(false));
    let ctx = Box::into_raw(Box::new(Held {
        device,
        is_gone: is_gone.clone(),
    }));
    let mut out = std::ptr::null_mut();
    // SAFETY: the shim copies names and tables; `ctx` lives until destruct::<D> takes it back.
    let rc = unsafe { sys::oriel_bdev_register(&raw_spec, &ops, ctx.cast(), &mut out) };
    let Some(raw) = NonNull::new(out).filter(|_| rc == 0) else {
        // SAFETY: the shim calls nothing of a device that it did not register.
        drop(unsafe { Box::from_raw(ctx) });
        return Err(match -rc {
            libc::EEXIST => RegisterError::NameTaken {
                name: spec.name.clone(),
            },
            errno => RegisterError::Failed {
                name: spec.name.clone(),
                errno,
            },
        });
    };
    Ok(Registered {
        raw,
        is_gone,
        home,
        _on_one_thread: PhantomData,
    })
}

impl Registered {
    /// Takes the device away. Whoever has it open gets `Removed`; returns once all have let go and
    /// the device is dropped.
    pub async fn unregister(self) -> Result<(), UnregisterError> {
        // The end of the subsystems takes every device with it.
        if self.is_gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let (reply, gone) = oneshot::<c_int>();
        // SAFETY: the device is there (checked) and unregistered once (self is consumed); reply_rc
        // takes the reply back once.
        self.home.enter(|| unsafe {
            sys::oriel_bdev_unregister(self.raw.as_ptr(), Some(reply_rc), reply.into_raw())
        });
        match gone.await {
            0 => Ok(()),
            rc => Err(UnregisterError { errno: rc.abs() }),
        }
    }
}
