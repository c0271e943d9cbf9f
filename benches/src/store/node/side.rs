//! The store of many drives as a side.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use oriel_engine::reactor::{CoreId, handle, spawn_local};
use oriel_engine::store::{
    BLOCK_BYTES, FormatOptions, Key, KeyKind, NodeDrive, NodeFormat, NodeOptions, NodeStore,
    Observe, OpenOptions, Put, RealmOptions, Seat, SpdkDrive, SpdkPayload, format_node,
    index_in_memory, open_node, window_blocks,
};

use super::super::StorePerfError;
use super::super::adapter::{REALM, STORE, Shape, SideError, Target, key, wipe};
use super::super::load::{self, Course, Done, Speed};
use super::super::rig::{Job, Kind, Rig};
use super::windows;

type Store = NodeStore<SpdkDrive>;

/// How the drives are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Stores {
    /// All are one store's.
    One,
    /// Each is a store.
    Apart,
}

/// What one core has of the store. The numbers of its blobs are its own.
pub(in super::super) struct Node {
    store: Store,
    core: u64,
    cores: u64,
    buffers: RefCell<Vec<SpdkPayload>>,
}

impl Node {
    /// A store on these drives, each on its core, under load from all these cores; or a store on each, under load from its
    /// own core alone. One that is full is made anew; only putting and getting count as time.
    pub(in super::super) async fn measure(
        rig: &Rig<'_>,
        job: &Job,
        places: &[(String, u32)],
        stores: Stores,
    ) -> Result<Speed, StorePerfError> {
        let mut all = Done::nothing();
        loop {
            let gone = Duration::from_secs_f64(all.seconds);
            let course = Course {
                time: rig.time.saturating_sub(gone),
                ..rig.course(job, rig.room())
            };
            all = all.and(&once(rig, job, places, stores, &course).await?);
            let is_over = Duration::from_secs_f64(all.seconds) * 100 >= rig.time * 99;
            if is_over || course.read_percent == 100 || handle().is_stopping() {
                return Ok(all.speed());
            }
        }
    }

    fn key(&self, number: u64) -> Key {
        key(number * self.cores + self.core)
    }

    /// Reads the windows of the blobs `0..stored`.
    async fn read(&self, stored: u64, course: &Course) -> Result<Done, SideError> {
        let mut positions = Vec::new();
        for number in 0..stored {
            let bytes = course.sizes.of(number);
            let located = self.store.locate(REALM, &self.key(number)).await?;
            let located = located.ok_or(SideError::Lost { number, bytes })?;
            positions.push(located.position);
        }
        let bytes = course.sizes.largest();
        windows::read(self.store.clone(), positions, bytes, course).await
    }

    fn buffer(&self, blocks: u64) -> Result<SpdkPayload, SideError> {
        let bytes = blocks as usize * BLOCK_BYTES;
        match self.buffers.borrow_mut().pop() {
            Some(kept) if kept.as_ref().len() == bytes => Ok(kept),
            _ => Ok(SpdkDrive::payload(bytes)?),
        }
    }

    fn keep(&self, payload: Option<SpdkPayload>) {
        self.buffers.borrow_mut().extend(payload);
    }
}

impl Target for Node {
    async fn put(&self, number: u64, bytes: u64) -> Result<(), SideError> {
        let payload = self.buffer(window_blocks(bytes))?;
        let put = self
            .store
            .put_payload(REALM, self.key(number), KeyKind::Name, payload, bytes);
        let (payload, put) = put.await;
        self.keep(payload);
        match put? {
            Put::Created => Ok(()),
            Put::AlreadyThere => Err(SideError::There { number }),
        }
    }

    async fn get(&self, number: u64, bytes: u64) -> Result<(), SideError> {
        let payload = self.buffer(bytes.div_ceil(BLOCK_BYTES as u64))?;
        let key = self.key(number);
        let (payload, read) = self.store.read_into(REALM, &key, 0, payload).await;
        self.keep(payload);
        match read? {
            Some(found) if found == bytes => Ok(()),
            _ => Err(SideError::Lost { number, bytes }),
        }
    }

    fn prepare(&self, bytes: u64, count: u32) -> Result<(), SideError> {
        let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
        let taken: Result<Vec<_>, _> = (0..count).map(|_| self.buffer(blocks)).collect();
        self.buffers.borrow_mut().extend(taken?);
        Ok(())
    }
}

