//! What every core knows of the store's drives, and how it hears of changes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use futures_channel::oneshot;

use super::super::error::StoreError;
use super::super::format::FormatOptions;
use super::super::options::RealmOptions;
use super::super::parts::slab_length_max;
use super::super::types::{Key, Position, RealmId};
use super::error::{ChangeError, DriveLabel, Loss, NodeError};
use super::place::{Draw, DriveNumber, Placed, Spread};
use super::puts::Puts;
use super::roster::{Voters, slot_of};
use super::seat::{NodeDrive, Seat};

/// A drive in the table.
pub(super) struct Row<D> {
    pub(super) number: DriveNumber,
    pub(super) seat: Option<Seat<D>>,
    pub(super) name: Arc<str>,
    pub(super) loss: Option<Loss>,
    pub(super) is_draining: bool,
    pub(super) is_hungry: bool,
    pub(super) capacity_blocks: u64,
}

impl<D> Row<D> {
    pub(super) fn label(&self) -> DriveLabel {
        DriveLabel {
            number: Some(self.number),
            name: self.name.clone(),
        }
    }
}

/// Where everything is. Never changed; replaced by one of a higher version.
pub(super) struct Table<D> {
    pub(super) version: u64,
    pub(super) voters: Voters,
    pub(super) rows: Vec<Row<D>>,
    pub(super) draw: Draw,
    pub(super) placed: Vec<Placed>,
    /// Found out when a partition is first asked for.
    pub(super) spreads: Box<[OnceLock<Spread>]>,
    pub(super) slot_blocks: u64,
    /// Blocks of the smallest slabs.
    pub(super) slab_blocks: u64,
    /// The row of each slot's drive, if it is still one of the store's.
    pub(super) slots: Box<[Option<u16>]>,
    /// The realms, with the store's quotas.
    pub(super) realms: Arc<[RealmOptions]>,
}

impl<D: NodeDrive> Table<D> {
    pub(super) fn spread(&self, realm: RealmId, key: &Key) -> &Spread {
        let partition = self.draw.partition(realm, key);
        self.spreads[partition].get_or_init(|| self.draw.spread(partition, &self.placed))
    }

    /// The longest blob that fits a slab of any drive.
    pub(super) fn length_max(&self) -> u64 {
        slab_length_max(self.slab_blocks)
    }

    pub(super) fn row(&self, at: u16) -> &Row<D> {
        &self.rows[usize::from(at)]
    }

    pub(super) fn seat(&self, at: u16) -> Option<&Seat<D>> {
        self.row(at).seat.as_ref()
    }

    pub(super) fn realm(&self, id: RealmId) -> Option<&RealmOptions> {
        self.realms.iter().find(|realm| realm.id == id)
    }

    /// The drive that a position is on, if it was ever handed out and the drive is still one of the store's.
    pub(super) fn row_of(&self, position: Position) -> Option<u16> {
        let slot = self.slots.get(slot_of(position, self.slot_blocks));
        slot.copied().flatten()
    }

    pub(super) fn lost(&self, at: u16) -> NodeError {
        let row = self.row(at);
        NodeError::Lost {
            drive: row.label(),
            loss: row.loss.clone().unwrap_or(Loss::CoreStopped),
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), NodeError> {
        match self.voters.is_majority() {
            true => Ok(()),
            false => Err(NodeError::ReadOnly {
                voters: self.voters,
            }),
        }
    }

    pub(super) fn is_present(&self, at: u16) -> bool {
        let row = self.row(at);
        row.loss.is_none() && row.seat.is_some()
    }
}

/// How a change of the drives ends.
pub(super) type Changed<T> = oneshot::Sender<Result<T, ChangeError>>;

/// What the keeper of the drives is asked to do.
pub(super) enum Command<D> {
    /// A drive does not work any more.
    Lost {
        number: DriveNumber,
        reason: Option<StoreError>,
    },
    /// A drive wants more positions; whether it has got them.
    Lease {
        number: DriveNumber,
        reply: Option<oneshot::Sender<bool>>,
    },
    Add {
        seat: Seat<D>,
        format: FormatOptions,
        reply: Changed<DriveNumber>,
    },
    /// What realms may do from now on, all of them.
    Realms {
        realms: Vec<RealmOptions>,
        reply: Changed<()>,
    },
    Drain {
        number: DriveNumber,
        reply: Changed<()>,
    },
    Forget {
        number: DriveNumber,
        reply: Changed<()>,
    },
    /// Parts of large blobs may have to go.
    Sweep,
    /// Under that version, every blob is where it belongs.
    Settled {
        version: u64,
    },
    /// Under that version, a draining drive has no blobs any more.
    Drained {
        number: DriveNumber,
        version: u64,
    },
    Close,
}

/// A drive that is not the store's any more, and that nobody uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departed {
    /// Which it was.
    pub drive: DriveLabel,
    /// Whether its blobs have moved to the others, and nothing is left on it; otherwise it was given up.
    pub is_emptied: bool,
}

