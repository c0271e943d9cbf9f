//! More connections than a node takes.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use oriel_client::{Controller, Options, block_on};
use oriel_protocol::KeyKind;

use crate::host::{content, key};
use crate::support::{NodeProcess, OPEN, blobs, is_skipped, turn};

/// A host's two queues, and as many again.
const MOST: u32 = 4;
const CROWD: usize = 12;
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the other side has hung up.
fn is_over(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Those that are connected keep their connections and their work; others are hung up on, until there is room again.
#[test]
fn connections_beyond_the_limit_are_hung_up_on_and_the_others_stay() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start_with_connections(MOST);
    let controller = node.connect(OPEN);
    let own = blobs(&controller);
    let blob = content(7, 40_000);
    block_on(own.put(key(1), KeyKind::Name, blob.clone())).unwrap();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(node.address).unwrap());
    }
    let began = Instant::now();
    let refused = || crowd.iter().filter(|stream| is_over(stream)).count();
    while refused() < CROWD - 2 {
        assert!(began.elapsed() < PATIENCE, "{} of {CROWD}", refused());
        assert!(block_on(own.get(&key(1))).unwrap() == Some(blob.clone()));
    }
    // A host that comes now is told at once, and not by a time that runs out.
    let options = Options {
        reconnect: None,
        ..node.options(OPEN)
    };
    let late = Controller::connect(options.clone()).and_then(|connecting| connecting.wait());
    assert!(late.is_err());
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(refused(), CROWD - 2, "the others stay");
    assert!(block_on(own.get(&key(1))).unwrap() == Some(blob.clone()));
    // There is room again when some have gone.
    drop(crowd);
    let began = Instant::now();
    let late = loop {
        let late = Controller::connect(options.clone()).and_then(|connecting| connecting.wait());
        match late {
            Ok(late) => break late,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert!(block_on(blobs(&late).get(&key(1))).unwrap() == Some(blob));
    late.close();
    drop(own);
    controller.close();
    // Its process is killed: SPDK v20.07 waits in vain for connections that never said who they are.
    drop(node);
}
