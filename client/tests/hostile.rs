//! A controller on a real socket that misbehaves: each time a typed error, and never a panic, a hang, or another's data.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod fake;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::server::{Answer, BLOCKS, Script, Server, identify_controller};
use fake::{Capsule, LAST, SUCCESS, data, ic_resp, r2t, response};
use oriel_client::memory::{Placement, Region};
use oriel_client::{
    CommandError, ConnectError, Controller, Digests, Memory, Namespace, Options, Reconnect,
    block_on, discover,
};

const NAME: &str = "nqn.2016-06.io.oriel:fake";

fn options(server: &Server) -> Options {
    Options {
        connect_timeout: Duration::from_secs(20),
        command_timeout: Duration::from_secs(60),
        reconnect: None,
        ..Options::new(server.address, NAME)
    }
}

fn connect(options: Options) -> Result<Controller, ConnectError> {
    Controller::connect(options).unwrap().wait()
}

fn failure(options: Options) -> ConnectError {
    connect(options)
        .err()
        .expect("this controller cannot be connected to")
}

fn namespace(options: Options) -> (Controller, Namespace) {
    let controller = connect(options).unwrap();
    let namespace = block_on(controller.namespace(1)).unwrap();
    (controller, namespace)
}

/// A script for commands of the I/O queue.
fn on_io(mut script: impl FnMut(&Capsule, Digests) -> Answer + Send + 'static) -> Script {
    Box::new(
        move |capsule, is_admin, digests| match is_admin || capsule.opcode() == 0x7f {
            true => Answer::Honest,
            false => script(capsule, digests),
        },
    )
}

#[test]
fn an_honest_one_is_used_and_shut_down() {
    let shut_down = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&shut_down);
    let server = Server::start(Box::new(move |capsule, _, _| {
        let is_set = capsule.opcode() == 0x7f && capsule.command[4] == 0;
        if is_set && capsule.command[49] >> 6 == 1 {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        Answer::Honest
    }));
    for digests in [Digests::NONE, Digests::BOTH] {
        let (controller, namespace) = namespace(Options {
            digests,
            queues: 3,
            ..options(&server)
        });
        assert_eq!(namespace.data().blocks, BLOCKS);
        let (data, result) = namespace.read(9, vec![0; 1 << 20]).wait();
        result.unwrap();
        assert!(data == vec![0x5a; 1 << 20]);
        controller.close();
    }
    // CC.SHN, once for each of the controllers.
    assert_eq!(shut_down.load(Ordering::SeqCst), 2);
    assert!(server.terms.lock().unwrap().is_empty());
}

#[test]
fn whoever_speaks_otherwise_is_not_listened_to() {
    for words in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\x16\x03\x01",
        b"\0",
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(words).unwrap();
            let mut rest = Vec::new();
            // Until the host is gone, which may have been at odds with what it got.
            let _ = stream.read_to_end(&mut rest);
        });
        let error = connect(Options::new(address, NAME)).err().unwrap();
        assert!(matches!(error, ConnectError::Connection { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("does not speak NVMe/TCP") && said.contains(NAME),
            "{said}"
        );
        peer.join().unwrap();
    }
}

/// At each step of the set-up: the end of the connection, silence, and a refusal.
#[test]
fn a_set_up_can_fail_at_each_step() {
    let steps = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&steps);
    let server = Server::start(Box::new(move |_, _, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Answer::Honest
    }));
    // Without the shutdown, which nobody notices.
    drop(connect(options(&server)).unwrap());
    drop(server);
    let steps = 8_u32.min(steps.load(Ordering::SeqCst));
    assert_eq!(steps, 8);
    for step in 0..steps {
        for how in 0..3 {
            let mut at = 0;
            let server = Server::start(Box::new(move |capsule, _, digests| {
                at += 1;
                match (at == step + 1, how) {
                    (false, _) => Answer::Honest,
                    (_, 0) => Answer::Close(Vec::new()),
                    (_, 1) => Answer::Bytes(Vec::new()),
                    _ => Answer::Bytes(response(capsule.cid(), 0x4006, 0, digests)),
                }
            }));
            let patience = if how == 1 {
                Duration::from_millis(150)
            } else {
                Duration::from_secs(20)
            };
            let error = failure(Options {
                connect_timeout: patience,
                ..options(&server)
            });
            let said = error.to_string();
            match (how, &error) {
                (0, ConnectError::Connection { .. }) => {}
                (1, ConnectError::TimedOut { .. }) => {}
                (2, ConnectError::Command { .. } | ConnectError::Refused { .. }) => {
                    assert!(said.contains("Internal Error"), "{said}");
                }
                _ => panic!("step {step}, way {how}: {said}"),
            }
            assert!(
                said.contains(NAME) && said.contains(&server.address.to_string()),
                "{said}"
            );
        }
    }
}