/// Has something done on each core, at once.
async fn on_all<F, T>(
    places: &[(String, u32)],
    work: impl Fn(u64) -> F,
) -> Result<Vec<T>, SideError>
where
    F: AsyncFnOnce() -> Result<T, SideError> + Send + 'static,
    T: Send + 'static,
{
    let reactors = handle();
    let started: Vec<_> = (0..)
        .zip(places)
        .map(|(at, (_, core))| {
            let work = work(at);
            let started = reactors.spawn(CoreId(*core), "a side", move || work());
            started.map_err(|_| SideError::NoTask)
        })
        .collect();
    let mut done = Vec::new();
    let mut result = Ok(());
    for started in started {
        match started?
            .await
            .map_err(SideError::from)
            .and_then(|done| done)
        {
            Ok(one) => done.push(one),
            Err(error) => result = Err(error),
        }
    }
    result.map(|()| done)
}

async fn once(
    rig: &Rig<'_>,
    job: &Job,
    places: &[(String, u32)],
    stores: Stores,
    course: &Course,
) -> Result<Done, SideError> {
    let shape = rig.shape(job, Observe::default());
    let sizes = FormatOptions {
        slab_blocks: shape.slab_bytes / BLOCK_BYTES as u64,
        ..FormatOptions::default()
    };
    let names: Vec<String> = places.iter().map(|(name, _)| name.clone()).collect();
    let seats = on_all(places, |at| {
        let name = names[at as usize].clone();
        async move || {
            wipe(&name).await?;
            let drive = SpdkDrive::format(&name, &sizes).await?;
            Ok(Seat::new(drive, index_in_memory(shape.blobs_max)?, &name))
        }
    });
    let seats = seats.await?;
    let format = NodeFormat {
        drive: sizes,
        ..NodeFormat::default()
    };
    let groups: Vec<Vec<Seat<SpdkDrive>>> = match stores {
        Stores::One => vec![seats],
        Stores::Apart => seats.into_iter().map(|seat| vec![seat]).collect(),
    };
    let (mut open, mut keepers) = (Vec::new(), Vec::new());
    for seats in groups {
        format_node(&seats, STORE, &format).await?;
        let (store, keeper, _) = open_node(seats, options(shape)).await?;
        let keeper = spawn_local("keeper", keeper.run()).map_err(|_| SideError::NoTask)?;
        open.push(store);
        keepers.push(keeper);
    }
    let done = loaded(&open, rig, job, course, places).await;
    open.iter().for_each(Store::close);
    drop(open);
    for keeper in keepers {
        keeper.await;
    }
    done
}

fn options(shape: Shape) -> NodeOptions {
    NodeOptions {
        drive: OpenOptions {
            store: Some(STORE),
            blobs_max: shape.blobs_max,
            realms: vec![RealmOptions {
                verify: shape.verify,
                ..RealmOptions::new(REALM)
            }],
            observe: shape.observe,
            ..OpenOptions::default()
        },
        ..NodeOptions::default()
    }
}

async fn loaded(
    stores: &[Store],
    rig: &Rig<'_>,
    job: &Job,
    course: &Course,
    places: &[(String, u32)],
) -> Result<Done, SideError> {
    let (kind, cores) = (job.kind, places.len() as u64);
    let target = |core: u64| {
        let store = stores[core as usize % stores.len()].clone();
        move || {
            Rc::new(Node {
                store,
                core,
                cores,
                buffers: RefCell::default(),
            })
        }
    };
    let mut course = *course;
    let mut stored = vec![0; places.len()];
    if course.read_percent == 100 {
        let bytes = rig.room();
        stored = on_all(places, |at| {
            let target = target(at);
            async move || load::fill(&target(), &course, bytes).await
        })
        .await?;
    }
    course.seed = rig.seed;
    let done = on_all(places, |at| {
        let (target, stored) = (target(at), stored[at as usize]);
        let course = Course {
            seed: course.seed + at,
            ..course
        };
        async move || match kind {
            Kind::Read => target().read(stored, &course).await,
            _ => load::run(&target(), &course, stored).await,
        }
    });
    let done = done.await?;
    Ok(done.into_iter().fold(Done::nothing(), Done::beside))
}
