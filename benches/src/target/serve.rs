//! The programs with the targets.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oriel_engine::clock::Clock;
use oriel_engine::reactor::{handle, sleep, spawn_local};
use oriel_engine::store::{
    FormatOptions, Key, KeyKind, NodeFormat, NodeOptions, NodeStore, OpenOptions, RealmId,
    RealmOptions, Seat, SpdkDrive, StoreId, format_node, index_in_memory, open_node,
};
use oriel_nvmf_target::limits::IO_BYTES_MAX;
use oriel_nvmf_target::{Hosts, Node, NodeSpec, Realm};
use oriel_spdk::Subsystems;
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::nvmf::{
    Address, NamespaceOptions, Nqn, SubsystemSpec, Target, TargetOptions, TcpOptions,
    TransportOptions,
};

use super::plan::{BYTES_OF_SIZE, Place, SIZES, Served, Side, key};
use super::{TargetError, Which, lvol};
use crate::bdev::session::{Ground, with_session};
use crate::out::say;

pub(super) const BLOCK: u32 = 4096;
const REALM: RealmId = RealmId(1);
pub(super) const STORE: StoreId = StoreId(*b"oriel-perf targe");
/// Bytes of each drive: blobs of three sizes, one such part for what is put, and what a store has for itself.
const DRIVE_BYTES: u64 = 8 * BYTES_OF_SIZE;
/// For two drives, pools and buffers.
const MEMORY_MIB: u32 = 2 * (DRIVE_BYTES >> 20) as u32 + 640;
pub(super) const BLOBS_MAX: u64 = 1 << 20;
pub(super) const LOOK: Duration = Duration::from_millis(50);

pub(super) const SIZES_OF_STORE: FormatOptions = FormatOptions {
    slab_blocks: (16 << 20) / BLOCK as u64,
    journal_blocks: (16 << 20) / BLOCK as u64,
};

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError::Side(error.to_string())
}

/// Serves until its standard input ends.
pub(super) fn run(core: u32, which: Which) -> Result<Option<i32>, TargetError> {
    let has_ended = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&has_ended);
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // However it ends, it has.
        let _ = std::io::stdin().read_to_end(&mut rest);
        ends.store(true, Ordering::Release);
    });
    let ground = Ground {
        cores: [core].into(),
        memory_mib: MEMORY_MIB,
        pages: None,
        creates: Vec::new(),
    };
    let (served, signal) = with_session(ground, async move |session| {
        let subsystems = session.subsystems();
        Ok(match which {
            Which::Peer => Box::pin(peer(subsystems, &has_ended)).await,
            Which::Node => Box::pin(node(subsystems, &has_ended)).await,
        })
    })?;
    served.map(|()| signal)
}

pub(super) fn transport() -> TransportOptions {
    TransportOptions {
        io_bytes_max: Some(IO_BYTES_MAX),
        io_unit_bytes: Some(IO_BYTES_MAX),
        shared_buffers: Some(256),
        buffer_cache: Some(16),
        ..TransportOptions::tcp(TcpOptions::default())
    }
}

/// An address that nobody has just now.
pub(super) fn free_address() -> Result<SocketAddr, TargetError> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    probe.local_addr().map_err(failed)
}

async fn delete(subsystems: &Subsystems, drives: &[(Kind, &str)]) -> Result<(), TargetError> {
    for (kind, name) in drives {
        let deleted = create::delete(subsystems, *kind, name);
        deleted.await.map_err(failed)?;
    }
    Ok(())
}

/// Says what is served, and waits until nobody needs it any more.
async fn until_ended(served: &Served, has_ended: &AtomicBool) {
    let text = serde_json::to_string(served).expect("what is served is plain data");
    say!("{text}");
    while !has_ended.load(Ordering::Acquire) && !handle().is_stopping() {
        sleep(LOOK).await;
    }
}

/// SPDK's own target, with all sides but the node's.
async fn peer(subsystems: &Subsystems, has_ended: &AtomicBool) -> Result<(), TargetError> {
    let blocks = DRIVE_BYTES / u64::from(BLOCK);
    for name in ["Raw", "Base"] {
        let made = create::malloc(subsystems, name, blocks, BLOCK);
        made.await.map_err(failed)?;
    }
    let made = create::null(subsystems, "Null", blocks, BLOCK);
    made.await.map_err(failed)?;
    let volume = lvol::make(subsystems, "Base").await?;
    let mut devices = vec![(Side::Raw, "Raw".to_owned()), (Side::Null, "Null".into())];
    devices.extend(volume.clone().map(|name| (Side::Lvol, name)));
    let (target, sides) = serve_devices(subsystems, free_address()?, &devices).await?;
    let served = Served {
        sides,
        ..Served::default()
    };
    until_ended(&served, has_ended).await;
    target.shut_down().await.map_err(failed)?;
    if volume.is_some() {
        lvol::end(subsystems).await?;
    }
    let drives = [
        (Kind::Malloc, "Raw"),
        (Kind::Malloc, "Base"),
        (Kind::Null, "Null"),
    ];
    delete(subsystems, &drives).await
}

