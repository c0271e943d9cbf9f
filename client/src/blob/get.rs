//! Reading blobs, and checking what was read.

use std::ops::Range;

use oriel_protocol::limits::BLOCK_BYTES;
use oriel_protocol::{Checksum, InParts, Key, Location, Place, Position, Status, Vector, trailer};

use super::join::both;
use super::summed::Summed;
use super::{BLOCK, BlobError, Blobs, Failure, Outcome, Transport, refused};
use crate::limits::MOVES_MAX;
use crate::memory::{Memory, Part};
use crate::sums::crc32c;

/// Blocks of a blob.
#[derive(Clone, Copy)]
struct Blocks {
    first: u64,
    count: u64,
}

/// How a look into one window ended.
enum InWindow<V> {
    Read(V),
    NoBlob,
    /// It lies in parts.
    Parts(InParts),
}

impl<T: Transport> Blobs<T> {
    /// A blob's bytes; `None` if there is none.
    pub async fn get(&self, key: &Key) -> Outcome<Option<Vec<u8>>, T> {
        self.get_range(key, 0, u64::MAX).await
    }

    /// Bytes of a blob from an offset on, up to so many and to its end; `None` if there is no such blob.
    pub async fn get_range(
        &self,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Outcome<Option<Vec<u8>>, T> {
        loop {
            let parts = match self.range_in_window(key, offset, bytes).await? {
                InWindow::Read(found) => return Ok(Some(found)),
                InWindow::NoBlob => return Ok(None),
                InWindow::Parts(parts) => parts,
            };
            let length = parts.length.get();
            let room = bytes.min(length.saturating_sub(offset)) as usize;
            let memory = vec![0; room];
            let (memory, filled) = self.fill_parts(key, &parts, offset, memory).await;
            if filled?.is_some() {
                return Ok(Some(memory));
            }
            if self.is_incomplete(key, &parts).await? {
                return Ok(None);
            }
        }
    }

    async fn range_in_window(
        &self,
        key: &Key,
        offset: u64,
        bytes: u64,
    ) -> Outcome<InWindow<Vec<u8>>, T> {
        let mut moves = 0;
        while let Some(place) = self.find(key).await? {
            let location = match place {
                Place::Window(location) => location,
                Place::Parts(parts) => return Ok(InWindow::Parts(parts)),
            };
            let range = within(&location, offset, bytes);
            if range.is_empty() {
                return Ok(InWindow::Read(Vec::new()));
            }
            let blocks = blocks_of(&range);
            let memory = vec![0; blocks.count as usize * BLOCK];
            let (mut memory, read) = self.fill(key, &location, blocks, memory).await;
            if self.is_still_there(key, &location, read, &mut moves)? {
                let from = (range.start - blocks.first * BLOCK_BYTES) as usize;
                memory.truncate(from + (range.end - range.start) as usize);
                memory.drain(..from);
                return Ok(InWindow::Read(memory));
            }
        }
        Ok(InWindow::NoBlob)
    }

    /// Fills memory with a blob's bytes from an offset on; how many they are, or `None` if there is no such blob. They go
    /// from the transport into this memory without a copy where it asks for whole blocks of the blob, and for one of up to
    /// four blocks for all of them.
    pub async fn get_into<M: Memory>(
        &self,
        key: &Key,
        offset: u64,
        mut memory: M,
    ) -> (M, Outcome<Option<u64>, T>) {
        loop {
            let (back, read) = self.fill_in_window(key, offset, memory).await;
            let parts = match read {
                Ok(InWindow::Read(bytes)) => return (back, Ok(Some(bytes))),
                Ok(InWindow::NoBlob) => return (back, Ok(None)),
                Ok(InWindow::Parts(parts)) => parts,
                Err(error) => return (back, Err(error)),
            };
            let (back, filled) = self.fill_parts(key, &parts, offset, back).await;
            memory = back;
            if !matches!(filled, Ok(None)) {
                return (memory, filled);
            }
            match self.is_incomplete(key, &parts).await {
                Ok(true) => return (memory, Ok(None)),
                Ok(false) => {}
                Err(error) => return (memory, Err(error)),
            }
        }
    }

    /// Fills memory with bytes of a blob in parts; `None` if one of them is not there. Each part's bytes go from the transport
    /// to their place where they are whole blocks.
    async fn fill_parts<M: Memory>(
        &self,
        key: &Key,
        parts: &InParts,
        offset: u64,
        mut memory: M,
    ) -> (M, Outcome<Option<u64>, T>) {
        let room = memory.region().bytes;
        let mut at = 0;
        for piece in parts.pieces(offset, room as u64) {
            let part = parts.part_key(key, piece.number);
            let bytes = piece.bytes as usize;
            // The last block of the last part comes whole where there is room for it.
            let whole = bytes.next_multiple_of(BLOCK);
            let taken = if at + whole <= room { whole } else { bytes };
            let place = match Part::new(memory, at..at + taken) {
                Ok(place) => place,
                Err(back) => return (back, Err(BlobError::NotHostMemory)),
            };
            let (place, read) = self.fill_in_window(&part, piece.offset, place).await;
            memory = place.into_inner();
            match read {
                // Behind the blob's end there may be less than was asked for, in its middle there is not.
                Ok(InWindow::Read(read)) if read >= piece.bytes => at += bytes,
                Ok(_) => return (memory, Ok(None)),
                Err(error) => return (memory, Err(error)),
            }
        }
        (memory, Ok(Some(at as u64)))
    }

    /// A part of a blob was not found: whether that is so because the blob has lost it, and is gone as a whole; or because
    /// there is another blob by now, or none.
    async fn is_incomplete(&self, key: &Key, parts: &InParts) -> Outcome<bool, T> {
        self.windows.remove(key, None);
        Ok(self.locate(key).await? == Some(Place::Parts(*parts)))
    }

    async fn fill_in_window<M: Memory>(
        &self,
        key: &Key,
        offset: u64,
        mut memory: M,
    ) -> (M, Outcome<InWindow<u64>, T>) {
        let mut moves = 0;
        loop {
            let location = match self.find(key).await {
                Ok(Some(Place::Window(location))) => location,
                Ok(Some(Place::Parts(parts))) => return (memory, Ok(InWindow::Parts(parts))),
                Ok(None) => return (memory, Ok(InWindow::NoBlob)),
                Err(error) => return (memory, Err(error)),
            };
            let room = memory.region().bytes;
            let range = within(&location, offset, room as u64);
            let (blocks, bytes) = (blocks_of(&range), range.end - range.start);
            let fits = blocks.count as usize * BLOCK == room && offset.is_multiple_of(BLOCK_BYTES);
            let read;
            if fits && blocks.count > 0 {
                (memory, read) = self.fill(key, &location, blocks, memory).await;
            } else {
                read = match (
                    self.range_in_window(key, offset, room as u64).await,
                    memory.host_mut(),
                ) {
                    (Ok(InWindow::Read(found)), Some(place)) => {
                        place[..found.len()].copy_from_slice(&found);
                        return (memory, Ok(InWindow::Read(found.len() as u64)));
                    }
                    (Ok(InWindow::NoBlob), _) => return (memory, Ok(InWindow::NoBlob)),
                    (Ok(InWindow::Parts(parts)), _) => {
                        return (memory, Ok(InWindow::Parts(parts)));
                    }
                    (Ok(_), None) => Err(BlobError::NotHostMemory),
                    (Err(error), _) => Err(error),
                };
            }
            match self.is_still_there(key, &location, read, &mut moves) {
                Ok(true) => return (memory, Ok(InWindow::Read(bytes))),
                Ok(false) => {}
                Err(error) => return (memory, Err(error)),
            }
        }
    }

    async fn find(&self, key: &Key) -> Outcome<Option<Place>, T> {
        match self.windows.get(key) {
            Some(place) => Ok(Some(place)),
            None => self.locate(key).await,
        }
    }

    /// Whether a read went well; if the blob is elsewhere by now, its place is forgotten.
    fn is_still_there(
        &self,
        key: &Key,
        location: &Location,
        read: Outcome<(), T>,
        moves: &mut u32,
    ) -> Outcome<bool, T> {
        match read {
            Ok(()) => Ok(true),
            Err(BlobError::Refused {
                status: Status::Unwritten,
                ..
            }) if *moves < MOVES_MAX => {
                *moves += 1;
                self.windows.remove(key, Some(&Place::Window(*location)));
                Ok(false)
            }
            Err(BlobError::Refused {
                status: Status::Unwritten,
                ..
            }) => {
                self.windows.remove(key, Some(&Place::Window(*location)));
                Err(BlobError::Moved {
                    key: *key,
                    times: *moves,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Fills memory with whole blocks and checks them.
    async fn fill<M: Memory>(
        &self,
        key: &Key,
        location: &Location,
        blocks: Blocks,
        memory: M,
    ) -> (M, Outcome<(), T>) {
        if blocks.count == 0 {
            return (memory, Ok(()));
        }
        match location.checksum {
            _ if !self.is_checked => self.read(key, location.position, blocks, memory).await,
            Checksum::Vector(vector) => {
                self.fill_large(key, location, vector, blocks, memory).await
            }
            Checksum::Blocks(expected) if blocks.count == location.length.blocks() => {
                let (memory, read) = self.read(key, location.position, blocks, memory).await;
                let checked = read.and_then(|()| {
                    let bytes = memory.host().ok_or(BlobError::NotHostMemory)?;
                    check(key, location, 0, expected, crc32c(bytes))
                });
                (memory, checked)
            }
            Checksum::Blocks(_) => self.fill_part_of_small(key, location, blocks, memory).await,
        }
    }

    async fn read<M: Memory>(
        &self,
        key: &Key,
        position: Position,
        blocks: Blocks,
        memory: M,
    ) -> (M, Outcome<(), T>) {
        let from = Position(position.0 + blocks.first);
        let (memory, read) = self.transport.read(from, memory).await;
        (memory, read.map_err(|error| refused("a read", *key, error)))
    }

    /// A blob with one checksum is read as a whole to be checked.
    async fn fill_part_of_small<M: Memory>(
        &self,
        key: &Key,
        location: &Location,
        blocks: Blocks,
        mut memory: M,
    ) -> (M, Outcome<(), T>) {
        let all = Blocks {
            first: 0,
            count: location.length.blocks(),
        };
        let whole = vec![0; all.count as usize * BLOCK];
        let (whole, read) = Box::pin(self.fill(key, location, all, whole)).await;
        let placed = read.and_then(|()| {
            let place = memory.host_mut().ok_or(BlobError::NotHostMemory)?;
            let from = blocks.first as usize * BLOCK;
            place.copy_from_slice(&whole[from..from + place.len()]);
            Ok(())
        });
        (memory, placed)
    }

    /// Reads the blocks and, beside them, their checksums.
    async fn fill_large<M: Memory>(
        &self,
        key: &Key,
        location: &Location,
        vector: Vector,
        blocks: Blocks,
        memory: M,
    ) -> (M, Outcome<(), T>) {
        let (first, _) = trailer::place_of(blocks.first);
        let (last, _) = trailer::place_of(blocks.first + blocks.count - 1);
        let of_vector = Blocks {
            first,
            count: last - first + 1,
        };
        let room = vec![0; of_vector.count as usize * BLOCK];
        let ((summed, read), (checksums, read_checksums)) = both(
            self.read(key, location.position, blocks, Summed::new(memory)),
            self.read(key, vector.position, of_vector, room),
        )
        .await;
        if let Err(error) = read.and(read_checksums) {
            return (summed.into_inner(), Err(error));
        }
        let (memory, sums) = summed.into_parts();
        let checked = sums
            .ok_or(BlobError::NotHostMemory)
            .and_then(|sums| check_large(key, location, blocks, &sums, first, &checksums));
        (memory, checked)
    }
}

/// What there is of a range.
fn within(location: &Location, offset: u64, bytes: u64) -> Range<u64> {
    let length = location.length.get();
    let start = offset.min(length);
    start..start.saturating_add(bytes).min(length)
}

fn blocks_of(range: &Range<u64>) -> Blocks {
    let first = range.start / BLOCK_BYTES;
    let end = if range.is_empty() {
        first
    } else {
        range.end.div_ceil(BLOCK_BYTES)
    };
    Blocks {
        first,
        count: end - first,
    }
}

fn check<E: Failure>(
    key: &Key,
    location: &Location,
    block: u64,
    expected: u32,
    found: u32,
) -> Result<(), BlobError<E>> {
    match expected == found {
        true => Ok(()),
        false => Err(BlobError::Damaged {
            key: *key,
            block,
            position: Position(location.position.0 + block),
            expected,
            found,
        }),
    }
}

fn check_large<E: Failure>(
    key: &Key,
    location: &Location,
    blocks: Blocks,
    found: &[u32],
    first_of_vector: u64,
    checksums: &[u8],
) -> Result<(), BlobError<E>> {
    let (position, length) = (location.position, location.length);
    let vectors: Result<Vec<_>, _> = (first_of_vector..)
        .zip(checksums.chunks_exact(BLOCK))
        .map(|(index, block)| trailer::Block::decode(block, position, length, index as u32))
        .collect();
    let vectors = vectors?;
    for (block, found) in (blocks.first..).zip(found) {
        let (index, place) = trailer::place_of(block);
        let vector = vectors.get((index - first_of_vector) as usize);
        let expected = vector.and_then(|vector| vector.checksum(place));
        check(key, location, block, expected.unwrap_or(0), *found)?;
    }
    Ok(())
}
