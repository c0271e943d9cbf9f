//! The block device that a realm's namespace is.
//!
//! ```text
//!   submit ──► a task of the core's reactor ──► NodeStore, on the drive's core ──► complete, where it came
//!       └────► at once: reads of drives of this core that need no check, LOCATE of what is there ──► complete
//! ```
//!
//! Blocks are read only in windows of committed blobs, and written only in windows that are reserved. The first and the last
//! MiB read as zeros, for those who look for partitions.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use oriel_engine::clock::Clock;
use oriel_engine::reactor::spawn_local;
use oriel_engine::store::{
    BLOCK_BYTES, NodeDrive, NodeError, NodeStore, Position, ReadEnd, RealmId, SpdkDrive,
    SpdkPayload, StoreId,
};
use oriel_protocol::limits::{NAMESPACE_BLOCKS, QUIET_BLOCKS};
use oriel_protocol::{Opcode, Status};
use oriel_spdk::bdev::{BlockRange, IoKind};
use oriel_spdk::device::{Device, NvmeEffect, Request};

use crate::commands;
use crate::limits::REQUESTS_MAX;
use crate::puts::Puts;
use crate::status::{Doing, io_error, status_of};

/// What a realm's device serves, on every core.
pub(crate) struct Serves {
    pub(crate) store: NodeStore<SpdkDrive>,
    pub(crate) store_id: StoreId,
    pub(crate) realm: RealmId,
    pub(crate) is_cache: bool,
    pub(crate) clock: Clock,
    /// Those of all realms.
    pub(crate) puts: Arc<Puts>,
}

/// The device of one realm.
pub(crate) struct LogDevice(Mutex<Serves>);

impl LogDevice {
    pub(crate) fn new(serves: Serves) -> Self {
        Self(Mutex::new(serves))
    }
}

/// The same on one core.
pub(crate) struct Serving {
    pub(crate) serves: Serves,
    under_way: Cell<usize>,
    /// Commands that could not be decoded, of which the first and then ever fewer are logged.
    pub(crate) malformed: Cell<u64>,
}

/// A request that is under way, until it is dropped.
struct UnderWay(Rc<Serving>);

