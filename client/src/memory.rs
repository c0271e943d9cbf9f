//! Memory that commands read from and write into.
//!
//! A transport takes the memory with the command and gives it back with the result, so nothing that a device or the
//! network still writes to is ever freed. What a transport needs to know of it is in its [`Region`]: NVMe/TCP wants bytes
//! that the CPU can reach ([`Memory::host`]), RDMA an address, a length and a registration, whether it is the host's memory
//! or a GPU's. A transport that cannot use a region says so and gives the memory back.

use std::any::Any;
use std::ops::Range;

use crate::limits::ALIGNMENT;

/// Whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Placement {
    /// The host's.
    Host,
    /// A device's, such as a GPU's, by the number that its driver gives it.
    Device(u32),
}

/// What a network card has to name to use a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registration {
    /// The key by which the card itself uses it.
    pub local_key: u32,
    /// The key by which the other side does.
    pub remote_key: u32,
}

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Its first byte, as its owner (CPU or device) addresses it.
    pub address: u64,
    /// How long it is.
    pub bytes: usize,
    /// Whose it is.
    pub placement: Placement,
    /// How a network card may use it; `None` for memory that no card knows.
    pub registration: Option<Registration>,
}

/// Memory for one command. Its region does not change while a command has it.
pub trait Memory: Any + Send {
    /// Where it is.
    fn region(&self) -> Region;

    /// Its bytes, if the CPU can reach them.
    fn host(&self) -> Option<&[u8]>;

    /// Its bytes to write to, if the CPU can reach them.
    fn host_mut(&mut self) -> Option<&mut [u8]>;

    /// Bytes have come that a command fills it with, while others are still on their way: for memory that has something to do
    /// with them while they are in the CPU's cache. What lies before them in the same block of the device has come, too. A
    /// transport need not say so; of bytes that come once more, after a lost connection, it tells again if it did before. It is
    /// called by who does the controller's I/O, which waits for it: all other commands do as well.
    fn arrived(&mut self, _bytes: Range<usize>) {}
}

fn region_of(bytes: &[u8]) -> Region {
    Region {
        address: bytes.as_ptr().addr() as u64,
        bytes: bytes.len(),
        placement: Placement::Host,
        registration: None,
    }
}

impl Memory for Vec<u8> {
    fn region(&self) -> Region {
        region_of(self)
    }

    fn host(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        Some(self)
    }
}

impl Memory for Box<[u8]> {
    fn region(&self) -> Region {
        region_of(self)
    }

    fn host(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        Some(self)
    }
}

/// Memory of the host that begins at a multiple of 4 KiB, as plain reads and writes of the kernel's devices (`O_DIRECT`) want it.
/// Kernels since 6.1 say when they do with less; what does not suit them costs a copy there.
// Not `Clone`: what a clone of the room begins at is another address.
#[derive(PartialEq, Eq, Debug)]
pub struct Aligned(Part<Vec<u8>>);

impl Aligned {
    /// So many zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let room = vec![0; bytes + ALIGNMENT - 1];
        let address = room.as_ptr().addr();
        let start = address.next_multiple_of(ALIGNMENT) - address;
        let Ok(part) = Part::new(room, start..start + bytes) else {
            unreachable!("there is room for the bytes and for what is left out before them");
        };
        Self(part)
    }
}

impl Memory for Aligned {
    fn region(&self) -> Region {
        self.0.region()
    }

    fn host(&self) -> Option<&[u8]> {
        self.0.host()
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        self.0.host_mut()
    }
}

/// No memory, for commands without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Nothing;

impl Memory for Nothing {
    fn region(&self) -> Region {
        region_of(&[])
    }

    fn host(&self) -> Option<&[u8]> {
        Some(&[])
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        Some(&mut [])
    }
}

/// A part of other memory, so that a command fills a range of a larger buffer without a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part<M> {
    memory: M,
    range: Range<usize>,
}

impl<M: Memory> Part<M> {
    /// These bytes of it; the memory comes back if it does not have them.
    pub fn new(memory: M, range: Range<usize>) -> Result<Self, M> {
        let fits = range.start <= range.end && range.end <= memory.region().bytes;
        match fits {
            true => Ok(Self { memory, range }),
            false => Err(memory),
        }
    }

    /// The whole.
    pub fn into_inner(self) -> M {
        self.memory
    }
}

impl<M: Memory> Memory for Part<M> {
    fn region(&self) -> Region {
        let whole = self.memory.region();
        Region {
            address: whole.address + self.range.start as u64,
            bytes: self.range.len(),
            ..whole
        }
    }

    fn host(&self) -> Option<&[u8]> {
        self.memory.host()?.get(self.range.clone())
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        self.memory.host_mut()?.get_mut(self.range.clone())
    }

    fn arrived(&mut self, bytes: Range<usize>) {
        let from = self.range.start;
        self.memory.arrived(from + bytes.start..from + bytes.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_memory_begins_where_a_block_could() {
        let all: Vec<Aligned> = (0..9)
            .map(|power| Aligned::zeroed(1 << (2 * power)))
            .collect();
        for (power, mut memory) in (0..).zip(all) {
            let Region { address, bytes, .. } = memory.region();
            assert_eq!((address % 4096, bytes), (0, 1 << (2 * power)));
            assert_eq!(
                memory.host().map(|bytes| bytes.as_ptr().addr() as u64),
                Some(address)
            );
            assert_eq!(memory.host_mut().map(|bytes| bytes.len()), Some(bytes));
        }
    }

    #[test]
    fn a_part_is_where_it_lies_in_the_whole() {
        let whole: Vec<u8> = (0..100).collect();
        let address = whole.region().address;
        let mut part = Part::new(whole, 10..30).expect("it fits");
        assert_eq!(
            (part.region().address, part.region().bytes),
            (address + 10, 20)
        );
        assert_eq!(part.host().map(|bytes| bytes[0]), Some(10));
        part.host_mut().expect("plain memory").fill(0);
        let whole = part.into_inner();
        assert_eq!((whole[9], whole[10], whole[29], whole[30]), (9, 0, 0, 30));
        assert!(Part::new(whole, 90..101).is_err());
    }
}
