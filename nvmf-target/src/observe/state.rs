//! How a node is, as JSON.

use std::sync::Arc;

use oriel_engine::store::{BLOCK_BYTES, DriveLabel, DriveStat, Loss};
use serde::Serialize;

use super::look::{Identity, Look};

#[derive(Serialize)]
struct State<'a> {
    node: &'a str,
    store: String,
    version: &'static str,
    spdk: &'static str,
    uptime_seconds: u64,
    realms: Vec<RealmState<'a>>,
    drives: Vec<DriveState<'a>>,
    /// Drives that have left the store since the start, and whose devices can be taken out.
    given_back: Vec<String>,
    connections: Connections,
    reloads: Reloads,
}

#[derive(Serialize)]
struct RealmState<'a> {
    name: &'a str,
    id: u16,
    blobs: u64,
    used_bytes: u64,
    /// Of all drives together; `null` where there is none.
    quota_bytes: Option<u64>,
}

#[derive(Serialize)]
struct DriveState<'a> {
    name: &'a str,
    number: Option<u16>,
    state: &'static str,
    /// Why it is lost, if it is.
    loss: Option<String>,
    blobs: u64,
    capacity_bytes: u64,
    /// Of slabs, with what was deleted and has not come back yet.
    used_bytes: u64,
    live_bytes: u64,
    quarantined_blobs: u64,
}

/// Queues of hosts.
#[derive(Serialize)]
struct Connections {
    admin_queues_total: u64,
    io_queues_total: u64,
    /// Queues of both kinds, now.
    open: u32,
    /// The most of them; `null` where there is no limit.
    max: Option<u32>,
    refused_total: u64,
    /// `null` where SPDK does not say.
    admin_queues: Option<u64>,
    io_queues: Option<u64>,
}

/// Of the configuration.
#[derive(Serialize)]
struct Reloads {
    done_total: u64,
    refused_total: u64,
    last: Option<LastReload>,
}

#[derive(Serialize)]
struct LastReload {
    unix_seconds: u64,
    result: &'static str,
    message: String,
}

fn reloads(identity: &Identity) -> Reloads {
    let all = identity.record.all();
    Reloads {
        done_total: all.done,
        refused_total: all.refused,
        last: all.last.map(|last| LastReload {
            unix_seconds: last.unix_seconds(),
            result: match last.is_done {
                true => "done",
                false => "refused",
            },
            message: last.said,
        }),
    }
}

const fn bytes(blocks: u64) -> u64 {
    blocks * BLOCK_BYTES as u64
}

fn state_of(drive: &DriveStat) -> &'static str {
    match drive {
        DriveStat { loss: Some(_), .. } => "lost",
        DriveStat {
            is_draining: true, ..
        } => "draining",
        DriveStat {
            is_filling: true, ..
        } => "filling",
        _ => "serving",
    }
}

pub(super) fn text(identity: &Identity, look: &Arc<Look>) -> (&'static str, Option<String>) {
    let counted = look.metrics.realms();
    let served = identity.record.realms();
    let realms = served.iter().map(|realm| {
        let id = realm.options.id;
        let of = counted.iter().find(|of| of.id == Some(id));
        RealmState {
            name: &realm.name,
            id: id.0,
            blobs: of.map_or(0, |of| of.blobs),
            used_bytes: of.map_or(0, |of| bytes(of.used_blocks)),
            quota_bytes: realm.options.quota_blocks.map(bytes),
        }
    });
    let log_of = |label: &DriveLabel| {
        let mut drives = look.metrics.drives.iter();
        let drive = drives.find(|drive| drive.drive == *label);
        drive.and_then(|drive| drive.log.as_ref())
    };
    let drives = look.stat.drives.iter().map(|drive| {
        let log = log_of(&drive.drive);
        DriveState {
            name: &drive.drive.name,
            number: drive.drive.number.map(|number| number.0),
            state: state_of(drive),
            loss: drive.loss.as_ref().map(Loss::to_string),
            blobs: drive.log.blobs,
            capacity_bytes: bytes(drive.capacity_blocks),
            used_bytes: log.map_or(0, |log| bytes(drive.log.slabs * log.slab_blocks)),
            live_bytes: bytes(drive.log.live_blocks),
            quarantined_blobs: log.map_or(0, |log| log.quarantined_blobs),
        }
    });
    let queues = || look.queues.iter().map(|(_, stat)| stat);
    let state = State {
        node: &identity.node,
        store: identity.store.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        spdk: oriel_spdk::SPDK_RELEASE,
        uptime_seconds: identity.up_for().as_secs(),
        realms: realms.collect(),
        drives: drives.collect(),
        given_back: identity.record.given_back(),
        connections: Connections {
            admin_queues_total: queues().map(|stat| stat.admin_queues_total).sum(),
            io_queues_total: queues().map(|stat| stat.io_queues_total).sum(),
            open: look.connections.open(),
            max: look.connections.most(),
            refused_total: look.connections.refused(),
            admin_queues: queues().map(|stat| stat.admin_queues).sum(),
            io_queues: queues().map(|stat| stat.io_queues).sum(),
        },
        reloads: reloads(identity),
    };
    let text = serde_json::to_string_pretty(&state).ok();
    ("application/json", text.map(|text| text + "\n"))
}
