//! The initiator and SPDK's NVMe/TCP target.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod support;

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use oriel_client::blob::{BlobError, Blobs};
use oriel_client::nvme::Status;
use oriel_client::nvme::discovery::Transport;
use oriel_client::{
    Again, CommandError, ConnectError, Controller, Digests, Namespace, Options, Poller, Reconnect,
    Turn, block_on, discover,
};
use oriel_protocol::{Arguments, Key, Length};
use oriel_spdk::SPDK_RELEASE;
use support::{BLOCKS, HOST, SMALL_BLOCKS, SUBSYSTEM, Setup, TargetProcess, free_address, turn};

const ALL_DIGESTS: [Digests; 4] = [
    Digests::NONE,
    Digests {
        header: true,
        data: false,
    },
    Digests {
        header: false,
        data: true,
    },
    Digests::BOTH,
];

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = bytes.div_ceil(8);
    let mut all: Vec<u8> = (0..words).flat_map(|_| step().to_le_bytes()).collect();
    all.truncate(bytes);
    all
}

fn connect(options: Options) -> Controller {
    Controller::connect(options).unwrap().wait().unwrap()
}

fn namespace(controller: &Controller, nsid: u32) -> Namespace {
    block_on(controller.namespace(nsid)).unwrap()
}

fn status_of(error: &CommandError) -> Status {
    match error {
        CommandError::Status { status, .. } => *status,
        other => panic!("no status: {other}"),
    }
}

#[test]
#[ignore = "the other process of these tests, which start it themselves"]
fn target_process() {
    support::target_main();
}

#[test]
fn a_controller_says_what_it_is_and_has() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let controller = connect(target.options(Digests::NONE));
    let data = controller.data();
    assert_eq!(data.subsystem, SUBSYSTEM);
    assert!(data.model.starts_with("Oriel"), "{data:?}");
    assert_eq!(data.transfer_bytes_max, Some(131_072));
    assert_eq!(data.in_capsule_bytes, 4096);
    assert_eq!(controller.queues(), 1);
    assert_eq!(block_on(controller.namespaces()).unwrap(), [1, 2]);
    let first = namespace(&controller, 1);
    assert_eq!(
        (first.data().blocks, first.data().block_bytes),
        (BLOCKS, 4096)
    );
    let second = namespace(&controller, 2);
    assert_eq!(
        (second.data().blocks, second.data().block_bytes),
        (SMALL_BLOCKS, 512)
    );
    let third = block_on(controller.namespace(3)).err().unwrap().to_string();
    assert!(third.contains(SUBSYSTEM), "{third}");
    controller.close();
    target.end();
}

/// Sizes from one small block to many times the largest transfer, at every kind of digest.
#[test]
fn what_is_written_is_read_and_compared() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    for digests in ALL_DIGESTS {
        let controller = connect(target.options(digests));
        for nsid in [2, 1] {
            let namespace = namespace(&controller, nsid);
            let block = namespace.data().block_bytes as usize;
            let sizes = [
                block,
                2 * block,
                4096,
                8192,
                61_440,
                131_072,
                135_168,
                1 << 20,
                3 << 20,
            ];
            for (seed, size) in (1_u64..).zip(sizes) {
                let size = size.max(block);
                let at = seed * 3;
                let (written, result) = namespace.write(at, pattern(seed, size)).wait();
                result.unwrap();
                let (read, result) = namespace.read(at, vec![0xee; size]).wait();
                result.unwrap();
                assert!(read == written, "{digests:?} {nsid} {size}");
                let (mut other, result) = namespace.compare(at, written).wait();
                result.unwrap();
                let last = other.len() - 1;
                other[last] ^= 1;
                let error = namespace.compare(at, other).wait().1.unwrap_err();
                let (status, said) = (status_of(&error), error.to_string());
                assert!(said.starts_with("Compare failed on"), "{said}");
                // v20.07's malloc device calls a difference an internal error.
                match (status.kind, status.code) {
                    (2, 0x85) => assert!(said.contains("hold other data"), "{said}"),
                    (0, 6) => assert!(SPDK_RELEASE < "21.01", "{said}"),
                    _ => panic!("{said}"),
                }
            }
            namespace.flush().wait().1.unwrap();
        }
        controller.close();
    }
    target.end();
}

