//! The NVMe-oF target with a host in another process: SPDK's own initiator over TCP.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod nvmf_support;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use nvmf_support::host::{Host, pattern, range};
use nvmf_support::{free_address, nqn, small_tcp, stopped, turn, with_rig};
use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::bdev::{Access, BdevDesc, OpenError};
use oriel_spdk::nvmf::{
    Address, CreateSubsystemError, DhChap, HostError, ListenError, NamespaceError, NamespaceEvent,
    NamespaceOptions, Nsid, PollGroupError, RdmaOptions, RemoveNamespaceError, SubsystemSpec,
    Target, TargetOptions, TransportError, TransportKind, TransportOptions, UnlistenError,
};
use oriel_spdk::{DmaBuf, SPDK_RELEASE, isolate};

/// Polls everything for a while.
async fn wait(time: Duration) {
    let end = Instant::now() + time;
    std::future::poll_fn(|_| {
        if Instant::now() < end {
            nvmf_support::pending()
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Whether a host has answered already; the answer is gone, then.
fn has_answered(host: &Host) -> bool {
    host.answers.try_recv().is_ok()
}

/// Both futures, each polled at every turn.
async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut first, mut second) = (None, None);
    std::future::poll_fn(|cx| {
        if first.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            first = Some(value);
        }
        if second.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            second = Some(value);
        }
        match (first.take(), second.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            unfinished => {
                (first, second) = unfinished;
                Poll::Pending
            }
        }
    })
    .await
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

#[test]
fn a_target_ends_while_a_host_is_connected_and_leaves_nothing() {
    let _turn = turn();
    isolate::run(
        "a_target_ends_while_a_host_is_connected_and_leaves_nothing",
        || {
            with_rig(|rig| async move {
                rig.malloc("Mem0").await;
                // The same port and the same thread again: whatever stayed would be in the way.
                let address = free_address();
                for _ in 0..3 {
                    let target = rig.target().await;
                    let here = target.poll_groups().join().unwrap();
                    rig.serve_elsewhere(target.poll_groups());
                    let running = rig.open_subsystem(&target, "s", "Mem0", address).await;
                    let mut host = Host::start().await;
                    let name = nqn("s").to_string();
                    assert_eq!(
                        host.attach(address, &name, &nqn("h").to_string()).await,
                        "ok"
                    );
                    host.tell("hammer 1");
                    wait(Duration::from_millis(300)).await;
                    let groups = target.poll_groups();
                    target.shut_down().await.unwrap();
                    assert!(here.is_closed());
                    assert_eq!(groups.join().err(), Some(PollGroupError::Closed));
                    rig.env.join_all();
                    drop(running);
                    // The host noticed. Its reads fail now or wait for a connection that never comes.
                    drop(host);
                    TcpListener::bind(address.socket).expect("the port is free again");
                }
                create::delete(&rig.sub, Kind::Malloc, "Mem0")
                    .await
                    .unwrap();
            });
        },
    );
}

#[test]
fn a_paused_subsystem_holds_commands_back() {
    let _turn = turn();
    isolate::run("a_paused_subsystem_holds_commands_back", || {
        with_rig(|rig| async move {
            rig.malloc("Mem0").await;
            rig.malloc("Mem1").await;
            let target = rig.target().await;
            rig.serve_elsewhere(target.poll_groups());
            let address = free_address();
            let running = rig.open_subsystem(&target, "s", "Mem0", address).await;
            let mut host = Host::start().await;
            let name = nqn("s").to_string();
            assert_eq!(
                host.attach(address, &name, &nqn("h").to_string()).await,
                "ok"
            );
            assert_eq!(host.ask("write 1 5").await, "ok");

            let paused = running.pause().await.unwrap();
            host.tell("verify 1 5");
            wait(Duration::from_millis(500)).await;
            assert!(!has_answered(&host));
            let second = paused.add_namespace("Mem1", &NamespaceOptions::default(), |_, _| {});
            assert_eq!(second, Ok(Nsid::new(2).unwrap()));
            let running = paused.resume().await.unwrap();
            assert_eq!(host.answer().await, "ok");

            // Hosts find the second namespace, those that are connected and those that come later.
            assert_eq!(host.ask("see 2").await, "ok");
            assert_eq!(host.ask("detach").await, "ok");
            let stopped = running.stop().await.unwrap();
            let running = stopped.start().await.unwrap();
            assert_eq!(
                host.attach(address, &name, &nqn("h").to_string()).await,
                "ok"
            );
            assert_eq!(host.ask("write 2 6").await, "ok");
            assert_eq!(host.ask("verify 1 5").await, "ok");
            assert_eq!(host.ask("verify 2 6").await, "ok");

            // One of several namespaces goes, under a host that is connected.
            let second = Nsid::new(2).unwrap();
            let paused = running.pause().await.unwrap();
            if has("21.01") {
                let refused = paused.remove_namespace(second);
                assert_eq!(refused, Err(RemoveNamespaceError::NotHeld { nsid: second }));
            }
            let running = paused.resume().await.unwrap();
            let paused = running.pause_for(second).await.unwrap();
            host.tell("verify 2 6");
            wait(Duration::from_millis(200)).await;
            assert!(!has_answered(&host));
            paused.remove_namespace(second).unwrap();
            let running = paused.resume().await.unwrap();
            let gone = host.answer().await;
            assert!(gone.starts_with("failed: "), "{gone}");
            assert_eq!(host.ask("verify 1 5").await, "ok");
            // The initiator of v20.07 may not get to the end of detaching from a controller that has lost a namespace: its
            // process is killed, and the target copes with that.
            drop(host);
            running.stop().await.unwrap().destroy().await;
            for device in ["Mem0", "Mem1"] {
                create::delete(&rig.sub, Kind::Malloc, device)
                    .await
                    .unwrap();
            }
            target.shut_down().await.unwrap();
        });
    });
}

#[test]
fn a_device_that_goes_takes_its_namespace_with_it() {
    let _turn = turn();
    isolate::run("a_device_that_goes_takes_its_namespace_with_it", || {
        with_rig(|rig| async move {
            for device in ["Mem0", "Mem1", "Mem2", "Mem3"] {
                rig.malloc(device).await;
            }
            let target = rig.target().await;
            rig.serve_elsewhere(target.poll_groups());
            let address = free_address();
            let running = rig.open_subsystem(&target, "s", "Mem0", address).await;
            let paused = running.pause().await.unwrap();
            let events = Rc::new(RefCell::new(Vec::new()));
            for device in ["Mem1", "Mem2", "Mem3"] {
                let events = Rc::clone(&events);
                let note = move |nsid: Nsid, event| events.borrow_mut().push((nsid.get(), event));
                paused
                    .add_namespace(device, &NamespaceOptions::default(), note)
                    .unwrap();
            }
            let running = paused.resume().await.unwrap();
            let mut host = Host::start().await;
            let name = nqn("s").to_string();
            assert_eq!(
                host.attach(address, &name, &nqn("h").to_string()).await,
                "ok"
            );
            assert_eq!(host.ask("write 2 5").await, "ok");

            // Under a running subsystem with a host on it.
            create::delete(&rig.sub, Kind::Malloc, "Mem1")
                .await
                .unwrap();
            assert_eq!(*events.borrow(), [(2, NamespaceEvent::Removed)]);
            let gone = host.ask("verify 2 5").await;
            assert!(gone.starts_with("failed: "), "{gone}");
            assert_eq!(host.ask("write 1 6").await, "ok");
            assert_eq!(host.ask("verify 1 6").await, "ok");

            // Under a paused one: the poll groups let go of the device when it resumes.
            let paused = running.pause().await.unwrap();
            let resume = async {
                wait(Duration::from_millis(200)).await;
                assert_eq!(events.borrow()[1..], [(3, NamespaceEvent::Removed)]);
                paused.resume().await.unwrap()
            };
            let delete = create::delete(&rig.sub, Kind::Malloc, "Mem2");
            let (deleted, running) = both(delete, resume).await;
            deleted.unwrap();

            // The initiator of v20.07 does not always let go of a block device that lost its namespace:
            // this host's process is killed, and the next one is another.
            drop(host);

            // Under a stopped one: SPDK v20.07 alone would never let go of the device.
            let stopped = running.stop().await.unwrap();
            create::delete(&rig.sub, Kind::Malloc, "Mem3")
                .await
                .unwrap();
            assert_eq!(events.borrow()[2..], [(4, NamespaceEvent::Removed)]);
            assert_eq!(stopped.namespaces(), [(Nsid::FIRST, "Mem0".to_owned())]);

            // The subsystem is whole: it starts, serves and has room at the freed number.
            rig.malloc("Mem4").await;
            let second = stopped.add_namespace("Mem4", &NamespaceOptions::default(), |_, _| {});
            assert_eq!(second.unwrap().get(), 2);
            let _running = stopped.start().await.unwrap();
            let mut host = Host::start().await;
            assert_eq!(
                host.attach(address, &name, &nqn("h").to_string()).await,
                "ok"
            );
            assert_eq!(host.ask("verify 1 6").await, "ok");
            assert_eq!(host.ask("write 2 7").await, "ok");
            assert_eq!(host.ask("detach").await, "ok");
            host.end().await;
            target.shut_down().await.unwrap();
        });
    });
}

#[test]
fn wrong_addresses_are_refused_with_the_reason() {
    let _turn = turn();
    isolate::run("wrong_addresses_are_refused_with_the_reason", || {
        with_rig(|rig| async move {
            let target = rig.target().await;
            let _group = target.poll_groups().join().unwrap();
            assert_eq!(
                target.poll_groups().join().err(),
                Some(PollGroupError::AlreadyHere)
            );
            let subsystem = stopped(&target, "s");
            let local = |port| Address::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let taken = Address::tcp(holder.local_addr().unwrap());
            let error = subsystem.add_listener(taken).await.unwrap_err();
            assert!(
                matches!(error, ListenError::InUse { address } if address == taken),
                "{error}"
            );
            assert!(
                error.to_string().contains("is in use by another program"),
                "{error}"
            );
            let error = subsystem.add_listener(local(0)).await.unwrap_err();
            assert!(matches!(error, ListenError::NoPort { .. }), "{error}");
            let any = Address::tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 4420)));
            let error = subsystem.add_listener(any).await.unwrap_err();
            assert!(matches!(error, ListenError::Wildcard { .. }), "{error}");
            // TEST-NET-1: nobody's address.
            let foreign = Address::tcp(SocketAddr::from(([192, 0, 2, 1], 4420)));
            let error = subsystem.add_listener(foreign).await.unwrap_err();
            assert!(matches!(error, ListenError::NotLocal { .. }), "{error}");
            let rdma = Address::rdma(SocketAddr::from((Ipv4Addr::LOCALHOST, 4420)));
            let error = subsystem.add_listener(rdma).await.unwrap_err();
            assert!(matches!(error, ListenError::NoTransport { .. }), "{error}");

            let address = free_address();
            subsystem.add_listener(address).await.unwrap();
            let error = subsystem.add_listener(address).await.unwrap_err();
            assert!(matches!(error, ListenError::Already { .. }), "{error}");
            // Another subsystem may share it, and it stays until both have let go.
            let other = stopped(&target, "other");
            other.add_listener(address).await.unwrap();
            subsystem.remove_listener(address).await.unwrap();
            let error = subsystem.remove_listener(address).await.unwrap_err();
            assert_eq!(error, UnlistenError::NotListening { address });
            assert!(TcpListener::bind(address.socket).is_err());
            other.remove_listener(address).await.unwrap();
            TcpListener::bind(address.socket).expect("both have let go");
            target.shut_down().await.unwrap();
        });
    });
}

