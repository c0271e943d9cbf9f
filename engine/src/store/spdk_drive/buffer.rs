//! Buffers that drives read and write, kept to be used again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use oriel_spdk::DmaBuf;
use oriel_spdk::bdev::Memory;
use oriel_spdk::device::Lent;

use super::super::drive::DriveError;
use super::super::types::BLOCK_BYTES;

/// What idle buffers may take together.
const IDLE_BYTES_MAX: usize = 32 << 20;
/// Buffers of more than this come in multiples of it, smaller ones in powers of two, so that they can be used again.
const BUFFER_STEP: usize = 64 << 10;

/// Bytes that SPDK transfers. Dropped, they wait to be used again.
pub struct SpdkBuf {
    /// `None` while a request has it.
    dma: Option<Memory>,
    pub(super) bytes: usize,
    idle: Rc<IdleBuffers>,
}

impl SpdkBuf {
    pub(super) async fn through<F, E>(
        mut self,
        request: impl FnOnce(Memory) -> F,
    ) -> (Self, Result<(), E>)
    where
        F: Future<Output = (Memory, Result<(), E>)>,
    {
        let dma = self.dma.take().expect("nobody else has it");
        let (dma, result) = request(dma).await;
        self.dma = Some(dma);
        (self, result)
    }
}

impl SpdkBuf {
    pub(super) fn from_payload(payload: SpdkPayload, idle: &Rc<IdleBuffers>) -> Self {
        Self {
            dma: Some(payload.dma),
            bytes: payload.bytes,
            idle: Rc::clone(idle),
        }
    }

    pub(super) fn into_payload(mut self) -> SpdkPayload {
        let dma = self.dma.take().expect("no request has it");
        SpdkPayload {
            dma,
            bytes: self.bytes,
        }
    }
}

/// Bytes that SPDK transfers, on their way between cores.
pub struct SpdkPayload {
    dma: Memory,
    bytes: usize,
}

/// The memory of a request to a device of this program, so that drives fill it, or take from it, without a copy.
impl From<Lent> for SpdkPayload {
    fn from(lent: Lent) -> Self {
        let bytes = lent.len();
        Self {
            dma: Memory::Lent(lent),
            bytes,
        }
    }
}

impl SpdkPayload {
    pub(super) fn new(bytes: usize) -> Result<Self, DriveError> {
        let dma = DmaBuf::zeroed(bytes.max(BLOCK_BYTES), BLOCK_BYTES);
        let dma = dma.map_err(|_| DriveError::NoMemory { bytes })?;
        let dma = Memory::Own(dma);
        Ok(Self { dma, bytes })
    }

    pub(super) fn into_memory(self) -> Memory {
        self.dma
    }

    pub(super) fn of(memory: Option<Memory>, bytes: usize) -> Option<Self> {
        memory.map(|dma| Self { dma, bytes })
    }

    /// The request's memory that it was made of, if it was.
    pub fn into_lent(self) -> Option<Lent> {
        match self.dma {
            Memory::Own(_) => None,
            Memory::Lent(lent) => Some(lent),
        }
    }
}

impl AsRef<[u8]> for SpdkPayload {
    fn as_ref(&self) -> &[u8] {
        &self.dma.as_ref()[..self.bytes]
    }
}

impl AsMut<[u8]> for SpdkPayload {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.dma.as_mut()[..self.bytes]
    }
}

impl AsRef<[u8]> for SpdkBuf {
    fn as_ref(&self) -> &[u8] {
        let dma = self.dma.as_ref().expect("no request has it");
        &dma.as_ref()[..self.bytes]
    }
}

impl AsMut<[u8]> for SpdkBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        let dma = self.dma.as_mut().expect("no request has it");
        &mut dma.as_mut()[..self.bytes]
    }
}

impl Drop for SpdkBuf {
    fn drop(&mut self) {
        if let Some(Memory::Own(dma)) = self.dma.take() {
            self.idle.keep(dma);
        }
    }
}

/// Buffers by their size: to ask DPDK for each one takes longer than many a transfer.
#[derive(Default)]
pub(super) struct IdleBuffers {
    by_size: RefCell<BTreeMap<usize, Vec<DmaBuf>>>,
    bytes: Cell<usize>,
}

impl IdleBuffers {
    pub(super) fn take(self: &Rc<Self>, bytes: usize) -> Result<SpdkBuf, DriveError> {
        let size = match bytes.max(BLOCK_BYTES) {
            bytes if bytes <= BUFFER_STEP => bytes.next_power_of_two(),
            bytes => bytes.next_multiple_of(BUFFER_STEP),
        };
        let idle = self.by_size.borrow_mut().get_mut(&size).and_then(Vec::pop);
        let dma = match idle {
            Some(mut dma) => {
                self.bytes.set(self.bytes.get() - size);
                dma[..bytes].fill(0);
                dma
            }
            None => DmaBuf::zeroed(size, BLOCK_BYTES)
                .or_else(|_| {
                    // Buffers of other sizes may be in the way.
                    self.let_go();
                    DmaBuf::zeroed(size, BLOCK_BYTES)
                })
                .map_err(|_| DriveError::NoMemory { bytes })?,
        };
        Ok(SpdkBuf {
            dma: Some(Memory::Own(dma)),
            bytes,
            idle: Rc::clone(self),
        })
    }

    pub(super) fn let_go(&self) {
        self.by_size.borrow_mut().clear();
        self.bytes.set(0);
    }

    fn keep(&self, dma: DmaBuf) {
        let bytes = self.bytes.get() + dma.len();
        if bytes <= IDLE_BYTES_MAX {
            self.bytes.set(bytes);
            let mut by_size = self.by_size.borrow_mut();
            by_size.entry(dma.len()).or_default().push(dma);
        }
    }
}
