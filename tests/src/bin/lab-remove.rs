//! Pulls an NVMe drive out while requests are in flight. They complete with errors, the device's
//! user is told, the process goes on with other devices, and the drive leaves nothing behind.
//!
//! usage: lab-remove DRIVE MONITOR COMMAND
//! COMMAND, written to the file MONITOR, makes the machine pull DRIVE.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::bdev::{
    Access, BdevDesc, BdevEvent, BlockRange, Channel, Complete, Io, IoError, OpenError,
};
use oriel_spdk::env::Pci;
use oriel_spdk::{DmaBuf, PciAddress, SPDK_RELEASE, Subsystems};
use oriel_tests::lab::{self, Failure, until};
use oriel_tests::{ensure, pattern};
use serde_json::json;

const MEMORY_MIB: u32 = 256;
const DEPTH: u64 = 32;
const REQUEST_BYTES: u64 = 16 << 10;
const LIMIT: Duration = Duration::from_secs(40);
/// Requests that have to complete well before the drive is pulled.
const WARM: u64 = 500;

/// What the requests of one drive have come to.
#[derive(Debug, Default)]
struct Load {
    in_flight: Cell<u64>,
    succeeded: Cell<u64>,
    failed: Cell<u64>,
    refused: Cell<u64>,
}

/// One request of the load: sent again at its completion until it fails.
struct Request {
    load: Rc<Load>,
    channel: Channel,
    next: u64,
    blocks: u64,
}

fn add_one(count: &Cell<u64>) {
    count.set(count.get() + 1);
}

fn send(mut io: Box<Io<Request>>) {
    let count = REQUEST_BYTES / u64::from(io.ctx.channel.block_size());
    let start = io.ctx.next % (io.ctx.blocks / count) * count;
    io.ctx.next += DEPTH;
    let load = Rc::clone(&io.ctx.load);
    let channel = io.ctx.channel.clone();
    let range = BlockRange::new(start, count);
    // Reads and writes alternate.
    let sent = if (io.ctx.next / DEPTH).is_multiple_of(2) {
        channel.read(io, range)
    } else {
        channel.write(io, range)
    };
    match sent {
        Ok(()) => add_one(&load.in_flight),
        Err(_) => add_one(&load.refused),
    }
}

impl Complete for Request {
    fn complete(io: Box<Io<Self>>, result: Result<(), IoError>) {
        let load = &io.ctx.load;
        load.in_flight.set(load.in_flight.get() - 1);
        match result {
            Ok(()) => {
                add_one(&load.succeeded);
                send(io);
            }
            Err(_) => add_one(&load.failed),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    lab::main("lab-remove", || {
        let [drive, monitor, command] = &arguments[..] else {
            return Err("usage: lab-remove DRIVE MONITOR COMMAND".into());
        };
        let drive = drive.parse()?;
        let pull = || std::fs::write(monitor, format!("{command}\n"));
        lab::with_spdk(MEMORY_MIB, Pci::All, async |sub| {
            remove_under_load(sub, drive, pull).await
        })
    })
}

async fn remove_under_load(
    sub: &Subsystems,
    drive: PciAddress,
    pull: impl FnOnce() -> std::io::Result<()>,
) -> Result<(), Failure> {
    create::nvme(sub, "Pulled", drive).await?;
    create::malloc(sub, "Other", 8192, 4096).await?;
    // Without this poller SPDK does not look for removed drives. It also attaches whatever drives
    // it finds, so those that are to have names of ours come before it.
    let hotplug = json!({ "enable": true, "period_us": 100_000 });
    sub.rpc().call("bdev_nvme_set_hotplug", hotplug).await?;

    let removed = Rc::new(Cell::new(0));
    let desc = BdevDesc::open("Pulledn1", Access::ReadWrite, {
        let removed = Rc::clone(&removed);
        move |event| {
            if event == BdevEvent::Removed {
                add_one(&removed);
            }
        }
    })?;
    let channel = desc.channel()?;
    let load = Rc::new(Load::default());
    for number in 0..DEPTH {
        let request = Request {
            load: Rc::clone(&load),
            channel: channel.clone(),
            next: number,
            blocks: desc.block_count(),
        };
        send(Io::new(
            DmaBuf::zeroed(REQUEST_BYTES as usize, 4096)?,
            request,
        ));
    }
    let warm = || load.succeeded.get() >= WARM || load.in_flight.get() < DEPTH;
    let warmed = until("the load's start", LIMIT, warm).await;
    println!("before: {load:?}");
    warmed?;
    ensure!(
        load.in_flight.get() == DEPTH,
        "the load does not hold its depth"
    );
    pull()?;
    let ended = || load.in_flight.get() == 0;
    let all_ended = until("the end of every request", LIMIT, ended).await;
    println!("ended: {load:?}");
    all_ended?;
    let ended = load.failed.get() + load.refused.get();
    ensure!(ended == DEPTH, "{ended} of {DEPTH} requests ended");
    ensure!(load.failed.get() > 0, "no request in flight failed");

    // Its user is told and lets go, and the drive leaves SPDK and then the machine.
    let let_go = async {
        until("the event of the removal", LIMIT, || removed.get() > 0).await?;
        drop((channel, desc));
        let gone = || !oriel_spdk::bdev::exists("Pulledn1");
        until("the block device's end", LIMIT, gone).await
    };
    let told = async {
        if SPDK_RELEASE == "20.07" {
            // This release forgets whom to tell about a drive that was attached by its address (its
            // connect path sets no remove callback), so the drive's user acts on the errors.
            create::delete(sub, Kind::Nvme, "Pulled").await?;
        }
        Ok(())
    };
    lab::both(let_go, told).await?;
    let entry = PathBuf::from(format!("/sys/bus/pci/devices/{drive}"));
    until("the drive's end", LIMIT, || !entry.exists()).await?;
    ensure!(
        removed.get() == 1,
        "the removal was told {} times",
        removed.get()
    );
    match BdevDesc::open("Pulledn1", Access::ReadOnly, |_| {}) {
        Err(OpenError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("the pulled drive can still be opened".into()),
    }

    still_works("Other").await?;
    create::delete(sub, Kind::Malloc, "Other").await?;
    Ok(())
}

/// Writes and reads back a little.
async fn still_works(name: &str) -> Result<(), Failure> {
    let desc = BdevDesc::open(name, Access::ReadWrite, |_| {})?;
    let channel = desc.channel()?;
    let bytes = 1 << 20;
    let range = BlockRange::new(0, bytes as u64 / u64::from(desc.block_size()));
    let mut buf = DmaBuf::zeroed(bytes, 4096)?;
    pattern::fill(&mut buf, 1, 0);
    let (mut buf, written) = channel.write_at(buf, range).await;
    written?;
    buf.fill(0);
    let (buf, read) = channel.read_at(buf, range).await;
    read?;
    Ok(pattern::check(&buf, 1, 0)?)
}