#[test]
fn wrong_subsystems_and_namespaces_are_refused_with_the_reason() {
    let _turn = turn();
    isolate::run(
        "wrong_subsystems_and_namespaces_are_refused_with_the_reason",
        || {
            with_rig(|rig| async move {
                rig.malloc("Mem0").await;
                rig.malloc("Mem1").await;
                let target = rig.target().await;
                let spec = SubsystemSpec {
                    namespaces_max: 1,
                    ..SubsystemSpec::new(nqn("s"))
                };
                let subsystem = target.add_subsystem(&spec).unwrap();
                let again = target.add_subsystem(&spec).err();
                assert_eq!(again, Some(CreateSubsystemError::Taken { nqn: nqn("s") }));
                let long = "x".repeat(21);
                let spec = SubsystemSpec {
                    serial: long.clone(),
                    ..SubsystemSpec::new(nqn("t"))
                };
                let error = target.add_subsystem(&spec).err();
                assert_eq!(
                    error,
                    Some(CreateSubsystemError::BadSerial { serial: long })
                );
                let spec = SubsystemSpec {
                    model: "Grün".into(),
                    ..SubsystemSpec::new(nqn("t"))
                };
                let error = target.add_subsystem(&spec).err();
                assert_eq!(
                    error,
                    Some(CreateSubsystemError::BadModel {
                        model: "Grün".into()
                    })
                );

                let plain = NamespaceOptions::default();
                let error = subsystem
                    .add_namespace("Mem9", &plain, |_, _| {})
                    .unwrap_err();
                let known = vec!["Mem0".to_owned(), "Mem1".to_owned()];
                let missing = OpenError::NotFound {
                    name: "Mem9".into(),
                    known,
                };
                assert_eq!(error, NamespaceError::Device(missing));
                let second = Nsid::new(2).unwrap();
                let beyond = NamespaceOptions {
                    nsid: Some(second),
                    ..plain.clone()
                };
                let error = subsystem
                    .add_namespace("Mem0", &beyond, |_, _| {})
                    .unwrap_err();
                assert_eq!(
                    error,
                    NamespaceError::BeyondMax {
                        nsid: second,
                        max: 1
                    }
                );
                let named = NamespaceOptions {
                    nguid: Some([7; 16]),
                    uuid: Some([9; 16]),
                    ..plain.clone()
                };
                subsystem.add_namespace("Mem0", &named, |_, _| {}).unwrap();
                let error = subsystem
                    .add_namespace("Mem1", &plain, |_, _| {})
                    .unwrap_err();
                assert_eq!(error, NamespaceError::Full { max: 1 });
                let other = stopped(&target, "other");
                let error = other.add_namespace("Mem0", &plain, |_, _| {}).unwrap_err();
                assert_eq!(
                    error,
                    NamespaceError::Device(OpenError::Claimed {
                        name: "Mem0".into()
                    })
                );
                let discovery = target.add_subsystem(&SubsystemSpec::discovery()).unwrap();
                let error = discovery
                    .add_namespace("Mem1", &plain, |_, _| {})
                    .unwrap_err();
                assert_eq!(error, NamespaceError::Discovery);
                subsystem.remove_namespace(Nsid::FIRST).unwrap();
                let error = subsystem.remove_namespace(Nsid::FIRST).unwrap_err();
                assert_eq!(error, RemoveNamespaceError::NotFound { nsid: Nsid::FIRST });
                other.add_namespace("Mem0", &plain, |_, _| {}).unwrap();

                let keys = DhChap {
                    host_key: "none".into(),
                    controller_key: None,
                };
                let error = other.add_host_with_keys(&nqn("h"), &keys).unwrap_err();
                if has("24.05") {
                    assert_eq!(error, HostError::NoKey { host: nqn("h") });
                } else {
                    assert_eq!(
                        error,
                        HostError::NoDhChap {
                            release: SPDK_RELEASE
                        }
                    );
                }
                target.shut_down().await.unwrap();
            });
        },
    );
}

