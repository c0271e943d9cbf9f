//! A drive in memory that fails once it is told to. SPDK's own that can (`bdev_error`) refuses what Blobstore needs in
//! v20.07: zeros.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oriel_spdk::bdev::{IoError, IoKind};
use oriel_spdk::device::{Device, DeviceSpec, RegisterError, Registered, Request, register};

/// "Unrecovered Read Error" of the media and data integrity errors.
const FAILED: IoError = IoError {
    status_type: 2,
    status_code: 0x81,
};

struct Failing {
    memory: Mutex<Vec<u8>>,
    block: usize,
    fails: Arc<AtomicBool>,
}

/// Makes the drive; it fails from when `fails` is set.
pub(super) fn make(
    name: &str,
    (blocks, block): (u64, u32),
    fails: &Arc<AtomicBool>,
) -> Result<Registered, RegisterError> {
    let spec = DeviceSpec {
        name: name.into(),
        product: "fails when told to".into(),
        block_size: block,
        blocks,
        boundary_blocks: 0,
        write_cache: false,
        uuid: *b"oriel-perf fails",
    };
    let device = Failing {
        memory: Mutex::new(vec![0; blocks as usize * block as usize]),
        block: block as usize,
        fails: Arc::clone(fails),
    };
    register(&spec, device)
}

impl Device for Failing {
    type Channel = ();

    fn supports(&self, kind: IoKind) -> bool {
        use IoKind::{Flush, Read, Unmap, Write, WriteZeroes};
        matches!(kind, Read | Write | Unmap | Flush | WriteZeroes)
    }

    fn channel(&self) -> Option<()> {
        Some(())
    }

    fn submit(&self, (): &(), mut request: Request) {
        if self.fails.load(Ordering::Acquire) {
            return request.complete(Err(FAILED));
        }
        let range = request.range();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let start = range.start as usize * self.block;
        let mut rest = &mut memory[start..start + range.count as usize * self.block];
        match request.kind() {
            Some(kind @ (IoKind::Read | IoKind::Write)) => {
                for piece in request.buffers() {
                    let (part, behind) = rest.split_at_mut(piece.len());
                    match kind {
                        IoKind::Read => piece.copy_from_slice(part),
                        _ => part.copy_from_slice(piece),
                    }
                    rest = behind;
                }
            }
            Some(IoKind::WriteZeroes) => rest.fill(0),
            _ => {}
        }
        drop(memory);
        request.complete(Ok(()));
    }
}