/// Without data in capsules every write is asked for, and a small piece at a time.
#[test]
fn writes_go_by_r2t_where_capsules_take_none() {
    let _turn = turn();
    // The least that SPDK takes: Connect has to fit.
    let setup = Setup {
        in_capsule_bytes: 1024,
        ..Setup::default()
    };
    let target = TargetProcess::start(setup);
    for digests in [Digests::NONE, Digests::BOTH] {
        let controller = connect(Options {
            r2ts: 1,
            ..target.options(digests)
        });
        assert!(controller.data().in_capsule_bytes < 4096);
        let namespace = namespace(&controller, 1);
        for size in [4096, 131_072, 1 << 20] {
            let (written, result) = namespace.write(9, pattern(size as u64, size)).wait();
            result.unwrap();
            let (read, result) = namespace.read(9, vec![0; size]).wait();
            result.unwrap();
            assert!(read == written, "{digests:?} {size}");
        }
        controller.close();
    }
    target.end();
}

/// From one to more requests at a time than there are slots, on one queue and on several.
#[test]
fn many_requests_at_a_time_end_with_their_own_data() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    for (queues, digests) in [(1, Digests::NONE), (4, Digests::BOTH)] {
        let controller = connect(Options {
            queues,
            ..target.options(digests)
        });
        assert_eq!(controller.queues(), usize::from(queues));
        let namespace = namespace(&controller, 1);
        for depth in [1, 2, 7, 32, 128, 600] {
            let writes: Vec<_> = (0..depth)
                .map(|at| namespace.write(at, pattern(at + depth, 4096)))
                .collect();
            for write in writes {
                write.wait().1.unwrap();
            }
            let reads: Vec<_> = (0..depth)
                .map(|at| namespace.read(at, vec![0; 4096]))
                .collect();
            for (at, read) in (0..depth).zip(reads) {
                let (data, result) = read.wait();
                result.unwrap();
                assert!(data == pattern(at + depth, 4096), "{depth} {at}");
            }
        }
        controller.close();
    }
    target.end();
}

#[test]
fn several_threads_share_a_controller() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let controller = connect(Options {
        queues: 2,
        ..target.options(Digests::NONE)
    });
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let namespace = namespace(&controller, 1);
            scope.spawn(move || {
                for round in 0..50 {
                    let at = thread * 512 + round;
                    let data = pattern(thread << 32 | round, 16384);
                    let (data, result) = namespace.write(at, data).wait();
                    result.unwrap();
                    let (read, result) = namespace.read(at, vec![0; 16384]).wait();
                    result.unwrap();
                    assert!(read == data, "{thread} {round}");
                }
            });
        }
    });
    controller.close();
    target.end();
}

#[test]
fn a_discovery_service_tells_what_there_is() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    for digests in [Digests::NONE, Digests::BOTH] {
        let entries = discover(&target.options(digests)).unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry.subsystem == SUBSYSTEM)
            .unwrap();
        assert_eq!(entry.transport, Transport::Tcp);
        assert_eq!(entry.address, target.address.ip().to_string());
        assert_eq!(entry.service, target.address.port().to_string());
        assert!(!entry.is_discovery);
    }
    target.end();
}

