//! Mapped memory as a slice of atomic words: the only unsafe code of this crate.
//!
//! Everything above sees `&[AtomicU64]`. Loads and stores of atomics are sound whatever another thread, or another
//! process that maps the same file, does meanwhile; what is read is checked before it is believed.
//!
//! Invariants:
//! - `start` is page-aligned and `words` words from it stay mapped, readable and writable, until the drop.
//! - Nobody gets a reference that outlives the mapping: `words()` borrows from it.
//!
//! What it does not do: a file that someone else cuts while it is mapped ends the process with SIGBUS, as with every
//! mapping. The region holds a lock on its file so that only strangers to it can.

#[cfg(not(loom))]
pub(crate) use mapped::Memory;
#[cfg(loom)]
pub(crate) use modelled::Memory;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, fence};

#[cfg(not(loom))]
#[allow(unsafe_code)]
mod mapped {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::ptr::NonNull;

    use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

    use super::AtomicU64;
    use crate::limits::LINE_BYTES;
    use crate::region::flush::Flush;

    #[derive(Debug)]
    pub(crate) struct Memory {
        start: NonNull<AtomicU64>,
        words: usize,
    }

    // SAFETY: the mapping belongs to the process, not to a thread, and is only unmapped by the drop of its one owner.
    unsafe impl Send for Memory {}
    // SAFETY: all that a shared `Memory` gives away is a slice of atomics.
    unsafe impl Sync for Memory {}

    impl Memory {
        /// Zeroed memory of this process. `bytes` is a multiple of the page size.
        pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            let start = unsafe {
                rustix::mm::mmap_anonymous(
                    std::ptr::null_mut(),
                    bytes,
                    protection,
                    MapFlags::PRIVATE,
                )
            }?;
            Self::own(start, bytes)
        }

        /// The first `bytes` of a file or device, shared with it. `bytes` is a multiple of its page size, and the
        /// caller has seen that the file is at least that long.
        pub(crate) fn shared(file: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
            let start = unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    protection,
                    MapFlags::SHARED,
                    file,
                    0,
                )
            }?;
            Self::own(start, bytes)
        }

        fn own(start: *mut std::ffi::c_void, bytes: usize) -> io::Result<Self> {
            let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
            Ok(Self {
                start,
                words: bytes / size_of::<AtomicU64>(),
            })
        }

        #[inline(always)]
        pub(crate) fn words(&self) -> &[AtomicU64] {
            // SAFETY: `start` is page-aligned and followed by `words` mapped words for as long as `self` lives; any
            // bit pattern is an `AtomicU64`, and nothing but atomics is ever made of this memory.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
        }

        pub(crate) fn bytes(&self) -> usize {
            self.words * size_of::<AtomicU64>()
        }

        /// Asks for large pages where the kernel can give them; it is no error if not.
        pub(crate) fn prefer_large_pages(&self) {
            self.advise(Advice::LinuxHugepage);
        }

        /// Brings every page in now, so that none is brought in, and zeroed, under a lookup or insert.
        pub(crate) fn populate(&self) {
            self.advise(Advice::LinuxPopulateWrite);
        }

        fn advise(&self, advice: Advice) {
            let (start, bytes) = (self.start.as_ptr().cast(), self.bytes());
            // SAFETY: the range is this mapping; neither advice used above changes what its bytes are.
            let _ = unsafe { rustix::mm::madvise(start, bytes, advice) };
        }

        /// Waits until the file behind the mapping has its first `bytes`.
        pub(crate) fn sync_file(&self, bytes: usize) -> io::Result<()> {
            let start = self.start.as_ptr().cast();
            let bytes = bytes.min(self.bytes());
            // SAFETY: the range begins with this mapping and ends in it; writing it back changes no byte of it.
            unsafe { rustix::mm::msync(start, bytes, MsyncFlags::SYNC) }?;
            Ok(())
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: the range is this mapping, and no reference into it is left: all of them borrow `self`.
            let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes()) };
            debug_assert!(unmapped.is_ok(), "the range was mapped by `own`'s callers");
        }
    }

    /// Asks for the cache line that `place` begins in, without waiting for it.
    #[inline(always)]
    pub fn prefetch<T>(place: &T) {
        let at = std::ptr::from_ref(place).cast();
        // SAFETY: a prefetch reads nothing that the program can see, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
    }

    /// Asks for all cache lines of `what`, without waiting for them.
    #[inline(always)]
    pub fn prefetch_whole<T: ?Sized>(what: &T) {
        let start = std::ptr::from_ref(what).cast::<u8>();
        for line in (0..size_of_val(what)).step_by(64) {
            let at = start.wrapping_add(line).cast();
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
        }
    }

    /// Starts writing the line that holds `word` back to memory.
    pub(crate) fn write_back(word: &AtomicU64, flush: Flush) {
        let at = std::ptr::from_ref(word);
        match flush {
            // SAFETY: `Flush::detect` found the instruction; it writes a line back and changes no byte.
            Flush::Clwb => unsafe {
                core::arch::asm!("clwb [{}]", in(reg) at, options(nostack, preserves_flags));
            },
            // SAFETY: as above; the line also leaves the cache.
            Flush::ClflushOpt => unsafe {
                core::arch::asm!("clflushopt [{}]", in(reg) at, options(nostack, preserves_flags));
            },
            // SAFETY: every x86-64 processor has it; the line also leaves the cache.
            Flush::Clflush => unsafe {
                core::arch::asm!("clflush [{}]", in(reg) at, options(nostack, preserves_flags));
            },
        }
    }

    /// Waits for what `write_back` started on this thread.
    pub(crate) fn write_back_fence() {
        // SAFETY: every x86-64 processor has it; it orders stores and changes nothing.
        unsafe { core::arch::asm!("sfence", options(nostack, preserves_flags)) };
    }

    /// Waits for all loads and stores before, and lets none after start early: sets timed loads apart.
    pub(crate) fn full_fence() {
        // SAFETY: every x86-64 processor has it; it orders memory accesses and changes nothing.
        unsafe { core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags)) };
    }

    const _: () = assert!(LINE_BYTES == 64, "what the flush instructions work on");
}

#[cfg(not(loom))]
pub(crate) use mapped::{full_fence, write_back, write_back_fence};
#[cfg(not(loom))]
pub use mapped::{prefetch, prefetch_whole};

/// The same words on the heap, each watched by the model checker.
#[cfg(loom)]
mod modelled {
    use super::AtomicU64;

    #[derive(Debug)]
    pub(crate) struct Memory {
        words: Box<[AtomicU64]>,
    }

    impl Memory {
        pub(crate) fn zeroed(words: usize) -> Self {
            Self {
                words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            }
        }

        pub(crate) fn words(&self) -> &[AtomicU64] {
            &self.words
        }
    }
}

#[cfg(loom)]
pub(crate) fn prefetch<T>(_place: &T) {}
