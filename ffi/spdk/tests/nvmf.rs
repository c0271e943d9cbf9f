//! The NVMe-oF target with a host in another process: SPDK's own initiator over TCP.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod nvmf_support;

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nvmf_support::host::{Host, pattern, range};
use nvmf_support::{free_address, nqn, socket, stopped, turn, with_rig};
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::bdev::{Access, BdevDesc, OpenError};
use oriel_spdk::nvmf::{NamespaceEvent, NamespaceOptions, Nsid};
use oriel_spdk::{DmaBuf, SPDK_RELEASE, isolate};

/// Polls everything for a while.
async fn wait(time: Duration) {
    let end = Instant::now() + time;
    std::future::poll_fn(|_| {
        if Instant::now() < end {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
}

#[test]
#[ignore = "the other process of these tests, which start it themselves"]
fn host_process() {
    nvmf_support::host::main();
}

#[test]
fn a_host_writes_reads_and_leaves() {
    let _turn = turn();
    isolate::run("a_host_writes_reads_and_leaves", || {
        with_rig(|rig| async move {
            rig.malloc("Mem0").await;
            let target = rig.target().await;
            let here = target.poll_groups().join().unwrap();
            let served = rig.serve_elsewhere(target.poll_groups());
            let (first, second) = (free_address(), free_address());
            let running = rig.open_subsystem(&target, "s", "Mem0", first).await;
            let paused = running.pause().await.unwrap();
            paused.add_listener(second).await.unwrap();
            let running = paused.resume().await.unwrap();
            assert_eq!(running.listeners(), [first, second]);

            let mut host = Host::start().await;
            let (name, me) = (nqn("s").to_string(), nqn("host").to_string());
            assert_eq!(host.attach(first, &name, &me).await, "ok");
            assert_eq!(host.ask("write 1 11").await, "ok");
            assert_eq!(host.ask("verify 1 11").await, "ok");
            assert_eq!(host.ask("verify 1 12").await, "failed: other data");
            assert_eq!(host.ask("detach").await, "ok");
            assert_eq!(host.attach(second, &name, &me).await, "ok");
            assert_eq!(host.ask("verify 1 11").await, "ok");
            assert_eq!(host.ask("detach").await, "ok");
            host.end().await;

            // What the host wrote is what the device holds.
            let desc = BdevDesc::open("Mem0", Access::ReadOnly, |_| {}).unwrap();
            let buf = DmaBuf::zeroed(pattern(11).len(), 4096).unwrap();
            let channel = desc.channel().unwrap();
            let (buf, result) = channel.read_at(buf, range()).await;
            result.unwrap();
            assert!(buf[..] == pattern(11)[..]);
            drop((channel, desc));

            // The queues were dealt out to both groups in turn: at least two admin queues and two for I/O.
            let stat = here.stat();
            let queues_here = stat.admin_queues_total + stat.io_queues_total;
            let queues_there = served.worker.load(Ordering::Relaxed);
            assert!(
                queues_here + queues_there >= 4,
                "{queues_here} {queues_there}"
            );
            assert!(
                queues_here.abs_diff(queues_there) <= 1,
                "{queues_here} {queues_there}"
            );
            target.shut_down().await.unwrap();
            assert!(here.is_closed());
            rig.env.join_all();
        });
    });
}