/// Releases' names sort as they followed each other.
fn has(release: &str) -> bool {
    SPDK_RELEASE >= release
}

#[test]
fn transport_options_that_a_release_lacks_are_refused_by_name() {
    let _turn = turn();
    isolate::run(
        "transport_options_that_a_release_lacks_are_refused_by_name",
        || {
            with_rig(|rig| async move {
                let target = Target::new(&rig.sub, &TargetOptions::default()).unwrap();
                let zero_copy = TransportOptions {
                    zero_copy: Some(false),
                    ..small_tcp()
                };
                let lacks = |option: &str| {
                    Err(TransportError::Unsupported {
                        option: option.into(),
                        release: SPDK_RELEASE,
                    })
                };
                if has("22.01") {
                    target.add_transport(&zero_copy).await.unwrap();
                } else {
                    assert_eq!(target.add_transport(&zero_copy).await, lacks("zcopy"));
                    target.add_transport(&small_tcp()).await.unwrap();
                }
                assert_eq!(target.transports(), [TransportKind::Tcp]);
                let again = target.add_transport(&small_tcp()).await;
                assert_eq!(
                    again,
                    Err(TransportError::Already {
                        kind: TransportKind::Tcp
                    })
                );
                if !std::path::Path::new("/sys/class/infiniband").exists() {
                    let rdma = TransportOptions::rdma(RdmaOptions::default());
                    assert_eq!(
                        target.add_transport(&rdma).await,
                        Err(TransportError::NoRdmaDevice)
                    );
                }
                let twin = Target::new(&rig.sub, &TargetOptions::default()).err();
                assert!(
                    twin.unwrap()
                        .to_string()
                        .contains("is there another of that name")
                );
                target.shut_down().await.unwrap();
            });
        },
    );
}
