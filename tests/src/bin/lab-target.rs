//! An NVMe-oF target for the kernel's initiator: one subsystem with one namespace in memory, over
//! RDMA and TCP. Prints "ready", serves until SIGTERM, then ends in order.
//!
//! usage: lab-target NQN RDMA-ADDRESS TCP-ADDRESS   (addresses with port)
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oriel_spdk::Subsystems;
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::env::Pci;
use oriel_spdk::nvmf::{
    Address, NamespaceOptions, Nqn, RdmaOptions, SubsystemSpec, Target, TargetOptions, TcpOptions,
    TransportOptions,
};
use oriel_tests::ensure;
use oriel_tests::lab::{self, Failure, until};
use signal_hook::consts::SIGTERM;

const MEMORY_MIB: u32 = 512;
const BLOCKS: u64 = 8192;
const BLOCK_SIZE: u32 = 4096;
/// Longer than the test that runs this; a target that nobody ends is a failure.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    lab::main("lab-target", || {
        let [nqn, rdma, tcp] = &arguments[..] else {
            return Err("usage: lab-target NQN RDMA-ADDRESS TCP-ADDRESS".into());
        };
        let (nqn, rdma, tcp) = (nqn.parse()?, rdma.parse()?, tcp.parse()?);
        lab::with_spdk(MEMORY_MIB, Pci::None, async |sub| {
            serve(sub, nqn, rdma, tcp).await
        })
    })
}

async fn serve(
    sub: &Subsystems,
    nqn: Nqn,
    rdma: SocketAddr,
    tcp: SocketAddr,
) -> Result<(), Failure> {
    let terminate = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&terminate))?;

    create::malloc(sub, "Mem0", BLOCKS, BLOCK_SIZE).await?;
    let target = Target::new(sub, &TargetOptions::default())?;
    // One buffer of 128 KiB for each request, so that a transfer needs one only; soft-RoCE in an
    // emulated machine needs no more of anything.
    let rdma_options = TransportOptions {
        io_bytes_max: Some(128 << 10),
        io_unit_bytes: Some(128 << 10),
        in_capsule_bytes: Some(4096),
        shared_buffers: Some(256),
        queue_depth: Some(32),
        ..TransportOptions::rdma(RdmaOptions::default())
    };
    let tcp_options = TransportOptions {
        shared_buffers: Some(512),
        queue_depth: Some(32),
        ..TransportOptions::tcp(TcpOptions::default())
    };
    target.add_transport(&rdma_options).await?;
    target.add_transport(&tcp_options).await?;
    let group = target.poll_groups().join()?;
    let subsystem = target.add_subsystem(&SubsystemSpec {
        allow_any_host: true,
        ..SubsystemSpec::new(nqn)
    })?;
    subsystem.add_namespace("Mem0", &NamespaceOptions::default(), |_, _| {})?;
    subsystem.add_listener(Address::rdma(rdma)).await?;
    subsystem.add_listener(Address::tcp(tcp)).await?;
    let running = subsystem.start().await?;
    println!("ready");

    let asked = || terminate.load(Ordering::Relaxed);
    let waited = until("SIGTERM", LIMIT, asked).await;
    let stat = group.stat();
    println!(
        "served {} admin and {} I/O queues",
        stat.admin_queues_total, stat.io_queues_total
    );
    drop(running);
    target.shut_down().await?;
    ensure!(group.is_closed(), "the poll group outlived its target");
    drop(group);
    create::delete(sub, Kind::Malloc, "Mem0").await?;
    waited
}
