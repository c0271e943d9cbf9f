//! What is on a simulated drive: extents of blocks that images share until one of them changes.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use oriel_engine::store::{BLOCK_BYTES, ExtentName};

/// Blocks of deleted extents that a drive remembers, to give them to new ones.
const LEFT_MAX: usize = 64;

/// The bytes of a block, and their digest once somebody has asked for it.
pub(crate) struct Block {
    bytes: Box<[u8]>,
    digest: OnceCell<u128>,
}

impl Block {
    pub(crate) fn new(bytes: &[u8]) -> Rc<Self> {
        assert_eq!(bytes.len(), BLOCK_BYTES);
        Rc::new(Self {
            bytes: bytes.into(),
            digest: OnceCell::new(),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn digest(&self) -> u128 {
        *self.digest.get_or_init(|| {
            let hash = blake3::hash(&self.bytes);
            u128::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
        })
    }
}

pub(crate) type Blocks = Vec<Rc<Block>>;

/// The extents of a drive without power. Clones share their blocks.
#[derive(Clone, Default)]
pub(crate) struct Image {
    extents: BTreeMap<ExtentName, Rc<Blocks>>,
    /// What deleted extents have left: a new one may hold just that.
    left: Rc<Blocks>,
}

impl Image {
    pub(crate) fn extents(&self) -> impl Iterator<Item = (ExtentName, u64)> {
        let named = |(name, blocks): (&ExtentName, &Rc<Blocks>)| (*name, blocks.len() as u64);
        self.extents.iter().map(named)
    }

    pub(crate) fn used_blocks(&self) -> u64 {
        self.extents().map(|(_, blocks)| blocks).sum()
    }

    /// Makes an extent out of what others have left, oldest first as a free list would, and of noise.
    pub(crate) fn create(&mut self, name: ExtentName, blocks: u64) {
        thread_local! {
            static NOISE: Rc<Block> = Block::new(&[0xa5; BLOCK_BYTES]);
        }
        let noise = NOISE.with(Rc::clone);
        let left = Rc::make_mut(&mut self.left);
        let reused = left.len().min(blocks as usize);
        let mut made: Blocks = left.drain(..reused).collect();
        made.resize(blocks as usize, noise);
        let before = self.extents.insert(name, Rc::new(made));
        assert!(before.is_none(), "{name} was made twice");
    }

    /// Whether it was there.
    pub(crate) fn delete(&mut self, name: ExtentName) -> bool {
        let Some(blocks) = self.extents.remove(&name) else {
            return false;
        };
        let left = Rc::make_mut(&mut self.left);
        left.extend(blocks.iter().cloned());
        let surplus = left.len().saturating_sub(LEFT_MAX);
        left.drain(..surplus);
        true
    }

    /// `None` where there is no such extent.
    ///
    /// # Panics
    /// When it ends before the blocks do.
    pub(crate) fn read(&self, name: ExtentName, block: u64, blocks: u64) -> Option<&[Rc<Block>]> {
        let extent = self.extents.get(&name)?;
        let end = (block + blocks) as usize;
        assert!(end <= extent.len(), "{name} ends before block {end}");
        Some(&extent[block as usize..end])
    }

    /// Nothing where there is no such extent.
    pub(crate) fn write(&mut self, name: ExtentName, block: u64, blocks: &[Rc<Block>]) {
        if let Some(extent) = self.extents.get_mut(&name) {
            let end = block as usize + blocks.len();
            assert!(end <= extent.len(), "{name} ends before block {end}");
            Rc::make_mut(extent)[block as usize..end].clone_from_slice(blocks);
        }
    }

    /// Changes bits of a byte; `false` if there is no such byte.
    pub(crate) fn flip(&mut self, name: ExtentName, byte: u64, mask: u8) -> bool {
        let Some(extent) = self.extents.get_mut(&name) else {
            return false;
        };
        let (block, byte) = (byte as usize / BLOCK_BYTES, byte as usize % BLOCK_BYTES);
        let Some(place) = Rc::make_mut(extent).get_mut(block) else {
            return false;
        };
        let mut bytes = place.bytes.clone();
        bytes[byte] ^= mask;
        *place = Block::new(&bytes);
        true
    }

    /// Tells images apart whose extents differ.
    pub(crate) fn digest(&self) -> u128 {
        const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let mut digest = 0u128;
        for (name, blocks) in &self.extents {
            let (kind, number) = match name {
                ExtentName::Label => (1, 0),
                ExtentName::Journal(number) => (2, u64::from(*number)),
                ExtentName::Checkpoint(epoch) => (3, *epoch),
                ExtentName::Slab(number) => (4, *number),
                ExtentName::Roster(number) => (5, u64::from(*number)),
            };
            digest = (digest ^ (kind << 64 | u128::from(number))).wrapping_mul(ODD);
            for block in blocks.iter() {
                digest = (digest.rotate_left(31) ^ block.digest()).wrapping_mul(ODD);
            }
        }
        digest
    }
}