struct Inner<D> {
    table: Arc<Table<D>>,
    waiting: Vec<Waker>,
    /// Those of whom nobody has heard yet: as many as there were drives, at most.
    departed: VecDeque<Departed>,
    departed_bell: Option<Waker>,
    commands: VecDeque<Command<D>>,
    bell: Option<Waker>,
    has_ended: bool,
}

/// What all cores share. Its lock is taken when a table is replaced and when somebody asks for a change, not by reads
/// and puts.
pub(super) struct Shared<D> {
    version: AtomicU64,
    /// Large blobs that are being changed.
    pub(super) large: Puts,
    pub(super) moved_blobs: AtomicU64,
    pub(super) moved_bytes: AtomicU64,
    inner: Mutex<Inner<D>>,
}

impl<D: NodeDrive> Shared<D> {
    pub(super) fn new(table: Table<D>) -> Self {
        Self {
            version: AtomicU64::new(table.version),
            large: Puts::default(),
            moved_blobs: AtomicU64::new(0),
            moved_bytes: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                table: Arc::new(table),
                waiting: Vec::new(),
                departed: VecDeque::new(),
                departed_bell: None,
                commands: VecDeque::new(),
                bell: None,
                has_ended: false,
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn table(&self) -> Arc<Table<D>> {
        self.inner().table.clone()
    }

    pub(super) fn publish(&self, table: Table<D>) {
        let waiting = {
            let mut inner = self.inner();
            self.version.store(table.version, Ordering::Release);
            inner.table = Arc::new(table);
            std::mem::take(&mut inner.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The store is closed: nobody waits for another table.
    pub(super) fn end(&self) {
        let (waiting, commands) = {
            let mut inner = self.inner();
            inner.has_ended = true;
            (
                std::mem::take(&mut inner.waiting),
                std::mem::take(&mut inner.commands),
            )
        };
        drop(commands);
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.inner().has_ended
    }

    /// Waits until there is a newer table, or there will be none.
    pub(super) async fn newer_than(&self, version: u64) {
        poll_fn(|cx| {
            let mut inner = self.inner();
            if inner.table.version > version || inner.has_ended {
                return Poll::Ready(());
            }
            inner.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn command(&self, command: Command<D>) {
        let bell = {
            let mut inner = self.inner();
            if inner.has_ended {
                return;
            }
            inner.commands.push_back(command);
            inner.bell.take()
        };
        if let Some(bell) = bell {
            bell.wake();
        }
    }

    pub(super) fn has_departed(&self, departed: Departed) {
        let bell = {
            let mut inner = self.inner();
            inner.departed.push_back(departed);
            inner.departed_bell.take()
        };
        if let Some(bell) = bell {
            bell.wake();
        }
    }

    pub(super) async fn next_departed(&self) -> Departed {
        poll_fn(|cx| {
            let mut inner = self.inner();
            if let Some(departed) = inner.departed.pop_front() {
                return Poll::Ready(departed);
            }
            inner.departed_bell = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    pub(super) async fn next_command(&self) -> Command<D> {
        poll_fn(|cx| {
            let mut inner = self.inner();
            if let Some(command) = inner.commands.pop_front() {
                return Poll::Ready(command);
            }
            inner.bell = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
