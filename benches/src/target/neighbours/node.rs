//! The node that has neighbours: three drives, of which the last can be made to fail, and a realm for each host.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oriel_engine::clock::Clock;
use oriel_engine::reactor::{handle, sleep, spawn_local};
use oriel_engine::store::{
    DriveNumber, Key, KeyKind, NodeFormat, NodeOptions, NodeStore, OpenOptions, RealmId,
    RealmOptions, Seat, SpdkDrive, format_node, index_in_memory, open_node,
};
use oriel_nvmf_target::{Hosts, Node, NodeSpec, Realm};
use oriel_spdk::Subsystems;
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::nvmf::Address;

use super::super::TargetError;
use super::super::plan::key;
use super::super::serve::{BLOBS_MAX, BLOCK, LOOK, SIZES_OF_STORE, STORE, free_address, transport};
use super::failing;
use super::plan::{BLOBS_OF_SIZE, CONNECTIONS_MAX, Neighbourhood, SIZES, Site};
use crate::bdev::session::{Ground, with_session};
use crate::out::say;

/// The realms' numbers are their places here, from one.
const REALMS: [&str; 4] = ["own", "other", "full", "closed"];
const OWN: RealmId = RealmId(1);
const OTHER: RealmId = RealmId(2);
const FULL: RealmId = RealmId(3);
/// What the realm may have that is full.
const QUOTA_BLOCKS: u64 = 256;
/// Blobs of two realms, what is put, and what a store has for itself.
const DRIVE_BYTES: u64 = 256 << 20;
const MEMORY_MIB: u32 = 2 * (DRIVE_BYTES >> 20) as u32 + 640;

/// The drives that stay.
const GOOD: [&str; 2] = ["First", "Second"];
const FAILING: &str = "Failing";

/// What the program was told.
#[derive(Default)]
struct Told {
    fails: Arc<AtomicBool>,
    ends: AtomicBool,
}

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError::Side(error.to_string())
}

/// Serves until its standard input ends; the last drive fails from its first line on.
pub(in super::super) fn run(core: u32) -> Result<Option<i32>, TargetError> {
    let told = Arc::<Told>::default();
    let tells = Arc::clone(&told);
    std::thread::spawn(move || {
        for _ in BufReader::new(std::io::stdin())
            .lines()
            .map_while(Result::ok)
        {
            tells.fails.store(true, Ordering::Release);
        }
        tells.ends.store(true, Ordering::Release);
    });
    let ground = Ground {
        cores: [core].into(),
        memory_mib: MEMORY_MIB,
        pages: None,
        creates: Vec::new(),
    };
    let (served, signal) = with_session(ground, async move |session| {
        Ok(Box::pin(node(session.subsystems(), &told)).await)
    })?;
    served.map(|()| signal)
}

async fn node(subsystems: &Subsystems, told: &Told) -> Result<(), TargetError> {
    let blocks = DRIVE_BYTES / u64::from(BLOCK);
    for name in GOOD {
        let made = create::malloc(subsystems, name, blocks, BLOCK);
        made.await.map_err(failed)?;
    }
    let failing = failing::make(FAILING, (blocks, BLOCK), &told.fails).map_err(failed)?;
    let served = store(subsystems, told).await;
    failing.unregister().await.map_err(failed)?;
    for name in GOOD {
        let deleted = create::delete(subsystems, Kind::Malloc, name);
        deleted.await.map_err(failed)?;
    }
    served
}

fn realms() -> Vec<Realm> {
    let of = |(name, number): (&&str, u16)| Realm {
        name: (*name).into(),
        options: RealmOptions {
            // Windows are checked by those who read them.
            verify: false,
            quota_blocks: (RealmId(number) == FULL).then_some(QUOTA_BLOCKS),
            ..RealmOptions::new(RealmId(number))
        },
        hosts: match *name {
            "closed" => Hosts::Only(Vec::new()),
            _ => Hosts::Any,
        },
    };
    REALMS.iter().zip(1..).map(of).collect()
}