impl UnderWay {
    /// `None` when there are as many as there may be.
    fn of(serving: &Rc<Serving>) -> Option<Self> {
        let count = serving.under_way.get();
        (count < REQUESTS_MAX).then(|| {
            serving.under_way.set(count + 1);
            Self(Rc::clone(serving))
        })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

impl Device for LogDevice {
    type Channel = Rc<Serving>;

    fn supports(&self, kind: IoKind) -> bool {
        matches!(
            kind,
            IoKind::Read | IoKind::Write | IoKind::Flush | IoKind::NvmeIo
        )
    }

    fn nvme_commands(&self) -> Vec<(u8, NvmeEffect)> {
        let effect = |opcode: &Opcode| match opcode.only_looks() {
            true => NvmeEffect::Looks,
            false => NvmeEffect::Changes,
        };
        let all = Opcode::ALL.iter();
        all.map(|opcode| (opcode.number(), effect(opcode)))
            .collect()
    }

    fn channel(&self) -> Option<Rc<Serving>> {
        let serves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Rc::new(Serving {
            serves: Serves {
                store: serves.store.clone(),
                store_id: serves.store_id,
                realm: serves.realm,
                is_cache: serves.is_cache,
                clock: serves.clock.clone(),
                puts: serves.puts.clone(),
            },
            under_way: Cell::new(0),
            malformed: Cell::new(0),
        }))
    }

    fn submit(&self, serving: &Rc<Serving>, request: Request) {
        let range = request.range();
        match request.kind() {
            Some(IoKind::Read) if is_quiet(range) => zeros(request),
            Some(IoKind::Read) => read(serving, request, range),
            Some(IoKind::Write) => in_a_task(serving, request, range, Doing::Write),
            // What was answered is durable.
            Some(IoKind::Flush) => request.complete(Ok(())),
            Some(IoKind::NvmeIo) => {
                if let Some(request) = commands::serve_at_once(serving, request) {
                    begin(serving, request, commands::serve);
                }
            }
            _ => request.complete(Err(io_error(Status::InvalidOpcode))),
        }
    }
}

/// Whether these blocks are among those that read as zeros.
fn is_quiet(range: BlockRange) -> bool {
    let BlockRange { start, count } = range;
    start + count <= QUIET_BLOCKS || start >= NAMESPACE_BLOCKS - QUIET_BLOCKS
}

fn zeros(mut request: Request) {
    request.buffers().for_each(|part| part.fill(0));
    request.complete(Ok(()));
}

/// A read that the drive does without a task.
struct Reading {
    under_way: UnderWay,
    range: BlockRange,
}

impl ReadEnd<SpdkPayload> for Reading {
    fn ended(self, payload: SpdkPayload, is_filled: bool) {
        // What is not lent came from nowhere here; were it lost, its request would fail with it.
        let Some(lent) = payload.into_lent() else {
            return;
        };
        let request = lent.take_back();
        match is_filled {
            true => request.complete(Ok(())),
            // Whatever was wrong, those who can look into it may, and say.
            false => in_a_task(&self.under_way.0, request, self.range, Doing::Read),
        }
    }
}

/// Reads blocks: at once, where that can be.
fn read(serving: &Rc<Serving>, request: Request, range: BlockRange) {
    let Some(under_way) = UnderWay::of(serving) else {
        return request.complete(Err(io_error(Status::Busy)));
    };
    let lent = match request.lend() {
        Ok(lent) => lent,
        Err(request) => return in_a_task(serving, request, range, Doing::Read),
    };
    let Serves { store, realm, .. } = &serving.serves;
    let (payload, position) = (SpdkPayload::from(lent), Position(range.start));
    let reading = Reading { under_way, range };
    if let Err((payload, _)) = store.begin_read_position(*realm, position, payload, reading)
        && let Some(lent) = payload.into_lent()
    {
        in_a_task(serving, lent.take_back(), range, Doing::Read);
    }
}

fn in_a_task(serving: &Rc<Serving>, request: Request, range: BlockRange, doing: Doing) {
    begin(serving, request, |serving, request| {
        transfer(serving, request, range, doing)
    });
}

/// Runs a request's work as a task.
fn begin<F>(serving: &Rc<Serving>, request: Request, work: impl FnOnce(Rc<Serving>, Request) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let Some(under_way) = UnderWay::of(serving) else {
        return request.complete(Err(io_error(Status::Busy)));
    };
    let work = work(serving.clone(), request);
    let task = async move {
        let _under_way = under_way;
        work.await;
    };
    match spawn_local("a request of a host", task) {
        Ok(task) => drop(task),
        // The task goes with its request, which fails by that.
        Err(full) => tracing::warn!(%full, "a request of a host was not begun"),
    }
}

/// Reads or writes blocks.
async fn transfer(serving: Rc<Serving>, request: Request, range: BlockRange, doing: Doing) {
    let position = Position(range.start);
    match request.lend() {
        Ok(lent) => {
            let (payload, result) = go(&serving, SpdkPayload::from(lent), position, doing).await;
            // Where the memory does not come back, its request has failed with it.
            if let Some(lent) = payload.and_then(SpdkPayload::into_lent) {
                lent.take_back().complete(told(result, doing));
            }
        }
        // In several pieces, which no transport of today makes of what fits one.
        Err(request) => Box::pin(in_pieces(&serving, request, range, doing)).await,
    }
}

async fn go(
    serving: &Serving,
    payload: SpdkPayload,
    position: Position,
    doing: Doing,
) -> (Option<SpdkPayload>, Result<(), NodeError>) {
    let Serves { store, realm, .. } = &serving.serves;
    match doing {
        Doing::Write => store.write(*realm, position, payload).await,
        Doing::Read | Doing::Command => store.read_position(*realm, position, payload).await,
    }
}

fn told(result: Result<(), NodeError>, doing: Doing) -> Result<(), oriel_spdk::bdev::IoError> {
    result.map_err(|error| io_error(status_of(&error, doing)))
}

async fn in_pieces(serving: &Serving, mut request: Request, range: BlockRange, doing: Doing) {
    let position = Position(range.start);
    let pieces: usize = request.buffers().map(|piece| piece.len()).sum();
    let bytes = range.count as usize * BLOCK_BYTES;
    let Some(mut payload) = SpdkDrive::payload(bytes).ok().filter(|_| pieces == bytes) else {
        return request.complete(Err(io_error(Status::Busy)));
    };
    let request = RefCell::new(request);
    let copy = |payload: &mut SpdkPayload, is_read: bool| {
        let mut rest = payload.as_mut();
        for piece in request.borrow_mut().buffers() {
            let (part, behind) = rest.split_at_mut(piece.len());
            match is_read {
                true => piece.copy_from_slice(part),
                false => part.copy_from_slice(piece),
            }
            rest = behind;
        }
    };
    if doing == Doing::Write {
        copy(&mut payload, false);
    }
    let (payload, result) = go(serving, payload, position, doing).await;
    if let (Doing::Read, Ok(()), Some(mut payload)) = (doing, &result, payload) {
        copy(&mut payload, true);
    }
    request.into_inner().complete(told(result, doing));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_mib_are_quiet_and_nothing_else() {
        let quiet = |start, count| is_quiet(BlockRange::new(start, count));
        assert!(quiet(0, 1) && quiet(0, 256) && quiet(255, 1));
        assert!(!quiet(0, 257) && !quiet(255, 2) && !quiet(256, 1));
        let end = 1_u64 << 50;
        assert!(quiet(end - 256, 256) && quiet(end - 1, 1));
        assert!(!quiet(end - 257, 1) && !quiet(end - 257, 257));
    }
}