#[test]
fn controllers_that_are_not_fit_are_refused_with_the_reason() {
    let no_digests: fn(Digests, u8, u32) -> Vec<u8> =
        |_, cpda, max| ic_resp(Digests::NONE, cpda, max);
    let server = Server::start_with(no_digests, Box::new(|_, _, _| Answer::Honest));
    let error = failure(Options {
        digests: Digests::BOTH,
        ..options(&server)
    });
    assert!(matches!(error, ConnectError::NoDigests { .. }), "{error}");

    let script = |answer: fn(&Capsule) -> Option<Vec<u8>>| -> Script {
        Box::new(move |capsule, _, _| answer(capsule).map_or(Answer::Honest, Answer::Bytes))
    };
    let server = Server::start(script(|capsule| {
        let is_connect = capsule.opcode() == 0x7f && capsule.command[4] == 1;
        is_connect.then(|| response(capsule.cid(), 0, 1 | 1 << 17, Digests::NONE))
    }));
    let error = failure(options(&server));
    assert!(
        matches!(error, ConnectError::Authentication { .. }),
        "{error}"
    );

    let server = Server::start(script(|capsule| {
        let is_status =
            capsule.opcode() == 0x7f && capsule.command[4] == 4 && capsule.command[44] == 0x1c;
        is_status.then(|| response(capsule.cid(), 0, 2, Digests::NONE))
    }));
    let error = failure(options(&server));
    assert!(
        matches!(error, ConnectError::ControllerFailed { .. }),
        "{error}"
    );

    let server = Server::start(script(|capsule| {
        let is_identify = capsule.opcode() == 0x06;
        is_identify.then(|| {
            data(
                capsule.cid(),
                0,
                &[1; 100],
                LAST | SUCCESS,
                0,
                Digests::NONE,
            )
        })
    }));
    let error = failure(options(&server));
    assert!(
        matches!(
            error,
            ConnectError::Short {
                found: 100,
                expected: 4096,
                ..
            }
        ),
        "{error}"
    );

    // Connect Invalid Parameters, about the host's NQN in the data.
    let server = Server::start(script(|capsule| {
        let is_connect = capsule.opcode() == 0x7f && capsule.command[4] == 1;
        is_connect.then(|| response(capsule.cid(), 0x4182, 512 | 1 << 16, Digests::NONE))
    }));
    let said = failure(options(&server)).to_string();
    assert!(said.contains("because of the host's NQN"), "{said}");
}