async fn store(subsystems: &Subsystems, told: &Told) -> Result<(), TargetError> {
    let mut seats = Vec::new();
    for name in [GOOD[0], GOOD[1], FAILING] {
        let drive = SpdkDrive::format(name, &SIZES_OF_STORE).await;
        let index = index_in_memory(BLOBS_MAX).map_err(failed)?;
        seats.push(Seat::new(drive.map_err(failed)?, index, name));
    }
    let format = NodeFormat {
        drive: SIZES_OF_STORE,
        ..NodeFormat::default()
    };
    format_node(&seats, STORE, &format).await.map_err(failed)?;
    let clock = Clock::monotonic();
    let options = NodeOptions {
        drive: OpenOptions {
            store: Some(STORE),
            blobs_max: BLOBS_MAX,
            realms: realms().iter().map(|realm| realm.options.clone()).collect(),
            clock: clock.clone(),
            ..OpenOptions::default()
        },
        ..NodeOptions::default()
    };
    let (store, keeper, _) = open_node(seats, options).await.map_err(failed)?;
    let keeper = spawn_local("the store's keeper", keeper.run()).map_err(failed)?;
    let spec = NodeSpec {
        node: "perf".into(),
        store: STORE,
        realms: realms(),
        transports: vec![transport()],
        listeners: vec![Address::tcp(free_address()?)],
        connections_max: Some(CONNECTIONS_MAX),
        put_time: oriel_nvmf_target::limits::PUT_TIME,
    };
    let served = serve(subsystems, (&store, &clock), &spec, told).await;
    store.close();
    keeper.await;
    served
}

async fn serve(
    subsystems: &Subsystems,
    (store, clock): (&NodeStore<SpdkDrive>, &Clock),
    spec: &NodeSpec,
    told: &Told,
) -> Result<(), TargetError> {
    let own = fill(store, OWN).await?;
    let other = fill(store, OTHER).await?;
    fill_up(store).await?;
    let node = Node::start(subsystems, store, clock, spec)
        .await
        .map_err(failed)?;
    let mut drives: Vec<DriveNumber> = own.keys().copied().collect();
    drives.sort_unstable();
    let (Some(first), Some(second)) = (drives.first(), drives.last()) else {
        return Err(failed("no blob is on any drive"));
    };
    let site = |number: usize, windows: Option<&BTreeMap<u64, Vec<u64>>>| {
        Ok::<_, TargetError>(Site {
            nqn: spec.nqn(REALMS[number]).map_err(failed)?.to_string(),
            windows: windows.cloned().unwrap_or_default(),
        })
    };
    let served = Neighbourhood {
        address: spec.listeners[0].socket,
        own: site(0, own.get(first))?,
        other: site(1, other.get(second))?,
        full: site(2, None)?,
        closed: site(3, None)?,
    };
    let text = serde_json::to_string(&served).expect("what is served is plain data");
    say!("{text}");
    while !told.ends.load(Ordering::Acquire) && !handle().is_stopping() {
        sleep(LOOK).await;
    }
    node.stop().await.map_err(failed)
}

/// Where a realm's blobs begin: by drive, and by their lengths.
type Windows = BTreeMap<DriveNumber, BTreeMap<u64, Vec<u64>>>;

async fn fill(store: &NodeStore<SpdkDrive>, realm: RealmId) -> Result<Windows, TargetError> {
    let mut windows = Windows::new();
    for bytes in SIZES {
        let content = vec![bytes.trailing_zeros() as u8; bytes as usize];
        for number in 0..BLOBS_OF_SIZE {
            let key = Key::new(key(bytes, number));
            let put = store.put(realm, key, KeyKind::Name, &content);
            put.await.map_err(failed)?;
            let location = store.locate(realm, &key).await.map_err(failed)?;
            let position = location.map(|location| location.position);
            let place = position.and_then(|at| Some((at, store.drive_of(at)?)));
            let (at, drive) = place.ok_or_else(|| failed("a blob is nowhere"))?;
            let of_drive = windows.entry(drive).or_default();
            of_drive.entry(bytes).or_default().push(at.0);
        }
    }
    Ok(windows)
}

/// Puts into the realm that has little room until it has none.
async fn fill_up(store: &NodeStore<SpdkDrive>) -> Result<(), TargetError> {
    let content = vec![0xf0; SIZES[0] as usize];
    for number in 0..=QUOTA_BLOCKS {
        let key = Key::new(key(0, number));
        if store.put(FULL, key, KeyKind::Name, &content).await.is_err() {
            return Ok(());
        }
    }
    Err(failed("a realm takes more than its quota"))
}
