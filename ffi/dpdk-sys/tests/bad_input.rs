//! Wrong names, numbers and arguments: an error that says what to do, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error;

use oriel_dpdk_sys::{
    AttachError, Eal, EalError, EalOptions, FindError, MacAddr, PktPool, PoolError, PoolOptions,
    PortOptions, StartError, ring,
};
use support::{Processes, part};

/// A person gets one sentence that tells what to do.
fn advises(error: &dyn Error) {
    let text = error.to_string();
    assert!(
        text.contains(": ") && !text.contains('\n') && !text.ends_with('.'),
        "{text}"
    );
    println!("{text}");
}

#[test]
fn a_second_start_and_an_impossible_start_are_refused() {
    const TEST: &str = "a_second_start_and_an_impossible_start_are_refused";
    let Some(part) = part() else {
        let processes = Processes::new(TEST);
        for part in ["twice", "core", "nul"] {
            processes.run(part);
        }
        return;
    };
    let options = EalOptions::default();
    match part.as_str() {
        "twice" => {
            let eal = Eal::start(&options).unwrap();
            let error = Eal::start(&options).unwrap_err();
            assert!(matches!(error, EalError::AlreadyStarted));
            advises(&error);
            drop(eal);
            assert!(matches!(
                Eal::start(&options),
                Err(EalError::AlreadyStarted)
            ));
        }
        "core" => {
            let error = Eal::start(&EalOptions {
                cores: Some(vec![999]),
                ..options.clone()
            })
            .unwrap_err();
            assert!(matches!(error, EalError::Refused { .. }));
            advises(&error);
            assert!(matches!(
                Eal::start(&options),
                Err(EalError::AlreadyStarted)
            ));
        }
        _ => {
            // What never reached DPDK does not count as a start.
            let bad = EalOptions {
                extra: vec!["a\0b".into()],
                ..options.clone()
            };
            let error = Eal::start(&bad).unwrap_err();
            assert!(matches!(error, EalError::Argument(_)));
            advises(&error);
            Eal::start(&options).unwrap();
        }
    }
}

#[test]
fn wrong_devices_ports_pools_and_rings_are_refused() {
    if part().is_none() {
        return Processes::new("wrong_devices_ports_pools_and_rings_are_refused").run("one");
    }
    let eal = Eal::start(&EalOptions {
        memory_mib: 64,
        ..EalOptions::default()
    })
    .unwrap();

    for (name, arguments) in [
        ("net_nosuchdriver0", ""),
        ("net_memif0", "role=emperor"),
        ("", ""),
    ] {
        let error = eal.attach(name, arguments).unwrap_err();
        assert!(matches!(error, AttachError::Refused { .. }), "{error}");
        advises(&error);
        assert_eq!(eal.port_ids(), [], "{name} {arguments}");
    }
    let error = eal.attach("net_memif0\0", "").unwrap_err();
    assert!(matches!(error, AttachError::Argument(_)));
    advises(&error);

    let error = eal.port_by_name("net_memif0").unwrap_err();
    assert!(matches!(error, FindError::NoSuchName { .. }), "{error}");
    advises(&error);
    let error = eal.port_by_mac(MacAddr([2, 1, 2, 3, 4, 5])).unwrap_err();
    assert!(error.to_string().contains("02:01:02:03:04:05"), "{error}");
    advises(&error);

    let error = PktPool::new(
        &eal,
        "huge",
        &PoolOptions {
            buffers: 1 << 20,
            ..Default::default()
        },
    );
    let error = error.unwrap_err();
    assert!(matches!(error, PoolError::Refused { .. }));
    advises(&error);
    let long = PoolOptions {
        frame_bytes_max: u16::MAX,
        ..Default::default()
    };
    let error = PktPool::new(&eal, "long", &long).unwrap_err();
    assert!(matches!(error, PoolError::FrameTooLong { .. }));
    advises(&error);
    let few = PoolOptions {
        buffers: 255,
        cache: 0,
        ..Default::default()
    };
    let pool = PktPool::new(&eal, "p", &few).unwrap();
    let error = PktPool::new(&eal, "p", &few).unwrap_err();
    assert!(error.to_string().contains("exists"), "{error}");

    for slots in [0, 1, 3, 1000] {
        let error = ring::pair(&eal, "r", slots).unwrap_err();
        assert!(matches!(error, ring::RingError::Slots { .. }));
        advises(&error);
    }
    let error = ring::pair(&eal, &"r".repeat(40), 64).unwrap_err();
    assert!(matches!(error, ring::RingError::Refused { .. }));
    advises(&error);
    assert_eq!(eal.port_ids(), []);

    for (rx_queues, tx_queues) in [(0, 1), (1, 0), (2, 1), (1, 2)] {
        let (a, _b) = ring::pair(&eal, "r", 64).unwrap();
        let options = PortOptions {
            rx_queues,
            tx_queues,
            ..Default::default()
        };
        let error = a.start(&options, pool).unwrap_err();
        assert!(matches!(error, StartError::Queues { .. }), "{error}");
        advises(&error);
    }
    // A port that failed to start is gone, so its name is free again each time round.
    assert_eq!(eal.port_ids(), []);
    let (a, _b) = ring::pair(&eal, "r", 64).unwrap();
    let error = a
        .start(
            &PortOptions {
                mtu: Some(9000),
                ..Default::default()
            },
            pool,
        )
        .unwrap_err();
    assert!(matches!(error, StartError::Port(_)), "{error}");
    advises(&error);
    assert_eq!(pool.available(), pool.size());
}