#[test]
fn strangers_and_wrong_names_are_refused_with_what_to_do() {
    let _turn = turn();
    let target = TargetProcess::start(Setup {
        any_host: false,
        ..Setup::default()
    });
    let stranger = Options {
        host: "nqn.2016-06.io.oriel:stranger".into(),
        ..target.options(Digests::NONE)
    };
    let refused = Controller::connect(stranger).unwrap().wait().err().unwrap();
    let said = refused.to_string();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{said}");
    assert!(
        said.contains("oriel:stranger") && said.contains("that the subsystem allows"),
        "{said}"
    );
    assert!(said.contains(&target.address.to_string()), "{said}");

    let wrong = Options {
        subsystem: "nqn.2016-06.io.oriel:other".into(),
        ..target.options(Digests::NONE)
    };
    let refused = Controller::connect(wrong)
        .unwrap()
        .wait()
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains("because of the subsystem's NQN"),
        "{refused}"
    );

    let friend = connect(target.options(Digests::NONE));
    assert_eq!(friend.peer().address, target.address);
    friend.close();
    target.end();

    let nobody = Options::new(free_address(), SUBSYSTEM);
    let refused = Controller::connect(nobody).unwrap().wait().err().unwrap();
    assert!(
        matches!(refused, ConnectError::Unreachable { .. }),
        "{refused}"
    );
    let unnamed = Options {
        host: "me".into(),
        ..Options::new(free_address(), SUBSYSTEM)
    };
    let refused = Controller::connect(unnamed).err().unwrap();
    assert!(matches!(refused, ConnectError::BadName { .. }), "{refused}");
}

#[test]
fn what_a_namespace_cannot_do_is_said_in_words() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let controller = connect(target.options(Digests::NONE));
    let namespace = namespace(&controller, 1);
    let (memory, result) = namespace.read(0, vec![7; 100]).wait();
    assert!(matches!(
        result,
        Err(CommandError::NotWholeBlocks {
            bytes: 100,
            block_bytes: 4096
        })
    ));
    assert_eq!(memory, [7; 100]);
    let behind = namespace.read(BLOCKS, vec![0; 4096]).wait().1;
    assert!(
        matches!(behind, Err(CommandError::OutOfRange { .. })),
        "{behind:?}"
    );
    let behind = namespace.read(u64::MAX, vec![0; 8192]).wait().1;
    assert!(
        matches!(behind, Err(CommandError::OutOfRange { .. })),
        "{behind:?}"
    );

    // No Oriel node: every command of the blob protocol is refused, and the connection stays.
    let key = Key::new([9; 32]);
    let commands = [
        (oriel_protocol::Command::Locate { key }, 64),
        (oriel_protocol::Command::Delete { key }, 0),
        (oriel_protocol::Command::Probe { keys: 2 }, 64),
        (
            oriel_protocol::Command::Reserve {
                length: Length::new(9).unwrap(),
                part: None,
            },
            32,
        ),
        (oriel_protocol::Command::Begin { key }, 32),
        (oriel_protocol::Command::Commit { records: 1 }, 64),
        (oriel_protocol::Command::Put, 8192),
        (oriel_protocol::Command::Map { offset: 0 }, 4096),
        (oriel_protocol::Command::Stat, 128),
    ];
    for (command, bytes) in commands {
        let (memory, result) = namespace.vendor(&command, vec![3; bytes]).wait();
        assert_eq!(memory.len(), bytes);
        let error = result.unwrap_err();
        let (status, said) = (status_of(&error), error.to_string());
        assert!(said.starts_with(command.opcode().word()), "{said}");
        assert!(said.contains(SUBSYSTEM), "{said}");
        // v20.07's malloc device calls a command that it does not know an internal error.
        match (status.kind, status.code) {
            (0, 1) => assert!(said.contains("want an Oriel node"), "{said}"),
            (0, 6) => assert!(SPDK_RELEASE < "21.01", "{said}"),
            _ => panic!("{said}"),
        }
    }
    let unknown = namespace.passthrough(0xc1, &Arguments::default(), vec![0; 512], Again::Never);
    assert!(!status_of(&unknown.wait().1.unwrap_err()).is_success());
    let both = namespace.passthrough(0xc3, &Arguments::default(), vec![0; 512], Again::Never);
    assert!(matches!(
        both.wait().1,
        Err(CommandError::BothWays { opcode: 0xc3 })
    ));
    let long = namespace
        .vendor(&oriel_protocol::Command::Put, vec![0; 131_076])
        .wait()
        .1;
    assert!(
        matches!(long, Err(CommandError::TooLong { max: 131_072, .. })),
        "{long:?}"
    );

    // A future of the blob client goes to any thread.
    let opening = Blobs::open(namespace.clone());
    let opened = std::thread::spawn(move || block_on(opening))
        .join()
        .unwrap();
    let error = opened.err().expect("no Oriel node");
    assert!(matches!(error, BlobError::Transport(_)), "{error}");
    assert!(error.to_string().starts_with("STAT failed on"), "{error}");

    namespace.read(0, vec![0; 4096]).wait().1.unwrap();
    controller.close();
    let closed = namespace.read(0, vec![0; 4096]).wait().1;
    assert!(
        matches!(closed, Err(CommandError::Closed { .. })),
        "{closed:?}"
    );
    target.end();
}

