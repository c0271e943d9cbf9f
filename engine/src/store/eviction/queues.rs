//! Queues of blobs that share one arena and one table.

use hashbrown::HashTable;
use oriel_dht::index::Fingerprint;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    blob: Fingerprint,
    blocks: u32,
    /// Towards the front, where blobs come in.
    newer: u32,
    /// Towards the back; in a free node, the next free one.
    older: u32,
    queue: u8,
    uses: u8,
}

const _: () = assert!(size_of::<Node>() == 32);

#[derive(Clone, Copy)]
struct Queue {
    newest: u32,
    oldest: u32,
    blocks: u64,
}

/// `N` queues. Every blob is in one of them.
pub(super) struct Queues<const N: usize> {
    nodes: Vec<Node>,
    free: u32,
    places: HashTable<u32>,
    queues: [Queue; N],
}

impl<const N: usize> Default for Queues<N> {
    fn default() -> Self {
        let queue = Queue {
            newest: NONE,
            oldest: NONE,
            blocks: 0,
        };
        Self {
            nodes: Vec::new(),
            free: NONE,
            places: HashTable::new(),
            queues: [queue; N],
        }
    }
}

/// The bits of a fingerprint are those of a hash already.
fn hash(blob: Fingerprint) -> u64 {
    let bytes = blob.to_bytes();
    let low = bytes.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(low)
}

impl<const N: usize> Queues<N> {
    fn find(&self, blob: Fingerprint) -> Option<u32> {
        let is_it = |at: &u32| self.nodes[*at as usize].blob == blob;
        self.places.find(hash(blob), is_it).copied()
    }

    /// The queue that a blob is in.
    pub(super) fn queue_of(&self, blob: Fingerprint) -> Option<usize> {
        Some(usize::from(self.nodes[self.find(blob)? as usize].queue))
    }

    /// Blocks of a queue's blobs.
    pub(super) fn blocks(&self, queue: usize) -> u64 {
        self.queues[queue].blocks
    }

    /// Puts a blob that is in none at the front of a queue.
    pub(super) fn push(&mut self, queue: usize, blob: Fingerprint, blocks: u64) {
        let node = Node {
            blob,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            newer: NONE,
            older: NONE,
            queue: queue as u8,
            uses: 0,
        };
        let at = match self.free {
            NONE => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
            at => {
                self.free = self.nodes[at as usize].older;
                self.nodes[at as usize] = node;
                at
            }
        };
        let nodes = &self.nodes;
        let rehash = |at: &u32| hash(nodes[*at as usize].blob);
        self.places.insert_unique(hash(blob), at, rehash);
        self.link(queue, at);
    }

    fn link(&mut self, queue: usize, at: u32) {
        let Queue { newest, .. } = self.queues[queue];
        let node = &mut self.nodes[at as usize];
        (node.newer, node.older, node.queue) = (NONE, newest, queue as u8);
        let blocks = u64::from(node.blocks);
        match newest {
            NONE => self.queues[queue].oldest = at,
            newest => self.nodes[newest as usize].newer = at,
        }
        self.queues[queue].newest = at;
        self.queues[queue].blocks += blocks;
    }

    fn unlink(&mut self, at: u32) {
        let Node {
            newer,
            older,
            queue,
            blocks,
            ..
        } = self.nodes[at as usize];
        let queue = &mut self.queues[usize::from(queue)];
        queue.blocks -= u64::from(blocks);
        match newer {
            NONE => queue.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
        match older {
            NONE => queue.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
    }

    /// Moves a blob to the front of a queue.
    pub(super) fn bring_forward(&mut self, queue: usize, blob: Fingerprint) {
        if let Some(at) = self.find(blob) {
            self.unlink(at);
            self.link(queue, at);
        }
    }

    /// Takes a blob out; whether it was in one.
    pub(super) fn remove(&mut self, blob: Fingerprint) -> bool {
        let nodes = &self.nodes;
        let is_it = |at: &u32| nodes[*at as usize].blob == blob;
        let Ok(place) = self.places.find_entry(hash(blob), is_it) else {
            return false;
        };
        let (at, _) = place.remove();
        self.unlink(at);
        self.nodes[at as usize].older = self.free;
        self.free = at;
        true
    }

    /// The blob at the back of a queue, and its blocks.
    pub(super) fn oldest(&self, queue: usize) -> Option<(Fingerprint, u64)> {
        let node = self.nodes.get(self.queues[queue].oldest as usize)?;
        Some((node.blob, u64::from(node.blocks)))
    }

    /// How often a blob was used, as far as anybody noted it.
    pub(super) fn uses(&mut self, blob: Fingerprint) -> Option<&mut u8> {
        let at = self.find(blob)?;
        Some(&mut self.nodes[at as usize].uses)
    }
}
