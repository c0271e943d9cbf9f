//! Nodes that end, and hosts that vanish, in the middle of work.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use oriel_client::blob::{Blobs, Put};
use oriel_client::{Controller, Options, block_on};
use oriel_protocol::{Key, KeyKind};

use crate::host::{content, key};
use crate::support::{NodeProcess, OPEN, blobs, is_skipped, turn};

/// Bytes of the blobs: those of a PUT, and those of a window that is written.
const SIZES: [usize; 3] = [5000, 100_000, 300_000];
const HOSTS: u64 = 3;

fn name(host: u64, number: u64) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&host.to_le_bytes());
    key[8..16].copy_from_slice(&number.to_le_bytes());
    Key::new(key)
}

fn bytes(host: u64, number: u64) -> Vec<u8> {
    let seed = host * 1000 + number;
    content(seed as usize, SIZES[number as usize % SIZES.len()])
}

/// A host that puts blobs and reads them back until its connection ends; how many puts were answered.
fn work(options: Options, host: u64, answered: Arc<AtomicU64>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let controller = Controller::connect(options).unwrap().wait().unwrap();
        let namespace = block_on(controller.namespace(1)).unwrap();
        let blobs = block_on(Blobs::open(namespace)).unwrap();
        for number in 0.. {
            let put = blobs.put(name(host, number), KeyKind::Name, bytes(host, number));
            match block_on(put) {
                Ok(put) => assert_eq!(put, Put::Created),
                Err(_) => return,
            }
            answered.store(number + 1, Ordering::SeqCst);
            match block_on(blobs.get(&name(host, number))) {
                Ok(read) => assert!(read == Some(bytes(host, number)), "{host} {number}"),
                Err(_) => return,
            }
            // Room for the next ones.
            if number % 16 == 15 {
                for old in number - 15..number - 3 {
                    match block_on(blobs.delete(&name(host, old))) {
                        Ok(was_there) => assert!(was_there, "{host} {old}"),
                        Err(_) => return,
                    }
                }
            }
        }
    })
}

/// What was answered is there, however the node ended. What was deleted last may or may not be.
#[test]
fn what_was_answered_is_there_after_an_end_in_the_middle_of_work() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    for is_killed in [false, true] {
        let node = NodeProcess::start();
        let counts: Vec<Arc<AtomicU64>> = (0..HOSTS).map(|_| Arc::default()).collect();
        let hosts: Vec<JoinHandle<()>> = (0..HOSTS)
            .zip(&counts)
            .map(|(host, answered)| {
                let options = Options {
                    reconnect: None,
                    ..node.options(OPEN)
                };
                work(options, host, Arc::clone(answered))
            })
            .collect();
        while counts.iter().any(|count| count.load(Ordering::SeqCst) < 10)
            && !hosts.iter().any(JoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let node = node.again(is_killed);
        for host in hosts {
            host.join().unwrap();
        }
        let controller = node.connect(OPEN);
        let blobs = blobs(&controller);
        let mut found = 0;
        for (host, count) in (0..HOSTS).zip(&counts) {
            let count = count.load(Ordering::SeqCst);
            assert!(count >= 10, "host {host} ended after {count} puts");
            // Deletes end at the last multiple of 16, less three.
            let first = count / 16 * 16;
            for number in first.saturating_sub(3)..count {
                let read = block_on(blobs.get(&name(host, number))).unwrap();
                assert!(
                    read == Some(bytes(host, number)),
                    "{host} {number} of {count}"
                );
                found += 1;
            }
        }
        assert!(found > 0);
        drop(blobs);
        controller.close();
        node.end();
    }
}

/// Bytes that are no NVMe/TCP, half of a PDU, and connections that end at once; others go on.
#[test]
fn hosts_that_speak_nonsense_or_vanish_harm_nobody() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let controller = node.connect(OPEN);
    let blobs = blobs(&controller);
    let blob = content(1, 40_000);
    let put = block_on(blobs.put(key(1), KeyKind::Name, blob.clone()));
    assert_eq!(put.unwrap(), Put::Created);
    let mut open = Vec::new();
    for round in 0..8 {
        let mut stream = TcpStream::connect(node.address).unwrap();
        let nonsense = content(round, 1 + round * 211);
        // The node may have hung up before the last byte.
        let _ = stream.write_all(&nonsense);
        if round % 2 == 0 {
            // Some stay and say no more.
            open.push(stream);
        }
        // Half of what opens a connection: ICReq has 128 bytes.
        let mut stream = TcpStream::connect(node.address).unwrap();
        let mut half = vec![0; 64];
        (half[2], half[4]) = (128, 128);
        let _ = stream.write_all(&half);
        drop(stream);
        assert!(block_on(blobs.get(&key(1))).unwrap() == Some(blob.clone()));
    }
    // One that is connected and goes without a word.
    let gone = node.connect(OPEN);
    std::mem::drop(gone);
    assert!(block_on(blobs.get(&key(1))).unwrap() == Some(blob));
    drop((open, blobs));
    controller.close();
    // Its process is killed: SPDK v20.07 waits in vain for connections that never said who they are.
    drop(node);
}
