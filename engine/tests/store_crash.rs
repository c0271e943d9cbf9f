//! Every short sequence of operations, the power gone at every call of the drive, everything that may be left.
//!
//! `ORIEL_SIM_DEPTH=5 cargo test --release -p oriel-engine --test store_crash` looks at longer sequences than CI
//! does, and `ORIEL_SIM_DEEP=1` at a second crash in every recovery, not in one of eight.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod store_sim;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::rc::Rc;

use oriel_engine::store::*;
use store_sim::api::{Shape, Store};
use store_sim::calls::Lie;
use store_sim::drive::SimDrive;
use store_sim::image::Image;
use store_sim::oracle::{Did, Op, Oracle, Value};
use store_sim::run::{Task, run_all, run_one};

/// A journal that is full after one frame, so that a checkpoint follows each; and one that takes a few.
const SHAPES: [Shape; 2] = [shape(16), shape(20)];

const fn shape(journal_blocks: u64) -> Shape {
    Shape {
        drive_blocks: DRIVE_BLOCKS,
        slab_blocks: 16,
        journal_blocks,
        blobs_max: 1000,
    }
}

const DRIVE_BLOCKS: u64 = 512;
const KEYS: usize = 2;
/// States that crashes of all sequences of up to four steps leave, at least.
const STATES_LEAST: u64 = 5_000_000;

fn key(number: usize) -> Key {
    Key::new([number as u8 + 1; 32])
}

/// The bytes of a blob; no two begin alike.
fn bytes(value: Value) -> Vec<u8> {
    let length = [3000, 24_000, 5000, 1][value.0 as usize];
    let byte = |i: usize| (i as u8).wrapping_mul(31) ^ value.0 as u8;
    (0..length).map(byte).collect()
}

/// What may be asked for at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    One(usize, Op),
    Both((usize, Op), (usize, Op)),
    Restart,
}

const SMALL: Op = Op::Put(Value(0));
const LARGE: Op = Op::Put(Value(1));

const STEPS: [Step; 16] = [
    Step::One(0, SMALL),
    Step::One(0, LARGE),
    Step::One(1, Op::Put(Value(2))),
    Step::One(1, Op::Put(Value(3))),
    Step::One(0, Op::Delete),
    Step::One(1, Op::Delete),
    Step::Restart,
    Step::Both((0, SMALL), (1, SMALL)),
    Step::Both((0, SMALL), (1, LARGE)),
    Step::Both((0, LARGE), (1, LARGE)),
    Step::Both((0, SMALL), (0, LARGE)),
    Step::Both((0, LARGE), (0, Op::Delete)),
    Step::Both((0, Op::Read), (0, Op::Delete)),
    Step::Both((0, Op::Delete), (1, LARGE)),
    Step::Both((0, Op::Delete), (0, Op::Delete)),
    Step::Both((0, Op::Delete), (1, Op::Delete)),
];

async fn carry_out(store: &Store, oracle: &RefCell<Oracle>, (number, op): (usize, Op)) {
    let id = oracle.borrow_mut().begin(number, op);
    let did = match op {
        Op::Put(value) => match store.put(key(number), KeyKind::Name, &bytes(value)).await {
            Ok(Put::Created) => Did::Create,
            Ok(Put::AlreadyThere) => Did::FindThere,
            Err(error) => panic!("{error}"),
        },
        Op::Delete => Did::Delete(store.delete(key(number)).await.unwrap()),
        Op::Read => Did::See(value_of(store.read(&key(number), 0, u64::MAX).await).unwrap()),
    };
    let explained = oracle.borrow_mut().end(number, id, |could| could == did);
    explained.unwrap();
}

fn value_of(read: Result<Option<Vec<u8>>, StoreError>) -> Result<Option<Value>, String> {
    let Some(found) = read.map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let value = (0..4).map(Value).find(|value| bytes(*value) == found);
    value.map(Some).ok_or("a blob's bytes are nobody's".into())
}

type Contents = Result<[Option<Value>; KEYS], String>;

/// Opens a store, lets `work` use it while its journal is written, and closes it.
fn with_store(drive: &SimDrive, work: impl AsyncFnOnce(&Store)) -> Result<(), String> {
    let (store, _) = run_one(SHAPES[0].open(drive.clone()))
        .ok_or("opening does not end")?
        .map_err(|error| error.to_string())?;
    let closed = RefCell::new(None);
    let mut both: [Task<'_>; 2] = [
        Box::pin(async { *closed.borrow_mut() = Some(store.run().await) }),
        Box::pin(async {
            work(&store).await;
            store.close();
        }),
    ];
    let ended = run_all(&mut both);
    drop(both);
    if ended.contains(&false) {
        return Err("closing does not end".into());
    }
    let closed = closed.into_inner().ok_or("closing does not end")?;
    closed.map_err(|error| error.to_string())
}

