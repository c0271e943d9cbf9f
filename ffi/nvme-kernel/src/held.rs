//! Memory that the kernel may read from and write to.
//!
//! While a [`Held`] is there, its memory is borrowed from its owner, who is inside: nobody can look at it, change it or free
//! it. The pieces of it that operations have keep it there. What was in it comes out when nobody else has it.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// An owner of memory.
pub trait Buffer: Send + 'static {
    /// All of its memory.
    fn bytes(&mut self) -> &mut [u8];
}

impl Buffer for Vec<u8> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }
}

impl Buffer for Box<[u8]> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }
}

/// An owner of memory, set aside.
pub struct Held<B: Buffer> {
    /// From a box, and freed by one.
    owner: NonNull<B>,
    /// Borrowed from the owner as long as this is there.
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the owner is `Send`, and goes where this goes; the memory is the owner's.
unsafe impl<B: Buffer> Send for Held<B> {}
// SAFETY: by a shared reference nobody reaches the owner or reads or writes the memory: `piece` and `is_aligned` use the
// memory's address and length alone, and the kernel, which uses more of it, is not bound by Rust's rules of aliasing.
unsafe impl<B: Buffer> Sync for Held<B> {}

impl<B: Buffer> Held<B> {
    /// Sets it aside.
    pub fn new(owner: B) -> Arc<Self> {
        let owner = NonNull::from(Box::leak(Box::new(owner)));
        // SAFETY: the box was made on the line before and nobody else knows it. The borrow lasts as long as this value, which
        // gives the owner to nobody before it ends (`into_inner`, `drop`).
        let bytes = unsafe { &mut *owner.as_ptr() }.bytes();
        let length = bytes.len();
        let start = NonNull::from(bytes).cast();
        Arc::new(Self {
            owner,
            start,
            length,
        })
    }

    /// The owner, if no operation has a piece of it any more and nobody else has this.
    pub fn into_inner(held: Arc<Self>) -> Result<B, Arc<Self>> {
        let held = std::mem::ManuallyDrop::new(Arc::try_unwrap(held)?);
        // SAFETY: the owner came from a box and is taken back once: `drop` does not run. The borrow of its memory has ended,
        // since only pieces use it, and each of them has a clone of the `Arc`.
        Ok(*unsafe { Box::from_raw(held.owner.as_ptr()) })
    }

    /// Bytes of the memory.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether the memory begins at a multiple of so many bytes.
    pub fn is_aligned(&self, to: usize) -> bool {
        self.start.addr().get().is_multiple_of(to)
    }

    /// A part of the memory; `None` if it has no such part.
    pub fn piece(held: &Arc<Self>, range: Range<usize>) -> Option<Piece<B>> {
        let fits = range.start <= range.end && range.end <= held.length;
        fits.then(|| Piece {
            held: Arc::clone(held),
            range,
        })
    }
}

impl<B: Buffer> Drop for Held<B> {
    fn drop(&mut self) {
        // SAFETY: as in `into_inner`, which does not let this run.
        drop(unsafe { Box::from_raw(self.owner.as_ptr()) });
    }
}

/// A part of memory that is held, for one operation.
pub struct Piece<B: Buffer> {
    held: Arc<Held<B>>,
    range: Range<usize>,
}

impl<B: Buffer> Piece<B> {
    /// Its first byte. Valid for reads and writes of [`Piece::length`] bytes as long as this piece is there.
    pub(crate) fn start(&self) -> *mut u8 {
        // Within the memory, or one behind its end: `Held::piece` has seen to that.
        self.held.start.as_ptr().wrapping_add(self.range.start)
    }

    pub(crate) fn length(&self) -> usize {
        self.range.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn memory_comes_out_as_it_went_in_once_nobody_has_a_piece() {
        let bytes: Vec<u8> = (0..100).collect();
        let address = bytes.as_ptr();
        let held = Held::new(bytes);
        assert_eq!(held.length(), 100);
        assert!(held.is_aligned(1));
        let piece = Held::piece(&held, 10..30).unwrap();
        assert_eq!(
            (piece.start().cast_const(), piece.length()),
            (address.wrapping_add(10), 20)
        );
        assert!(Held::piece(&held, 90..101).is_none());
        let held = Held::into_inner(held).map(drop).unwrap_err();
        drop(piece);
        let bytes = Held::into_inner(held).map_err(drop).unwrap();
        assert_eq!(bytes.as_ptr(), address);
        assert!(bytes.into_iter().eq(0..100));
    }

    #[test]
    fn an_owner_that_is_never_asked_for_is_dropped_once() {
        static DROPPED: AtomicU32 = AtomicU32::new(0);
        struct Counted([u8; 4]);
        impl Buffer for Counted {
            fn bytes(&mut self) -> &mut [u8] {
                &mut self.0
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        let held = Held::new(Counted([0; 4]));
        let piece = Held::piece(&held, 0..4);
        drop(held);
        assert_eq!(DROPPED.load(Ordering::Relaxed), 0);
        drop(piece);
        assert_eq!(DROPPED.load(Ordering::Relaxed), 1);
        drop(Held::into_inner(Held::new(Counted([0; 4]))).map_err(drop));
        assert_eq!(DROPPED.load(Ordering::Relaxed), 2);
    }
}