/// What a broken controller does to one read is told to its caller, and the controller is told, too.
#[test]
fn a_broken_answer_ends_the_connection_with_the_reason() {
    type Broken = fn(u16) -> Vec<u8>;
    let ways: [(Broken, u16, &str); 6] = [
        (
            |cid| data(cid, 0, &[1; 8192], LAST, 0, Digests::NONE),
            4,
            "which has 4096",
        ),
        (
            |cid| data(cid, 4, &[1; 8], LAST, 0, Digests::NONE),
            4,
            "goes on at 0",
        ),
        (
            |cid| data(cid ^ 0x400, 0, &[1; 8], LAST, 0, Digests::NONE),
            1,
            "not under way",
        ),
        (
            |cid| r2t(cid, 0, 0, 4096, Digests::NONE),
            1,
            "goes the other way",
        ),
        (|_| vec![0xff; 64], 2, "type 0xff"),
        (
            |cid| {
                let mut bytes = data(cid, 0, &[1; 8], LAST, 0, Digests::NONE);
                bytes[6] = 0xff;
                bytes
            },
            1,
            "PLEN",
        ),
    ];
    for (make, fes, words) in ways {
        let server = Server::start(on_io(move |capsule, _| Answer::Bytes(make(capsule.cid()))));
        let (controller, namespace) = namespace(options(&server));
        let (memory, result) = namespace.read(0, vec![0x11; 4096]).wait();
        assert_eq!(memory.len(), 4096);
        let error = result.unwrap_err();
        assert!(
            matches!(error, CommandError::ConnectionLost { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(words), "{error}");
        let after = namespace.read(0, vec![0; 4096]).wait().1.unwrap_err();
        assert!(
            matches!(
                after,
                CommandError::GaveUp { .. } | CommandError::Closed { .. }
            ),
            "{after}"
        );
        controller.close();
        let terms = Arc::clone(&server.terms);
        drop(server);
        assert_eq!(*terms.lock().unwrap(), [fes], "{words}");
    }
}

#[test]
fn data_that_are_damaged_or_too_few_fail_their_command_alone() {
    let mut reads = 0;
    let server = Server::start(on_io(move |capsule, digests| {
        reads += 1;
        let cid = capsule.cid();
        match reads {
            1 => {
                let mut bytes = data(cid, 0, &[1; 4096], LAST | SUCCESS, 0, digests);
                bytes[99] ^= 8;
                Answer::Bytes(bytes)
            }
            2 => Answer::Bytes(data(cid, 0, &[1; 512], LAST | SUCCESS, 0, digests)),
            3 => Answer::Bytes(response(cid, 0, 0, digests)),
            4 => Answer::Bytes(response(cid, 0x287, 0, digests)),
            _ => Answer::Honest,
        }
    }));
    let (controller, namespace) = namespace(Options {
        digests: Digests::BOTH,
        ..options(&server)
    });
    let read = || namespace.read(0, vec![0; 4096]).wait().1;
    let damaged = read().unwrap_err();
    assert!(
        matches!(damaged, CommandError::DataDigest { .. }),
        "{damaged}"
    );
    for found in [512, 0] {
        let short = read().unwrap_err();
        let CommandError::Short {
            found: bytes,
            expected: 4096,
            ..
        } = short
        else {
            panic!("{short}")
        };
        assert_eq!(bytes, found);
    }
    let unwritten = read().unwrap_err().to_string();
    assert!(
        unwritten.contains("(2h/87h)") && unwritten.contains("locate the blob again"),
        "{unwritten}"
    );
    read().unwrap();
    controller.close();
    assert!(server.terms.lock().unwrap().is_empty());
}

#[test]
fn a_command_that_breaks_every_connection_does_so_only_so_often() {
    let reads = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&reads);
    let server = Server::start(on_io(move |capsule, _| match capsule.dword(10) {
        666 => {
            count.fetch_add(1, Ordering::SeqCst);
            Answer::Close(Vec::new())
        }
        _ => Answer::Honest,
    }));
    let reconnect = Reconnect {
        first: Duration::from_millis(1),
        most: Duration::from_millis(5),
        give_up_after: Duration::from_secs(60),
        resubmissions: 3,
    };
    let (controller, namespace) = namespace(Options {
        reconnect: Some(reconnect),
        ..options(&server)
    });
    let error = namespace.read(666, vec![0; 4096]).wait().1.unwrap_err();
    assert!(
        matches!(error, CommandError::ConnectionLost { .. }),
        "{error}"
    );
    assert_eq!(reads.load(Ordering::SeqCst), 4);
    let write = namespace.write(666, vec![0; 4096]).wait().1.unwrap_err();
    assert!(
        matches!(write, CommandError::ConnectionLost { .. }),
        "{write}"
    );
    assert_eq!(
        reads.load(Ordering::SeqCst),
        5,
        "a write is not sent again unless its caller says so"
    );
    namespace.read(1, vec![0; 4096]).wait().1.unwrap();
    controller.close();
}

#[test]
fn a_command_that_is_never_answered_does_not_wait_for_ever() {
    let server = Server::start(on_io(|capsule, _| match capsule.dword(10) {
        7 => Answer::Bytes(Vec::new()),
        _ => Answer::Honest,
    }));
    let (controller, namespace) = namespace(Options {
        command_timeout: Duration::from_secs(3),
        reconnect: Some(Reconnect {
            first: Duration::from_millis(1),
            ..Reconnect::default()
        }),
        ..options(&server)
    });
    let stuck = namespace.read(7, vec![0; 4096]);
    namespace.read(8, vec![0; 4096]).wait().1.unwrap();
    let error = stuck.wait().1.unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    namespace.read(8, vec![0; 4096]).wait().1.unwrap();
    controller.close();
}

#[test]
fn a_keep_alive_that_fails_ends_the_association() {
    let mut is_set_up = false;
    let server = Server::start(Box::new(move |capsule, is_admin, digests| {
        is_set_up |= is_admin && capsule.opcode() == 0x06 && capsule.dword(10) == 0;
        match is_set_up && is_admin && capsule.opcode() == 0x18 {
            true => Answer::Bytes(response(capsule.cid(), 0x6, 0, digests)),
            false => Answer::Honest,
        }
    }));
    let options = Options {
        keep_alive: Some(Duration::from_secs(2)),
        ..options(&server)
    };
    let (controller, namespace) = namespace(options);
    let error = loop {
        if let Err(error) = namespace.read(0, vec![0; 4096]).wait().1 {
            break error;
        }
    };
    assert!(
        matches!(
            error,
            CommandError::GaveUp { .. }
                | CommandError::Closed { .. }
                | CommandError::ConnectionLost { .. }
        ),
        "{error}"
    );
    controller.close();
}

#[test]
fn requests_are_taken_only_as_many_as_agreed() {
    let server = Server::start(on_io(|_, _| Answer::Bytes(Vec::new())));
    let (controller, namespace) = namespace(Options {
        requests_max: 3,
        command_timeout: Duration::from_secs(3),
        ..options(&server)
    });
    let waiting: Vec<_> = (0..3).map(|_| namespace.read(0, vec![0; 4096])).collect();
    let (memory, full) = namespace.read(0, vec![7; 4096]).wait();
    assert!(
        matches!(full, Err(CommandError::Full { max: 3, .. })),
        "{full:?}"
    );
    assert_eq!(memory, [7; 4096]);
    for read in waiting {
        read.wait().1.unwrap_err();
    }
    controller.close();
}

#[test]
fn another_controller_in_the_place_of_the_first_is_noticed() {
    let connects = Arc::new(AtomicU32::new(0));
    let server = Server::start(Box::new(move |capsule, is_admin, digests| {
        match (capsule.opcode(), is_admin) {
            (0x06, true) if capsule.dword(10) == 1 => {
                let mut bytes = identify_controller();
                bytes[4] = b'A' + connects.fetch_add(1, Ordering::SeqCst) as u8;
                Answer::Bytes(data(capsule.cid(), 0, &bytes, LAST | SUCCESS, 0, digests))
            }
            (0x02, false) => Answer::Close(Vec::new()),
            _ => Answer::Honest,
        }
    }));
    let reconnect = Reconnect {
        first: Duration::from_millis(1),
        give_up_after: Duration::from_secs(2),
        ..Reconnect::default()
    };
    let (controller, namespace) = namespace(Options {
        reconnect: Some(reconnect),
        ..options(&server)
    });
    let error = namespace.read(0, vec![0; 4096]).wait().1.unwrap_err();
    assert!(matches!(error, CommandError::GaveUp { .. }), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("is another controller than before") && said.contains("'AAKE'"),
        "{said}"
    );
    controller.close();
}

#[test]
fn a_discovery_log_that_never_ends_is_not_read() {
    let log = |entries: u64, generation: Arc<Mutex<u64>>| -> Script {
        Box::new(move |capsule, is_admin, digests| {
            if !is_admin || capsule.opcode() != 2 {
                return Answer::Honest;
            }
            let mut bytes = vec![0; capsule.sgl().0 as usize];
            let mut generation = generation.lock().unwrap();
            *generation += 1;
            bytes[..8].copy_from_slice(&generation.to_le_bytes());
            bytes[8..16].copy_from_slice(&entries.to_le_bytes());
            Answer::Bytes(data(capsule.cid(), 0, &bytes, LAST | SUCCESS, 0, digests))
        })
    };
    for entries in [u64::MAX, 4097, 2] {
        let server = Server::start(log(entries, Arc::default()));
        let error = discover(&options(&server)).unwrap_err();
        assert!(
            matches!(error, ConnectError::DiscoveryLog { .. }),
            "{error}"
        );
    }
}

/// Memory of a device that the CPU cannot reach.
struct Far;

impl Memory for Far {
    fn region(&self) -> Region {
        Region {
            address: 0x1000,
            bytes: 4096,
            placement: Placement::Device(3),
            registration: None,
        }
    }

    fn host(&self) -> Option<&[u8]> {
        None
    }

    fn host_mut(&mut self) -> Option<&mut [u8]> {
        None
    }
}

#[test]
fn memory_that_tcp_cannot_use_comes_back() {
    let server = Server::start(Box::new(|_, _, _| Answer::Honest));
    let (controller, namespace) = namespace(options(&server));
    let (Far, result) = namespace.read(0, Far).wait();
    let placement = Placement::Device(3);
    assert!(
        matches!(result, Err(CommandError::NotHostMemory { placement: found }) if found == placement)
    );
    controller.close();
}

/// Futures may be polled by whoever likes to, and dropped.
#[test]
fn a_connection_that_nobody_waits_for_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = Controller::connect(Options::new(address, NAME)).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    drop(connecting);
    let mut all = Vec::new();
    // Ends when the host does: long before its five seconds, and after its ICReq at most.
    stream.read_to_end(&mut all).unwrap();
    assert!(all.is_empty() || all.len() == 128, "{}", all.len());
}
