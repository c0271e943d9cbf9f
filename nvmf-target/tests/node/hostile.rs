//! Hosts that break the rules of the transport: what they get is theirs, and another host's reads go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use oriel_client::blob::Put;
use oriel_client::{Controller, Namespace, Options, block_on};
use oriel_protocol::{KeyKind, Status};
use oriel_spdk::nvmf::keeps_gone;

use crate::host::{blob, commit, content, failed_at, key, read, reserve, write};
use crate::support::{
    BLOCK, CLOSED, HOST, NodeProcess, OPEN, blobs, is_skipped, is_skipped_or_fragile, namespace,
    turn,
};
use crate::wire::{Data, Sqe, Wire, h2c, ic_req, term_req};

/// The realm that hosts do harm to.
pub(crate) const BAD: &str = "nqn.2026-11.io.oriel:test:closed";

/// Another host, which reads and checks all the time, over a connection that does not come back once it is lost.
pub(crate) struct Friend {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Friend {
    pub(crate) fn start(node: &NodeProcess) -> Self {
        let options = Options {
            reconnect: None,
            ..node.options(OPEN)
        };
        let (stop, reads) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&reads));
        let thread = std::thread::spawn(move || {
            let controller = Controller::connect(options).unwrap().wait().unwrap();
            let blobs = blobs(&controller);
            let own: Vec<Vec<u8>> = [5000, 70_000, 300_000]
                .iter()
                .map(|&bytes| content(bytes, bytes))
                .collect();
            for (name, bytes) in (1..).zip(&own) {
                let put = block_on(blobs.put(key(name), KeyKind::Name, bytes.clone()));
                assert_eq!(put.unwrap(), Put::Created);
            }
            while !stopped.load(Ordering::SeqCst) {
                for (name, bytes) in (1..).zip(&own) {
                    let read = block_on(blobs.get(&key(name))).unwrap();
                    assert!(read.as_ref() == Some(bytes), "another blob {name}");
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
            drop(blobs);
            controller.close();
        });
        let friend = Self {
            stop,
            reads,
            thread,
        };
        friend.goes_on();
        friend
    }

    /// Waits until it has done a read more than by now.
    pub(crate) fn goes_on(&self) {
        let before = self.reads.load(Ordering::SeqCst);
        // One was under way already.
        while self.reads.load(Ordering::SeqCst) < before + 2 && !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn end(self) {
        self.goes_on();
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// Numbers that are the same in every run.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}

/// More often than the target has buffers, so that it would run out of them if one stayed behind each time.
#[test]
fn hosts_that_vanish_in_the_middle_of_a_write_leave_nothing_behind() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start_impatient(Duration::from_secs(5));
    let friend = Friend::start(&node);
    let good = node.connect(CLOSED);
    let raw = namespace(&good);
    let before = node.sockets();
    // Some say no more, but do not go.
    let mut silent = Vec::new();
    let bytes = content(1, 32 * BLOCK);
    let window = reserve(&raw, bytes.len() as u64).unwrap();
    let position = window.position;
    for round in 0..160 {
        let (mut wire, admin) = Wire::queue(node.address, BAD, HOST);
        if round % 2 == 0 {
            let capsule = Sqe::blocks(1, position.0, 1).capsule(1, Data::Here(&bytes[..BLOCK]));
            wire.say(&capsule[..72 + 25 * round]);
        } else {
            let whole = Data::Later(bytes.len() as u32);
            wire.say(&Sqe::blocks(1, position.0, 32).capsule(1, whole));
            let tag = wire.hear().unwrap().tag();
            let half = h2c(1, tag, 0, &bytes[..16 * BLOCK], false);
            // Whole PDUs, and ones that end in the middle.
            wire.say(&half[..half.len() - round % 4 / 2 * 777]);
        }
        match round % 3 {
            // The queue goes, then its controller; or the other way round; or both in order.
            0 => drop((wire, admin)),
            1 => drop((admin, wire)),
            _ if !oriel_spdk::nvmf::keeps_gone() => {
                wire.hang_up();
                admin.hang_up();
            }
            _ => {
                wire.ends_saying();
                admin.vanish();
                silent.push(wire);
            }
        }
        if round % 16 == 0 {
            friend.goes_on();
        }
    }
    while node.sockets() > before {
        friend.goes_on();
    }
    drop(silent);
    // Nothing was written, and nothing is being written.
    let record = blob(9, bytes.len(), None);
    while failed_at(commit(&raw, &[(record, position)])).0 == Status::BeingWritten {}
    let failed = failed_at(commit(&raw, &[(record, position)]));
    assert_eq!(failed, (Status::NotWritten, 0));
    write(&raw, position.0, bytes.clone()).unwrap();
    assert_eq!(commit(&raw, &[(record, position)]).unwrap(), 1);
    assert!(read(&raw, position.0, 32).unwrap() == bytes);
    friend.end();
    drop(raw);
    good.close();
    node.end();
}

/// Several times as many as the target has buffers are asked for, and none is used, until others have had theirs: three hosts take
/// nothing of what they read, three send nothing of what they write.
#[test]
fn hosts_that_do_nothing_leave_buffers_to_others() {
    const COMMANDS: u16 = 120;
    if is_skipped_or_fragile() {
        return;
    }
    if oriel_spdk::SPDK_RELEASE != "20.07" {
        eprintln!("skipped: SPDK after v20.07 gives such hosts all buffers until they are cut off");
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let friend = Friend::start(&node);
    let good = node.connect(CLOSED);
    let raw = namespace(&good);
    let bytes = content(1, 32 * BLOCK);
    let position = put_window(&raw, &bytes);
    let whole = Data::Later(bytes.len() as u32);
    let ask = |opcode, block| {
        let (mut wire, admin) = Wire::queue_of(127, node.address, BAD, HOST);
        wire.holds_little();
        let command = Sqe::blocks(opcode, block, 32);
        (1..=COMMANDS).for_each(|cid| wire.say(&command.capsule(cid, whole)));
        friend.goes_on();
        (wire, admin)
    };
    let mut readers = [(); 3].map(|()| ask(2, position));
    // Nowhere, which nobody finds out before the data are there.
    let mut writers = [(); 3].map(|()| ask(1, 1 << 40));
    for _ in 0..50 {
        friend.goes_on();
    }
    // New ones are let in, and have what they ask for.
    assert!(read(&raw, position, 32).unwrap() == bytes);
    node.connect(CLOSED).close();
    // Some go on after all, and miss nothing; others never do.
    for (wire, _admin) in &mut readers[..2] {
        (0..COMMANDS).for_each(|_| assert_eq!(wire.end(), Some(((0, 0), 0))));
    }
    for (wire, _admin) in &mut writers[..2] {
        (0..COMMANDS).for_each(|_| assert_ne!(wire.end().unwrap().0, (0, 0)));
    }
    drop((readers, writers));
    friend.end();
    assert!(read(&raw, position, 32).unwrap() == bytes);
    drop(raw);
    good.close();
    node.end();
}

/// A committed window with these bytes.
pub(crate) fn put_window(raw: &Namespace, bytes: &[u8]) -> u64 {
    let position = reserve(raw, bytes.len() as u64).unwrap().position;
    write(raw, position.0, bytes.to_vec()).unwrap();
    let record = blob(8, bytes.len(), None);
    assert_eq!(commit(raw, &[(record, position)]).unwrap(), 1);
    position.0
}

/// Their keep-alives would go on, so nothing else ends them.
#[test]
fn hosts_that_take_nothing_are_cut_off() {
    const READS: u16 = 60;
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start_impatient(Duration::from_secs(1));
    let friend = Friend::start(&node);
    let good = node.connect(CLOSED);
    let raw = namespace(&good);
    let bytes = content(1, 32 * BLOCK);
    let position = put_window(&raw, &bytes);
    let before = node.sockets();
    let mut stuck = [(); 3].map(|()| {
        let (mut wire, admin) = Wire::queue_of(127, node.address, BAD, HOST);
        wire.holds_little();
        let whole = Data::Later(bytes.len() as u32);
        let command = Sqe::blocks(2, position, 32);
        (1..=READS).for_each(|cid| wire.say(&command.capsule(cid, whole)));
        (wire, admin)
    });
    // Their admin queues, of which there is nothing to take, stay.
    while node.sockets() > before + stuck.len() {
        friend.goes_on();
    }
    for (wire, admin) in &mut stuck {
        let mut answers = 0;
        while wire.end().is_some() {
            answers += 1;
        }
        assert!(answers < READS, "{answers}");
        let identify = Sqe::new(6, 0).dword(10, 1);
        assert_eq!(admin.command(identify, Data::Later(4096)).0, (0, 0));
    }
    drop(stuck);
    friend.end();
    assert!(read(&raw, position, 32).unwrap() == bytes);
    drop(raw);
    good.close();
    node.end();
}

/// A node for hosts that hang up in the middle of a PDU: where SPDK keeps their connections, with all their memory, it soon
/// ends them.
pub(crate) fn node_that_tidies_up() -> NodeProcess {
    match keeps_gone() {
        true => NodeProcess::start_impatient(Duration::from_millis(300)),
        false => NodeProcess::start(),
    }
}

/// PDUs with each byte of their headers wrong, cut off after each byte, or not due.
#[test]
fn pdus_that_are_wrong_cost_their_connection_alone() {
    if is_skipped_or_fragile() {
        return;
    }
    let _turn = turn();
    let node = node_that_tidies_up();
    let friend = Friend::start(&node);
    let mut numbers = Numbers(7);
    let mut said = 0;
    // An opened connection, or one that is not, hears this and hangs up.
    let mut say = |is_open: bool, bytes: &[u8]| {
        let mut wire = match is_open {
            true => Wire::open(node.address),
            false => Wire::bare(node.address),
        };
        wire.try_say(bytes);
        wire.hang_up();
        said += 1;
        if said % 100 == 0 {
            friend.goes_on();
        }
    };
    let wrong = |pdu: &[u8], at: usize, bits: u8| {
        let mut pdu = pdu.to_vec();
        pdu[at] ^= bits;
        pdu
    };
    let ic = ic_req();
    let identify = Sqe::new(6, 0).dword(10, 1).capsule(1, Data::Later(4096));
    let here = Sqe::new(1, 1).capsule(1, Data::Here(&[7; 512]));
    let unasked = h2c(1, 1, 0, &[7; 100], true);
    for bits in [0x01, 0x80, 0xff] {
        (0..16).for_each(|at| say(false, &wrong(&ic, at, bits)));
        for pdu in [&identify, &here, &unasked] {
            (0..24).for_each(|at| say(true, &wrong(pdu, at, bits)));
        }
    }
    for end in 0..24 {
        say(false, &ic[..end * 5]);
        say(true, &here[..end * 23]);
        say(true, &unasked[..end * 5]);
    }
    for kind in 0..=255 {
        say(true, &[&[kind], &here[1..]].concat());
        say(true, &[&[kind], &unasked[1..]].concat());
    }
    // Whoever ends a connection says why: with every reason there is, and some there are not.
    for status in 0..16 {
        let length = usize::from(status) * 10;
        say(true, &term_req(status, 8, &here[..length]));
    }
    say(true, &ic);
    say(false, &here);
    for _ in 0..100 {
        let bytes: [u8; 700] = numbers.bytes();
        let length = numbers.below(bytes.len());
        say(true, &bytes[..length]);
        say(false, &bytes[..length]);
    }

    // Data that were asked for, but otherwise.
    let good = node.connect(CLOSED);
    let raw = namespace(&good);
    let position = reserve(&raw, 2 * BLOCK as u64).unwrap().position;
    for at in 0..24 {
        for bits in [0x01, 0xff] {
            let (mut wire, admin) = Wire::queue(node.address, BAD, HOST);
            let whole = Data::Later(2 * BLOCK as u32);
            wire.say(&Sqe::blocks(1, position.0, 2).capsule(1, whole));
            let tag = wire.hear().unwrap().tag();
            let data = h2c(1, tag, 0, &[0xab; 2 * BLOCK], true);
            wire.try_say(&wrong(&data, at, bits));
            wire.hang_up();
            admin.hang_up();
            said += 1;
        }
    }
    assert!(said > 1000, "{said}");
    friend.end();
    drop(raw);
    good.close();
    // Its process is killed: SPDK v20.07 waits in vain for connections that never said who they are.
    drop(node);
}
