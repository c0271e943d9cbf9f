//! Buffers that begin with a page, as memory for DMA does.

use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;
/// How many pages further at most a buffer begins than it could.
const SHIFTS: usize = 64;

/// Bytes from the start of a page on.
pub(super) struct Pages {
    bytes: Vec<u8>,
    /// Where in `bytes` the first page begins.
    start: usize,
    length: usize,
}

impl Pages {
    /// So many bytes, the first one and every later one made from its place. Other seeds give other addresses.
    pub(super) fn filled(length: usize, seed: usize, byte: impl Fn(usize) -> u8) -> Self {
        let shift = (seed.wrapping_mul(0x9e37_79b9) >> 16) % SHIFTS;
        let mut pages = Self {
            bytes: vec![0; length + (SHIFTS + 1) * PAGE],
            start: 0,
            length,
        };
        pages.start = pages.bytes.as_ptr().align_offset(PAGE) + shift * PAGE;
        for (place, to) in pages.iter_mut().enumerate() {
            *to = byte(place);
        }
        pages
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.length]
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.length]
    }
}