fn contents_of(store: &Store) -> Contents {
    let mut contents = [None; KEYS];
    for (number, place) in contents.iter_mut().enumerate() {
        let read = run_one(store.read(&key(number), 0, u64::MAX)).ok_or("reading does not end")?;
        *place = value_of(read)?;
    }
    if store.stat().blobs != contents.iter().flatten().count() as u64 {
        return Err("the store holds what nobody put".into());
    }
    Ok(contents)
}

/// What the store on an image holds, read back whole.
fn contents(drive: SimDrive) -> Contents {
    let (store, _) = run_one(SHAPES[0].open(drive))
        .ok_or("opening does not end")?
        .map_err(|error| error.to_string())?;
    contents_of(&store)
}

/// The store on an image goes on to be used as if nothing had happened.
fn goes_on(image: &Image, before: &[Option<Value>; KEYS]) -> Result<(), String> {
    let drive = SimDrive::new(image.clone(), DRIVE_BLOCKS);
    let value = Value(2);
    with_store(&drive, async |store| {
        if before[0].is_some() {
            assert_eq!(store.delete(key(0)).await, Ok(true));
        }
        let put = store.put(key(0), KeyKind::Name, &bytes(value)).await;
        assert_eq!(put, Ok(Put::Created));
    })?;
    let found = contents(SimDrive::new(drive.image(), DRIVE_BLOCKS))?;
    match found == [Some(value), before[1]] {
        true => Ok(()),
        false => Err(format!("a blob put after the crash: {found:?}")),
    }
}

#[derive(Default)]
struct Explored {
    sequences: u64,
    crashes: u64,
    states: u64,
    second_crashes: u64,
    second_states: u64,
    known: HashMap<u128, Contents>,
    failure: Option<String>,
}

impl Explored {
    /// The power is gone, this is left of the drive, and these are the contents that are right.
    fn look(&mut self, image: Image, allowed: &[BTreeSet<Option<Value>>], deep: u128) {
        self.states += 1;
        let digest = image.digest();
        if !self.known.contains_key(&digest) {
            let drive = SimDrive::new(image.clone(), DRIVE_BLOCKS);
            let found = match digest.is_multiple_of(deep) {
                true => self.look_twice(&image),
                false => contents(drive),
            };
            self.known.insert(digest, found);
        }
        let found = &self.known[&digest];
        let right = |found: &[Option<Value>; KEYS]| {
            let pairs = || found.iter().zip(allowed);
            pairs().all(|(found, allowed)| allowed.contains(found))
        };
        if !found.as_ref().is_ok_and(right) {
            self.failure
                .get_or_insert(format!("{found:?}, not one of {allowed:?}"));
        }
    }

    /// The power goes once more while the store is opened: nothing may change by that.
    fn look_twice(&mut self, image: &Image) -> Contents {
        let drive = SimDrive::new(image.clone(), DRIVE_BLOCKS);
        let left = Rc::new(RefCell::new(Vec::new()));
        let all = left.clone();
        drive.observe(Box::new(move |_, images| all.borrow_mut().push(images)));
        let found = contents(drive.clone())?;
        drive.stop_observing();
        for images in left.take() {
            self.second_crashes += 1;
            for image in images {
                self.second_states += 1;
                let digest = image.digest();
                let again = self
                    .known
                    .entry(digest)
                    .or_insert_with(|| contents(SimDrive::new(image, DRIVE_BLOCKS)));
                if *again != Ok(found) {
                    return Err(format!("{again:?} after a second crash, {found:?} before"));
                }
            }
        }
        goes_on(image, &found)?;
        Ok(found)
    }
}