#[test]
fn a_target_that_is_killed_and_comes_back_is_found_again() {
    let _turn = turn();
    let mut target = TargetProcess::start(Setup::default());
    let options = Options {
        queues: 2,
        reconnect: Some(Reconnect {
            first: Duration::from_millis(20),
            most: Duration::from_millis(200),
            give_up_after: Duration::from_secs(120),
            resubmissions: 10,
        }),
        ..target.options(Digests::BOTH)
    };
    let controller = connect(options);
    let namespace = namespace(&controller, 1).writing(Again::Harmless);
    for round in 0..2 {
        // Requests under way when the target dies, and some that come while it is gone.
        let reads: Vec<_> = (0..200)
            .map(|_| namespace.read(0, vec![0; 131_072]))
            .collect();
        target = target.kill_and_start_again();
        let (data, result) = namespace.write(5, pattern(round, 1 << 20)).wait();
        result.unwrap();
        let (read, result) = namespace.read(5, vec![0; 1 << 20]).wait();
        result.unwrap();
        assert!(read == data, "{round}");
        for read in reads {
            read.wait().1.unwrap();
        }
    }
    controller.close();
    target.end();
}

/// All on one thread, which does something else while it waits, and finds the target again when it was killed.
#[test]
fn a_controller_without_a_thread_goes_on_as_it_is_polled() {
    let _turn = turn();
    let mut target = TargetProcess::start(Setup::default());
    let (connecting, mut poller) = Controller::connect_polled(Options {
        reconnect: Some(Reconnect::default()),
        ..target.options(Digests::NONE)
    })
    .unwrap();
    let controller = polled(&mut poller, connecting).unwrap();
    // Threads of other tests end sooner or later.
    let until = Instant::now() + Duration::from_secs(60);
    while has_thread("oriel-client") {
        assert!(Instant::now() < until, "whoever polls does the I/O");
    }
    let namespace = polled(&mut poller, controller.namespace(1)).unwrap();
    for round in 0..2 {
        let reads: Vec<_> = (0..100).map(|_| namespace.read(0, vec![0; 4096])).collect();
        let (data, result) = polled(&mut poller, namespace.write(5, pattern(round, 1 << 20)));
        result.unwrap();
        if round == 1 {
            target = target.kill_and_start_again();
            polled(&mut poller, namespace.write(5, data.clone())).1.ok();
            // The drive was in memory.
            polled(&mut poller, namespace.write(5, data.clone()))
                .1
                .unwrap();
        }
        let (read, result) = polled(&mut poller, namespace.read(5, vec![0; 1 << 20]));
        result.unwrap();
        assert!(read == data, "{round}");
        for read in reads {
            polled(&mut poller, read).1.unwrap();
        }
    }
    // One that nobody polls any more fails what is under way.
    let pending = namespace.read(0, vec![0; 4096]);
    drop(poller);
    let error = pending.wait().1.unwrap_err();
    assert!(matches!(error, CommandError::Closed { .. }), "{error}");
    target.end();
}

fn has_thread(name: &str) -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    names.flatten().any(|found| found.trim() == name)
}

fn polled<F: Future>(poller: &mut Poller, future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        match poller.poll() {
            Turn::Busy => {}
            Turn::Idle => poller.park(Duration::from_millis(20)),
            Turn::Over => panic!("the controller was not closed"),
        }
    }
}

