//! A drive that takes no more writes, under hosts that put.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oriel_client::blob::{BlobError, Put};
use oriel_client::block_on;
use oriel_protocol::{Key, KeyKind, Status};

use crate::host::{content, key};
use crate::support::{NodeProcess, OPEN, blobs, is_skipped, turn};

/// Bytes of the blobs: those of a PUT, and those of windows that are written in one step, and in several.
const SIZES: [usize; 3] = [5000, 150_000, 400_000];
const HOSTS: usize = 3;
/// Puts of each host before the drive fails, and with it.
const BEFORE: u64 = 12;
const AFTER: u64 = 24;

fn name(host: usize, number: u64) -> Key {
    let mut key = [host as u8; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    Key::new(key)
}

fn bytes(host: usize, number: u64) -> Vec<u8> {
    let seed = host * 1000 + number as usize;
    content(seed, SIZES[seed % SIZES.len()])
}

/// Every put is answered well, by the other drive; what was on the drive that failed is readable as long as it is.
#[test]
fn a_drive_that_takes_no_more_writes_is_lost_and_puts_go_to_the_other() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let mut node = NodeProcess::start_with_drives(2);
    let fails = Arc::new(AtomicBool::new(false));
    let ready = Arc::new(AtomicU64::new(0));
    let hosts: Vec<_> = (0..HOSTS)
        .map(|host| {
            let (fails, ready) = (Arc::clone(&fails), Arc::clone(&ready));
            let options = node.options(OPEN);
            std::thread::spawn(move || {
                let connecting = oriel_client::Controller::connect(options).unwrap();
                let controller = connecting.wait().unwrap();
                let blobs = blobs(&controller);
                let (mut number, mut left) = (0, AFTER);
                while left > 0 {
                    left -= u64::from(fails.load(Ordering::SeqCst));
                    let put = blobs.put(name(host, number), KeyKind::Name, bytes(host, number));
                    match block_on(put) {
                        Ok(put) => assert_eq!(put, Put::Created, "{host} {number}"),
                        Err(error) => panic!("put {number} of host {host}: {error}"),
                    }
                    number += 1;
                    if number == BEFORE {
                        ready.fetch_add(1, Ordering::SeqCst);
                    }
                }
                controller.close();
                number
            })
        })
        .collect();
    while ready.load(Ordering::SeqCst) < HOSTS as u64 && !hosts.iter().any(|it| it.is_finished()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    node.wear_out();
    fails.store(true, Ordering::SeqCst);
    let counts: Vec<u64> = hosts.into_iter().map(|host| host.join().unwrap()).collect();
    let controller = node.connect(OPEN);
    let all_are_there = |node: &str, blobs: &oriel_client::blob::Blobs<_>| {
        for (host, count) in counts.iter().enumerate() {
            for number in 0..*count {
                let read = block_on(blobs.get(&name(host, number))).unwrap();
                let expected = bytes(host, number);
                assert!(
                    read == Some(expected),
                    "{node}: {number} of {count}, {host}"
                );
            }
        }
    };
    // The drive that is lost answers reads.
    all_are_there("with a drive that is lost", &blobs(&controller));
    controller.close();
    // With another controller it takes writes again, as a drive does whose cable was at fault.
    let node = node.again(false);
    let controller = node.connect(OPEN);
    let again = blobs(&controller);
    all_are_there("with both drives", &again);
    let put = block_on(again.put(key(1), KeyKind::Name, vec![1; 5000]));
    assert_eq!(put.unwrap(), Put::Created);
    drop(again);
    controller.close();
    node.end();
}

/// Where there is no other drive, puts say what is wrong, and reads go on.
#[test]
fn a_node_whose_only_drive_takes_no_more_writes_says_so_and_is_read() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let mut node = NodeProcess::start_with_drives(1);
    let controller = node.connect(OPEN);
    let all = blobs(&controller);
    let put = |number: u64| all.put(name(0, number), KeyKind::Name, bytes(0, number));
    for number in 0..3 {
        assert_eq!(block_on(put(number)).unwrap(), Put::Created);
    }
    node.wear_out();
    // The node may be told later than the first of these comes.
    let mut number = 3;
    let first = loop {
        match block_on(put(number)) {
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => break error,
        }
        number += 1;
    };
    for error in [first, block_on(put(1000)).unwrap_err()] {
        let status = match error {
            BlobError::Refused { status, .. } => status,
            error => panic!("{error}"),
        };
        // Of one that was under way when the drive was lost, of a window on it, and of all that come later.
        let told = [Status::Stopped, Status::DriveLost, Status::WriteFault];
        assert!(told.contains(&status), "{status:?}");
    }
    let last = block_on(put(1001)).unwrap_err();
    assert!(last.to_string().contains("too few of its drives"), "{last}");
    for number in 0..number {
        let read = block_on(all.get(&name(0, number))).unwrap();
        assert!(read == Some(bytes(0, number)), "{number}");
    }
    drop(all);
    controller.close();
    // A host that comes now can read as well.
    let controller = node.connect(OPEN);
    let read = block_on(blobs(&controller).get(&name(0, 0))).unwrap();
    assert!(read == Some(bytes(0, 0)));
    controller.close();
    // Its process is killed: a log that takes no changes has nothing more to write.
    drop(node);
}