/// SPDK's own target with these devices.
async fn serve_devices(
    subsystems: &Subsystems,
    address: SocketAddr,
    devices: &[(Side, String)],
) -> Result<(Target, BTreeMap<Side, Place>), TargetError> {
    let options = TargetOptions {
        name: "peer".into(),
        ..TargetOptions::default()
    };
    let target = Target::new(subsystems, &options).map_err(failed)?;
    target.add_transport(&transport()).await.map_err(failed)?;
    // Dropping the poll group leaves it to the target.
    drop(target.poll_groups().join().map_err(failed)?);
    let mut sides = BTreeMap::new();
    for (side, device) in devices {
        let name = format!("nqn.2026-11.io.oriel:peer:{}", side.name());
        let nqn: Nqn = name.parse().map_err(failed)?;
        let subsystem = target
            .add_subsystem(&SubsystemSpec::new(nqn))
            .map_err(failed)?;
        let namespace = NamespaceOptions::default();
        subsystem
            .add_namespace(device, &namespace, |_, _| {})
            .map_err(failed)?;
        subsystem.allow_any_host(true).map_err(failed)?;
        subsystem
            .add_listener(Address::tcp(address))
            .await
            .map_err(failed)?;
        // It goes on until the target ends.
        drop(subsystem.start().await.map_err(failed)?);
        sides.insert(*side, Place { address, nqn: name });
    }
    Ok((target, sides))
}

/// A node on a drive of its own.
async fn node(subsystems: &Subsystems, has_ended: &AtomicBool) -> Result<(), TargetError> {
    let blocks = DRIVE_BYTES / u64::from(BLOCK);
    let made = create::malloc(subsystems, "Store", blocks, BLOCK);
    made.await.map_err(failed)?;
    let served = ours(subsystems, has_ended).await;
    delete(subsystems, &[(Kind::Malloc, "Store")]).await?;
    served
}

async fn ours(subsystems: &Subsystems, has_ended: &AtomicBool) -> Result<(), TargetError> {
    let drive = SpdkDrive::format("Store", &SIZES_OF_STORE)
        .await
        .map_err(failed)?;
    let index = index_in_memory(BLOBS_MAX).map_err(failed)?;
    let seats = vec![Seat::new(drive, index, "Store")];
    let format = NodeFormat {
        drive: SIZES_OF_STORE,
        ..NodeFormat::default()
    };
    format_node(&seats, STORE, &format).await.map_err(failed)?;
    // Windows are checked by those who read them.
    let realm = RealmOptions {
        verify: false,
        ..RealmOptions::new(REALM)
    };
    let clock = Clock::monotonic();
    let options = NodeOptions {
        drive: OpenOptions {
            store: Some(STORE),
            blobs_max: BLOBS_MAX,
            realms: vec![realm.clone()],
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
        realms: vec![Realm {
            name: "blobs".into(),
            options: realm,
            hosts: Hosts::Any,
        }],
        transports: vec![transport()],
        listeners: vec![Address::tcp(free_address()?)],
        connections_max: None,
        put_time: oriel_nvmf_target::limits::PUT_TIME,
    };
    let served = serve(subsystems, &store, &clock, &spec, has_ended).await;
    store.close();
    keeper.await;
    served
}

async fn serve(
    subsystems: &Subsystems,
    store: &NodeStore<SpdkDrive>,
    clock: &Clock,
    spec: &NodeSpec,
    has_ended: &AtomicBool,
) -> Result<(), TargetError> {
    let windows = fill(store).await?;
    let node = Node::start(subsystems, store, clock, spec)
        .await
        .map_err(failed)?;
    let address = spec.listeners[0].socket;
    let nqn = spec.nqn("blobs").map_err(failed)?.to_string();
    let served = Served {
        sides: [(Side::Oriel, Place { address, nqn })].into(),
        windows,
    };
    until_ended(&served, has_ended).await;
    node.stop().await.map_err(failed)
}

/// Blobs of each size; where they are.
async fn fill(store: &NodeStore<SpdkDrive>) -> Result<BTreeMap<u64, Vec<u64>>, TargetError> {
    let mut windows = BTreeMap::new();
    for bytes in SIZES {
        let content = vec![bytes.trailing_zeros() as u8; bytes as usize];
        let mut of_size = Vec::new();
        for number in 0..BYTES_OF_SIZE / bytes {
            let key = Key::new(key(bytes, number));
            store
                .put(REALM, key, KeyKind::Name, &content)
                .await
                .map_err(failed)?;
            let location = store.locate(REALM, &key).await.map_err(failed)?;
            of_size.extend(location.map(|location| location.position.0));
        }
        windows.insert(bytes, of_size);
    }
    Ok(windows)
}