#[test]
fn a_write_that_may_have_been_done_is_not_sent_again() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let controller = connect(target.options(Digests::NONE));
    let namespace = namespace(&controller, 1);
    // A target that stands still has taken the commands, as far as anybody can tell.
    target.stop();
    let write = namespace.write(0, pattern(1, 4096));
    let read = namespace.read(0, vec![0; 4096]);
    std::thread::sleep(Duration::from_millis(200));
    let target = target.kill_and_start_again();
    let (data, result) = write.wait();
    let error = result.unwrap_err();
    assert!(
        matches!(error, CommandError::ConnectionLost { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("which may have been done"),
        "{error}"
    );
    assert!(data == pattern(1, 4096));
    read.wait().1.unwrap();
    controller.close();
    target.end();
}

#[test]
fn a_target_that_stands_still_is_given_up_and_found_again() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let options = Options {
        command_timeout: Duration::from_millis(600),
        connect_timeout: Duration::from_millis(500),
        keep_alive: None,
        ..target.options(Digests::NONE)
    };
    // The first connection may take longer on a busy machine than this test wants to wait afterwards.
    let controller =
        (0..40).find_map(|_| Controller::connect(options.clone()).unwrap().wait().ok());
    let controller = controller.expect("the target answers in time once");
    let namespace = namespace(&controller, 1);
    target.stop();
    let began = Instant::now();
    let late = namespace.read(0, vec![0; 4096]).wait().1.unwrap_err();
    assert!(matches!(late, CommandError::TimedOut { .. }), "{late}");
    assert!(late.to_string().contains("within 600 ms"), "{late}");
    assert!(began.elapsed() >= Duration::from_millis(600));
    // It waits while the connection is made again, which takes until the target goes on.
    let waits = namespace.read(0, vec![0; 4096]);
    std::thread::sleep(Duration::from_millis(300));
    target.go_on();
    // Whether it comes through at once depends on the machine's speed; the next ones do sooner or later.
    let mut result = waits.wait().1;
    for _ in 0..40 {
        if result.is_ok() {
            break;
        }
        result = namespace.read(0, vec![0; 4096]).wait().1;
    }
    result.unwrap();
    controller.close();
    target.end();
}

/// The keep-alive notices what no command would.
#[test]
fn a_target_that_is_gone_for_good_is_given_up() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let options = Options {
        keep_alive: Some(Duration::from_secs(2)),
        connect_timeout: Duration::from_secs(10),
        reconnect: Some(Reconnect {
            give_up_after: Duration::from_millis(500),
            ..Reconnect::default()
        }),
        ..target.options(Digests::NONE)
    };
    let controller = connect(options);
    let namespace = namespace(&controller, 1);
    drop(target);
    let mut last = None;
    for _ in 0..2 {
        last = namespace.read(0, vec![0; 4096]).wait().1.err();
    }
    let last = last.expect("there is no target");
    assert!(
        matches!(
            last,
            CommandError::GaveUp { .. } | CommandError::Closed { .. }
        ),
        "{last}"
    );
    assert!(last.to_string().contains(SUBSYSTEM), "{last}");
    controller.close();
}

/// A host that says nothing for longer than its keep-alive time stays connected by the keep-alive alone.
#[test]
fn an_idle_connection_stays() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let options = Options {
        keep_alive: Some(Duration::from_secs(3)),
        reconnect: None,
        ..target.options(Digests::NONE)
    };
    let controller = connect(options);
    let namespace = namespace(&controller, 1);
    std::thread::sleep(Duration::from_millis(7500));
    namespace.read(0, vec![0; 4096]).wait().1.unwrap();
    controller.close();
    target.end();
}

#[test]
fn a_dropped_request_goes_on_and_a_dropped_controller_ends_after_it() {
    let _turn = turn();
    let target = TargetProcess::start(Setup::default());
    let controller = connect(Options {
        host: HOST.into(),
        ..target.options(Digests::NONE)
    });
    let namespace = namespace(&controller, 1);
    drop(namespace.write(3, pattern(77, 1 << 20)));
    let read = namespace.read(3, vec![0; 1 << 20]);
    drop((namespace, controller));
    read.wait().1.unwrap();
    let again = connect(target.options(Digests::NONE));
    let namespace = block_on(again.namespace(1)).unwrap();
    let (data, result) = namespace.read(3, vec![0; 1 << 20]).wait();
    result.unwrap();
    assert!(data == pattern(77, 1 << 20));
    again.close();
    target.end();
}
