//! Queues on files in the place of devices: all that can be seen without an NVMe namespace.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oriel_nvme_kernel::{
    Answer, Command, Device, Ended, Errno, Held, Means, Operation, Queue, QueueError,
};

const BLOCK: usize = 4096;

/// A file of blocks, each filled with its number. `/dev/null` takes any command by io_uring and answers 0.
fn device(blocks: u8, generic: Option<&str>) -> (Arc<Device>, File) {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    for number in 0..blocks {
        file.write_all(&[number; BLOCK]).expect("there is room");
    }
    let open = |path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("every machine has it")
    };
    let generic = generic.map(|path| open(path).into());
    let device = Device::from_files(
        file.try_clone().expect("a file has another handle").into(),
        generic,
        1,
    );
    (Arc::new(device), file)
}

/// Queues of all means that this machine has.
fn queues(device: &Arc<Device>, depth: u16) -> Vec<Queue<Vec<u8>>> {
    let threads = Queue::new(device, depth, Some(Means::Threads)).expect("threads can be started");
    let mut all = vec![threads];
    match Queue::new(device, depth, Some(Means::Ring)) {
        Ok(queue) => all.push(queue),
        Err(QueueError::NoRing(error)) => eprintln!("no io_uring here, so it is left out: {error}"),
        Err(error) => panic!("{error:?}"),
    }
    all
}

fn wait_for(queue: &mut Queue<Vec<u8>>, count: usize) -> Vec<Ended> {
    let mut ended = Vec::new();
    while ended.len() < count {
        queue.wait(None, &mut ended).expect("a wait does not fail");
    }
    ended.sort_unstable_by_key(|(token, _)| *token);
    ended
}

#[test]
fn pieces_of_one_memory_are_filled_and_written_at_once() {
    let (device, _file) = device(8, Some("/dev/null"));
    for mut queue in queues(&device, 4) {
        let held = Held::new(vec![0xee; 8 * BLOCK]);
        let mut pushed = 0;
        let mut ended = Vec::new();
        // From the last block to the first, so that none lies where it came from.
        while pushed < 8 || ended.len() < 8 {
            while pushed < 8 && queue.room() > 0 {
                let at = pushed * BLOCK;
                let piece = Held::piece(&held, at..at + BLOCK).unwrap();
                let offset = ((7 - pushed) * BLOCK) as u64;
                let taken = queue.push(pushed as u64, Operation::Read { offset }, piece);
                assert!(taken.is_ok());
                pushed += 1;
            }
            queue.wait(None, &mut ended).unwrap();
        }
        assert!(
            ended
                .iter()
                .all(|(_, result)| *result == Ok(Answer::default()))
        );
        let mut bytes = Held::into_inner(held).map_err(drop).unwrap();
        for (at, block) in bytes.chunks(BLOCK).enumerate() {
            assert!(block.iter().all(|byte| usize::from(*byte) == 7 - at));
        }
        bytes.reverse();
        let held = Held::new(bytes);
        let piece = Held::piece(&held, 0..8 * BLOCK).unwrap();
        assert!(queue.push(9, Operation::Write { offset: 0 }, piece).is_ok());
        assert_eq!(wait_for(&mut queue, 1), [(9, Ok(Answer::default()))]);
        let held = Held::new(vec![0; BLOCK]);
        let piece = Held::piece(&held, 0..BLOCK).unwrap();
        let offset = 3 * BLOCK as u64;
        assert!(queue.push(1, Operation::Read { offset }, piece).is_ok());
        wait_for(&mut queue, 1);
        assert_eq!(Held::into_inner(held).map_err(drop).unwrap(), [3; BLOCK]);
    }
}

#[test]
fn a_full_queue_gives_the_piece_back() {
    let (device, _file) = device(1, Some("/dev/null"));
    for mut queue in queues(&device, 2) {
        let held = Held::new(vec![0; 3 * BLOCK]);
        let read = Operation::Read { offset: 0 };
        for token in 0..2 {
            let piece = Held::piece(&held, 0..BLOCK).unwrap();
            assert!(queue.push(token, read, piece).is_ok());
        }
        assert_eq!(queue.room(), 0);
        let piece = Held::piece(&held, 0..BLOCK).unwrap();
        let piece = queue.push(2, read, piece).unwrap_err();
        wait_for(&mut queue, 2);
        assert!(queue.push(2, read, piece).is_ok());
        wait_for(&mut queue, 1);
    }
}

