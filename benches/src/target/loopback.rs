//! What the kernel's loopback gives: as many bytes by plain sockets between the same two cores, and nothing else.
//!
//! ```text
//!   core A: a byte comes ──► a message lies anywhere in memory ──► (a copy) ──► it goes      core B: a byte goes ──► it comes
//! ```
//!
//! Both sides poll. There is no NVMe, and nothing is checked. A drive in memory is read by a copy: with one, this is what the
//! kernel leaves to a node that has its blobs on such a drive.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_setaffinity};

use super::TargetError;
use super::host::Counts;
use super::plan::{BYTES_OF_SIZE, Numbers, Speed};

fn failed(error: impl std::fmt::Display) -> TargetError {
    TargetError::Side(format!("plain sockets of this machine: {error}"))
}

/// Moves messages of so many bytes, `depth` of which are asked for at a time.
pub(super) fn measure(
    [sends, asks]: [u32; 2],
    (bytes, depth): (u64, u32),
    (seconds, copies): (u32, bool),
) -> Result<Speed, TargetError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let host = TcpStream::connect(listener.local_addr().map_err(failed)?).map_err(failed)?;
    let (node, _) = listener.accept().map_err(failed)?;
    for side in [&host, &node] {
        side.set_nodelay(true).map_err(failed)?;
        side.set_nonblocking(true).map_err(failed)?;
    }
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || send(sends, node, bytes as usize, copies));
        let asking = scope.spawn(move || ask(asks, host, (bytes, depth), seconds));
        let asked = asking.join().map_err(|_| failed("the asking side ended"))?;
        let sent = sending
            .join()
            .map_err(|_| failed("the sending side ended"))?;
        sent.and(asked)
    })
}

fn stay_on(core: u32) -> Result<(), TargetError> {
    let mut cpus = CpuSet::new();
    cpus.set(core as usize);
    sched_setaffinity(None, &cpus).map_err(failed)
}

/// How many bytes a call of the kernel has moved: 0 if the other side is gone, `None` where there is nothing to move yet.
fn moved(result: std::io::Result<usize>) -> Result<Option<usize>, TargetError> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => {
                // Where somebody else wants the core, it may be the other side.
                std::thread::yield_now();
                Ok(None)
            }
            // It has hung up with something on its way.
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(Some(0)),
            _ => Err(failed(error)),
        },
    }
}

/// Sends what is asked for until the other side hangs up.
fn send(core: u32, mut host: TcpStream, bytes: usize, copies: bool) -> Result<(), TargetError> {
    stay_on(core)?;
    let memory = vec![7; BYTES_OF_SIZE as usize];
    let mut copy = vec![0; bytes];
    let mut numbers = Numbers(0);
    let mut questions = [0; 128];
    loop {
        let asked = match moved(host.read(&mut questions))? {
            Some(0) => return Ok(()),
            Some(asked) => asked,
            None => continue,
        };
        for _ in 0..asked {
            let message = numbers.below(BYTES_OF_SIZE / bytes as u64) as usize;
            let mut rest = &memory[message * bytes..(message + 1) * bytes];
            if copies {
                copy.copy_from_slice(rest);
                rest = &copy;
            }
            while !rest.is_empty() {
                match moved(host.write(rest))? {
                    // Time is up on the other side.
                    Some(0) => return Ok(()),
                    bytes => rest = &rest[bytes.unwrap_or(0)..],
                }
            }
        }
    }
}

fn ask(
    core: u32,
    mut node: TcpStream,
    (bytes, depth): (u64, u32),
    seconds: u32,
) -> Result<Speed, TargetError> {
    stay_on(core)?;
    let counts = Counts::lasting(seconds, bytes)?;
    let mut memory = vec![0; bytes as usize];
    let mut begun = VecDeque::new();
    loop {
        while begun.len() < depth as usize {
            begun.push_back(Instant::now());
            while moved(node.write(&[1]))?.is_none() {}
        }
        let mut come = 0;
        while come < memory.len() {
            match moved(node.read(&mut memory[come..]))? {
                Some(0) => return Err(failed("the sending side hung up")),
                more => come += more.unwrap_or(0),
            }
        }
        let from = begun.pop_front().unwrap_or_else(Instant::now);
        if !counts.count(from) {
            return Ok(counts.speed());
        }
    }
}