/// Carries the steps out one after the other and looks at everything that any crash during the last one may leave: those
/// of the others are those of a shorter sequence.
fn play(
    formatted: &Image,
    steps: &[Step],
    lie: Option<Lie>,
    deep: u128,
    explored: &Rc<RefCell<Explored>>,
) {
    let drive = SimDrive::new(formatted.clone(), DRIVE_BLOCKS).lying(lie);
    let oracle = Rc::new(RefCell::new(Oracle::new(KEYS)));
    let observe = || {
        let (oracle, explored) = (oracle.clone(), explored.clone());
        drive.observe(Box::new(move |_, images| {
            let allowed: Vec<_> = (0..KEYS)
                .map(|key| oracle.borrow().after_crash(key))
                .collect();
            let mut explored = explored.borrow_mut();
            explored.crashes += 1;
            for image in images {
                explored.look(image, &allowed, deep);
            }
        }));
    };
    if steps.len() == 1 {
        observe();
    }
    let next = Cell::new(0);
    while next.get() < steps.len() {
        let closed = with_store(&drive, async |store| {
            while let Some(step) = steps.get(next.get()) {
                next.set(next.get() + 1);
                if next.get() == steps.len() {
                    observe();
                }
                match *step {
                    Step::Restart => return,
                    Step::One(number, op) => carry_out(store, &oracle, (number, op)).await,
                    Step::Both(one, other) => {
                        let mut both: [Task<'_>; 2] = [
                            Box::pin(carry_out(store, &oracle, one)),
                            Box::pin(carry_out(store, &oracle, other)),
                        ];
                        join(&mut both).await;
                    }
                }
            }
        });
        closed.unwrap();
    }
    if steps.last() == Some(&Step::Restart) {
        contents(drive.clone()).unwrap();
    }
    drive.stop_observing();
    let allowed: Vec<_> = (0..KEYS).map(|key| oracle.borrow().now(key)).collect();
    let mut explored = explored.borrow_mut();
    explored.sequences += 1;
    explored.look(drive.durable_image(), &allowed, deep);
}

async fn join(all: &mut [Task<'_>]) {
    let mut ended = vec![false; all.len()];
    std::future::poll_fn(|cx| {
        for (task, ended) in all.iter_mut().zip(&mut ended) {
            *ended = *ended || task.as_mut().poll(cx).is_ready();
        }
        match ended.contains(&false) {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
}

fn formatted(shape: Shape) -> Image {
    let drive = SimDrive::new(Image::default(), shape.drive_blocks);
    run_one(shape.format(&drive)).unwrap().unwrap();
    drive.image()
}

/// Says what was played when something in the store or in the drive panics.
struct Playing<'a>(&'a [Step]);

impl Drop for Playing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("while playing {:?}", self.0);
        }
    }
}

/// Every sequence of up to `longest` steps whose number leaves this rest; one image in `deep` is looked at twice.
fn explore(longest: u32, lie: Option<Lie>, deep: u128, share: (usize, usize)) -> Explored {
    let explored = Rc::new(RefCell::new(Explored::default()));
    for (shape, length) in SHAPES
        .iter()
        .flat_map(|shape| (1..=longest).map(move |length| (*shape, length)))
    {
        let formatted = formatted(shape);
        for number in (0..STEPS.len().pow(length)).filter(|number| number % share.1 == share.0) {
            let steps: Vec<Step> = (0..length)
                .map(|place| STEPS[number / STEPS.len().pow(place) % STEPS.len()])
                .collect();
            let playing = Playing(&steps);
            play(&formatted, &steps, lie, deep, &explored);
            drop(playing);
            let mut explored = explored.borrow_mut();
            if let Some(failure) = &mut explored.failure {
                *failure = format!("{shape:?}, after {steps:?}: {failure}");
                return std::mem::take(&mut explored);
            }
        }
    }
    Rc::into_inner(explored).unwrap().into_inner()
}

fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(otherwise, |set| set.parse().unwrap())
}

/// The same on every core.
fn explore_all(longest: u32, deep: u128) -> Explored {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
    let parts: Vec<Explored> = std::thread::scope(|scope| {
        let part = |index| scope.spawn(move || explore(longest, None, deep, (index, threads)));
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect()
    });
    let mut all = Explored::default();
    for part in parts {
        all.sequences += part.sequences;
        all.crashes += part.crashes;
        all.states += part.states;
        all.second_crashes += part.second_crashes;
        all.second_states += part.second_states;
        all.known.extend(part.known);
        all.failure = all.failure.or(part.failure);
    }
    all
}

#[test]
fn no_crash_loses_what_was_answered() {
    let longest = setting("ORIEL_SIM_DEPTH", 4) as u32;
    let deep = u128::from(setting("ORIEL_SIM_DEEP", 8));
    let explored = explore_all(longest, deep);
    // By no macro of the tests' runner, which keeps what those print of a test that passes to itself.
    let told = writeln!(
        std::io::stderr(),
        "{} sequences of up to {longest} steps, {} crashes that left {} states; {} more crashes while recovering, which left \
         {} states; {} states were different ones",
        explored.sequences,
        explored.crashes,
        explored.states,
        explored.second_crashes,
        explored.second_states,
        explored.known.len()
    );
    told.unwrap();
    assert_eq!(explored.failure, None);
    if longest >= 4 {
        // Of a test that looks at fewer than it did, somebody is to hear.
        assert!(
            explored.states >= STATES_LEAST,
            "{} states",
            explored.states
        );
    }
}

