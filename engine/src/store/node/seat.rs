//! Where a lane is: its core, and how others reach it there.
//!
//! Everything of a drive stays on one core. A [`Seat`] can be sent to any; work for the lane goes to it: a plain call where
//! it is at home, otherwise a message to its reactor and one back. Without reactors (in tests) all is at home.

use std::any::Any;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use futures_channel::oneshot;

use super::super::drive::{Drive, DriveError};
use super::super::types::{Key, RealmId};
use super::kept::IndexPlace;
use super::lane::{Held, Lane, Refused};
use super::shelf::Shelf;
use super::visit::Uses;
use crate::reactor::{self, CoreId};

/// Who hears of the end of a read that was begun without a task.
pub trait ReadEnd<P>: 'static {
    /// It has ended: the buffer, and whether it is filled.
    fn ended(self, payload: P, is_filled: bool);
}

/// A drive as it is read on a core that is not its own.
pub trait Guest<P>: Sized + 'static {
    /// What it is opened with.
    type Door: Send + Sync + 'static;
    /// Where an extent is.
    type Place: Send + Sync + 'static;

    /// Opens the drive on this core; `None` if that cannot be.
    fn enter(door: &Self::Door) -> Option<Self>;

    /// Begins to fill a buffer from a block of an extent on. What it cannot do now, or never, it gives back.
    fn begin_read<R: ReadEnd<P>>(
        &self,
        place: &Self::Place,
        block: u64,
        payload: P,
        end: R,
    ) -> Result<(), (P, R)>;
}

/// Of drives that only their own cores read.
#[derive(Clone, Copy, Debug)]
pub enum NoGuest {}

impl<P> Guest<P> for NoGuest {
    type Door = Infallible;
    type Place = Infallible;

    fn enter(door: &Infallible) -> Option<Self> {
        match *door {}
    }

    fn begin_read<R: ReadEnd<P>>(
        &self,
        place: &Infallible,
        _block: u64,
        _payload: P,
        _end: R,
    ) -> Result<(), (P, R)> {
        match *place {}
    }
}

/// What a store of many drives needs of a drive besides.
#[expect(async_fn_in_trait, reason = "everything stays on one thread")]
pub trait NodeDrive: Drive + Clone + 'static {
    /// A buffer on its way between cores.
    type Payload: AsRef<[u8]> + AsMut<[u8]> + Send + 'static;
    /// The drive on other cores.
    type Guest: Guest<Self::Payload>;

    /// A buffer of so many bytes, all zero, on any core.
    fn payload(bytes: usize) -> Result<Self::Payload, DriveError>;

    /// Makes it one of the drive's own.
    fn take(&self, payload: Self::Payload) -> Self::Buf;

    /// The way back.
    fn give(buf: Self::Buf) -> Self::Payload;

    /// Begins to fill a buffer from a block of an extent on, without a task that waits. A drive that cannot do that now, or
    /// never, gives both back.
    fn begin_read<R: ReadEnd<Self::Payload>>(
        &self,
        extent: &Self::Extent,
        block: u64,
        payload: Self::Payload,
        end: R,
    ) -> Result<(), (Self::Payload, R)> {
        let _ = (extent, block);
        Err((payload, end))
    }

    /// What other cores open the drive with; `None` if only its own core reads from it.
    fn door(&self) -> Option<<Self::Guest as Guest<Self::Payload>>::Door> {
        None
    }

    /// Where an extent is, for other cores.
    fn place(&self, extent: &Self::Extent) -> Option<<Self::Guest as Guest<Self::Payload>>::Place> {
        let _ = extent;
        None
    }

    /// Ends when the drive was removed; never, if that cannot be known.
    async fn removed(&self);

    /// Lets go of the drive in order.
    async fn close(self) -> Result<(), DriveError>;
}

/// What a core has of seats, by their numbers, of which a program uses few.
#[derive(Default)]
pub(super) struct Locals(Vec<Option<Rc<dyn Any>>>);

impl Locals {
    pub(super) fn get<T: 'static>(&self, id: u64) -> Option<Rc<T>> {
        let found = self.0.get(id as usize)?.as_ref()?;
        found.clone().downcast().ok()
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.0.get(id as usize).is_some_and(Option::is_some)
    }

    pub(super) fn insert(&mut self, id: u64, what: Rc<dyn Any>) {
        let at = id as usize;
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        self.0[at] = Some(what);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Rc<dyn Any>> {
        self.0.get_mut(id as usize)?.take()
    }
}

thread_local! {
    static LANES: RefCell<Locals> = RefCell::default();
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A drive on the core where it was loaded. Clones are the same one.
pub struct Seat<D> {
    pub(super) id: u64,
    host: Option<CoreId>,
    name: Arc<str>,
    pub(super) shelf: Arc<Shelf>,
    of: PhantomData<fn() -> D>,
}

impl<D> Clone for Seat<D> {
    fn clone(&self) -> Self {
        Self {
            id: self.id,
            host: self.host,
            name: self.name.clone(),
            shelf: self.shelf.clone(),
            of: PhantomData,
        }
    }
}

impl<D> std::fmt::Debug for Seat<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({})", self.name)
    }
}

/// The lane's core has stopped, or nobody uses the drive any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoLane;

/// Keeps others from a lane, or from one of its keys, until it is dropped.
#[expect(dead_code, reason = "dropping them is what they are for")]
pub(super) enum Guard<D: NodeDrive> {
    Here(Held<D>),
    There(oneshot::Sender<()>),
}