#[test]
fn what_ends_behind_the_file_is_an_error_and_not_short() {
    let (device, _file) = device(1, Some("/dev/null"));
    for mut queue in queues(&device, 2) {
        let held = Held::new(vec![0; 2 * BLOCK]);
        let piece = Held::piece(&held, 0..2 * BLOCK).unwrap();
        assert!(queue.push(0, Operation::Read { offset: 0 }, piece).is_ok());
        assert_eq!(wait_for(&mut queue, 1), [(0, Err(Errno::IO))]);
    }
}

fn stat() -> Operation {
    Operation::Command(Command {
        opcode: 0x92,
        dwords: [0; 8],
        timeout: Duration::from_secs(1),
    })
}

#[test]
fn commands_go_to_the_character_device() {
    let (on_null, _file) = device(1, Some("/dev/null"));
    for mut queue in queues(&on_null, 2) {
        let held = Held::new(vec![0; 128]);
        let piece = Held::piece(&held, 0..128).unwrap();
        assert!(queue.push(5, stat(), piece).is_ok());
        let expected = match queue.means() {
            Means::Ring => Ok(Answer::default()),
            Means::Threads => Err(Errno::NOTTY),
        };
        assert_eq!(wait_for(&mut queue, 1), [(5, expected)]);
    }
    // One that passes nothing through says so.
    let (on_zero, _file) = device(1, Some("/dev/full"));
    for mut queue in queues(&on_zero, 2) {
        let held = Held::new(vec![0; 128]);
        let piece = Held::piece(&held, 0..128).unwrap();
        assert!(queue.push(5, stat(), piece).is_ok());
        let expected = match queue.means() {
            Means::Ring => Errno::OPNOTSUPP,
            Means::Threads => Errno::NOTTY,
        };
        assert_eq!(wait_for(&mut queue, 1), [(5, Err(expected))]);
    }
}

#[test]
fn a_device_without_character_device_is_worked_by_threads() {
    let (device, _file) = device(1, None);
    let queue = Queue::<Vec<u8>>::new(&device, 2, None).unwrap();
    assert_eq!(queue.means(), Means::Threads);
    let none = Queue::<Vec<u8>>::new(&device, 2, Some(Means::Ring)).map(drop);
    assert_eq!(none, Err(QueueError::NoRing(Errno::NODEV)));
    assert!(device.has_path());
    assert_eq!(
        device.identify(1, Duration::from_secs(1)),
        Err(Errno::NOTTY)
    );
}

#[test]
fn a_wait_ends_by_its_time_or_by_a_waker() {
    let (device, _file) = device(1, Some("/dev/null"));
    for mut queue in queues(&device, 2) {
        let (begin, time) = (Instant::now(), Duration::from_millis(20));
        let mut ended = Vec::new();
        while begin.elapsed() < time {
            queue.wait(Some(time), &mut ended).unwrap();
        }
        // Rung before and during the wait; each would hang without.
        let waker = queue.waker();
        waker.wake();
        queue.wait(None, &mut ended).unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(time);
            other.wake();
        });
        queue.wait(None, &mut ended).unwrap();
        thread.join().unwrap();
        assert!(ended.is_empty());
    }
}

#[test]
fn memory_under_way_outlives_its_queue() {
    let (device, _file) = device(8, Some("/dev/null"));
    for mut queue in queues(&device, 8) {
        let held = Held::new(vec![0; 8 * BLOCK]);
        let piece = Held::piece(&held, 0..8 * BLOCK).unwrap();
        assert!(queue.push(0, Operation::Read { offset: 0 }, piece).is_ok());
        let means = queue.means();
        drop(queue);
        // The threads end it; nobody ever says whether the kernel has ended what was in a ring.
        if means == Means::Ring {
            assert!(Held::into_inner(held).is_err());
        }
    }
}