#[test]
fn a_crash_while_a_store_is_made_leaves_none_or_an_empty_one() {
    let drive = SimDrive::new(Image::default(), DRIVE_BLOCKS);
    let seen = Rc::new(RefCell::new(HashMap::new()));
    let all = seen.clone();
    drive.observe(Box::new(move |call, images| {
        for image in images {
            all.borrow_mut()
                .entry(image.digest())
                .or_insert((call, image));
        }
    }));
    run_one(SHAPES[0].format(&drive)).unwrap().unwrap();
    drive.stop_observing();
    let (mut none, mut to_wipe) = (0, 0);
    for (call, image) in seen.take().into_values() {
        let again = SimDrive::new(image.clone(), DRIVE_BLOCKS);
        match run_one(SHAPES[0].open(again.clone())).unwrap() {
            Ok((store, _)) => assert_eq!(contents_of(&store), Ok([None; KEYS])),
            Err(OpenError::NotFormatted) => {
                none += 1;
                run_one(SHAPES[0].format(&again)).unwrap().unwrap();
                assert_eq!(contents(again), Ok([None; KEYS]));
            }
            // The label's extent was made, and nothing written to it: whose it is, nobody knows.
            Err(OpenError::Damaged {
                extent: ExtentName::Label,
                ..
            }) => to_wipe += 1,
            Err(error) => panic!("after a crash at call {call}: {error}"),
        }
    }
    println!("{none} states without a store, {to_wipe} with a label that is none");
}

/// Deletes of so many blobs at once take more than one block of the journal.
#[test]
fn a_torn_frame_of_several_blocks_is_not_believed() {
    const BLOBS: usize = 200;
    let name = |number: usize| Key::new(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let shape = Shape {
        drive_blocks: 2048,
        ..shape(64)
    };
    let drive = SimDrive::new(formatted(shape), shape.drive_blocks);
    let oracle = Rc::new(RefCell::new(Oracle::new(BLOBS)));
    let states = Rc::new(Cell::new(0));
    let played = with_store(&drive, async |store| {
        for number in 0..BLOBS {
            let id = oracle.borrow_mut().begin(number, SMALL);
            let put = store.put(name(number), KeyKind::Name, b"small").await;
            assert_eq!(put, Ok(Put::Created));
            let explained = oracle
                .borrow_mut()
                .end(number, id, |did| did == Did::Create);
            explained.unwrap();
        }
        let (seen, counted) = (oracle.clone(), states.clone());
        drive.observe(Box::new(move |call, images| {
            for image in images {
                counted.set(counted.get() + 1);
                let again = SimDrive::new(image, shape.drive_blocks);
                let opened = run_one(shape.open(again)).expect("opening ends");
                let (store, _) = opened.unwrap_or_else(|error| panic!("call {call}: {error}"));
                for number in 0..BLOBS {
                    let is_there = store.is_there(&name(number)).then_some(Value(0));
                    let allowed = seen.borrow().after_crash(number);
                    assert!(allowed.contains(&is_there), "call {call}, blob {number}");
                }
            }
        }));
        let deletes = (0..BLOBS).map(|number| {
            let oracle = oracle.clone();
            let delete: Task<'_> = Box::pin(async move {
                let id = oracle.borrow_mut().begin(number, Op::Delete);
                assert_eq!(store.delete(name(number)).await, Ok(true));
                let gone = |did| did == Did::Delete(true);
                let explained = oracle.borrow_mut().end(number, id, gone);
                explained.unwrap();
            });
            delete
        });
        join(&mut deletes.collect::<Vec<_>>()).await;
    });
    drive.stop_observing();
    played.unwrap();
    println!("{} states", states.get());
    assert!(states.get() > 20, "the frames had one block each");
}

/// What a simulation does not find it does not show: every broken promise is found by sequences of two steps.
#[test]
fn drives_that_lie_about_flushes_are_found_out() {
    for lie in [
        Lie::AllFlushes,
        Lie::BeforeFrames,
        Lie::AfterFrames,
        Lie::OfCheckpoints,
    ] {
        let explored = explore(2, Some(lie), 1 << 100, (0, 1));
        let failure = explored
            .failure
            .unwrap_or_else(|| panic!("{lie:?} costs nothing"));
        println!("{lie:?}: {failure}");
    }
}