impl<D: NodeDrive> Seat<D> {
    /// Gives a drive of this core to a store, with the place of its index.
    pub fn new(drive: D, index: impl Into<IndexPlace>, name: &str) -> Self {
        let index = index.into();
        let name: Arc<str> = name.into();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let shelf = Arc::<Shelf>::default();
        let lane = Rc::new(Lane::new(drive, index, name.clone(), (id, shelf.clone())));
        LANES.with_borrow_mut(|lanes| lanes.insert(id, lane as Rc<dyn Any>));
        Self {
            id,
            host: reactor::core_here(),
            name,
            shelf,
            of: PhantomData,
        }
    }

    /// Lets go of a drive that no store uses, on its own core: none took it, or the keeper of the one that did was dropped.
    pub fn release(self) {
        LANES.with_borrow_mut(|lanes| lanes.remove(self.id));
    }

    /// Closes a drive that no store uses, from any core.
    pub async fn close(self) -> Result<(), DriveError> {
        let closed = self.call(|lane| async move { lane.close().await }).await;
        self.give_up().await;
        // Where its core has stopped, it went with it.
        closed.unwrap_or(Ok(()))
    }

    /// What the drive is called.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The core that it is used on.
    pub fn core(&self) -> Option<CoreId> {
        self.host
    }

    pub(super) fn is_here(&self) -> bool {
        self.host.is_none() || self.host == reactor::core_here()
    }

    /// The lane, if it is on this core.
    pub(super) fn lane_here(&self) -> Option<Rc<Lane<D>>> {
        match self.is_here() {
            true => lane(self.id).ok(),
            false => None,
        }
    }

    /// Does some work where the lane is.
    pub(super) async fn call<F, Fut, T>(&self, work: F) -> Result<T, NoLane>
    where
        F: FnOnce(Rc<Lane<D>>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        match self.is_here() {
            true => Ok(work(lane(self.id)?).await),
            false => self.send(work).await,
        }
    }

    async fn send<F, Fut, T>(&self, work: F) -> Result<T, NoLane>
    where
        F: FnOnce(Rc<Lane<D>>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let core = self.host.ok_or(NoLane)?;
        let id = self.id;
        on_core(core, move || async move { Ok(work(lane(id)?).await) })
            .await
            .unwrap_or(Err(NoLane))
    }

    /// Has the lane's policies hear of uses sooner or later, unless its core has more to do than it can.
    pub(super) fn tell_uses(&self, uses: Uses) {
        let Some(core) = self.host.filter(|_| !uses.is_empty()) else {
            return;
        };
        let id = self.id;
        let job = move || async move {
            if let Ok(lane) = lane::<D>(id) {
                lane.used(&uses);
            }
        };
        let _ = reactor::handle().spawn(core, "news for a drive of the store", job);
    }

    /// Has the lane run its log, as a task of its own where there are tasks.
    pub(super) async fn call_task<F, Fut, T>(&self, work: F) -> Result<T, NoLane>
    where
        F: FnOnce(Rc<Lane<D>>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        match self.host {
            None => Ok(work(lane(self.id)?).await),
            Some(_) => self.send(work).await,
        }
    }

    /// Has a place among those who change blobs under a version of the table, until the guard is dropped; with a key, to
    /// the exclusion of all others who ask for it.
    pub(super) async fn hold(
        &self,
        version: u64,
        key: Option<(RealmId, Key)>,
    ) -> Result<Result<Guard<D>, Refused>, NoLane> {
        if self.is_here() {
            let held = lane::<D>(self.id)?.hold(version, key).await;
            return Ok(held.map(Guard::Here));
        }
        let (release, released) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let holding = self.send(move |lane| async move {
            let held = lane.hold(version, key).await;
            let (answer, held) = match held {
                Ok(held) => (Ok(()), Some(held)),
                Err(refused) => (Err(refused), None),
            };
            if tell.send(answer).is_ok() && held.is_some() {
                // Whether it was dropped or sent, the guard is gone.
                let _ = released.await;
            }
            drop(held);
        });
        // The message has to be under way; its end is that of the guard.
        let mut holding = Box::pin(holding);
        let mut told = told;
        poll_fn(move |cx| {
            let ended = holding.as_mut().poll(cx);
            match std::pin::Pin::new(&mut told).poll(cx) {
                Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
                Poll::Ready(Err(_)) => Poll::Ready(Err(NoLane)),
                Poll::Pending if ended.is_ready() => Poll::Ready(Err(NoLane)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
        .map(|answer| answer.map(|()| Guard::There(release)))
    }

    /// The drive is not used any more.
    pub(super) async fn give_up(&self) {
        let id = self.id;
        let forget = move |_| async move {
            LANES.with_borrow_mut(|lanes| lanes.remove(id));
        };
        // Where there is no lane any more there is nothing to forget.
        let _ = self.call(forget).await;
    }
}

fn lane<D: NodeDrive>(id: u64) -> Result<Rc<Lane<D>>, NoLane> {
    LANES.with_borrow(|lanes| lanes.get(id)).ok_or(NoLane)
}

/// Does some work on another core; `None` if that has stopped.
pub(super) async fn on_core<F, Fut, T>(core: CoreId, work: F) -> Option<T>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let done = reactor::call(core, "work for a drive of the store", work);
    done.await.ok()
}
