//! Two hosts of different realms, both with more to do than they get done.

use std::time::{Duration, Instant};

use crate::host::content;
use crate::hostile::{BAD, put_window};
use crate::support::{BLOCK, CLOSED, HOST, NodeProcess, OPEN, is_skipped, namespace, turn};
use crate::wire::{C2H_DATA, Data, RESPONSE, Sqe, Wire};

const GOOD: &str = "nqn.2026-11.io.oriel:test:open";
const BLOCKS: u32 = 32;
/// What the hosts have under way, reads of 128 KiB each: the one as much as its queue holds, the other no more than it takes to
/// have something waiting while it is told what has ended.
const GREEDY: u16 = 126;
const MODEST: u16 = 8;
/// Reads that are counted, of both together; the first ones, while connections come up to speed, are not.
const COUNTED: u32 = 1200;
const BEFORE: u32 = 300;
/// Each gets at least so many of a hundred.
const SHARE: u32 = 30;
/// A node that gives nothing fails the test in the end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A host that has always the same number of reads under way.
struct Reader {
    wire: Wire,
    _admin: Wire,
    read: Sqe,
    /// Of the PDU that comes: its header, and what is to come behind it.
    header: Vec<u8>,
    data: usize,
    ended: u32,
}

/// The headers of all PDUs that bring data or the end of a command.
const HEADER: usize = 24;

impl Reader {
    fn start(node: &NodeProcess, subsystem: &str, block: u64, depth: u16) -> Self {
        let (wire, admin) = Wire::queue_of(127, node.address, subsystem, HOST);
        let mut reader = Self {
            wire,
            _admin: admin,
            read: Sqe::blocks(2, block, BLOCKS),
            header: Vec::new(),
            data: 0,
            ended: 0,
        };
        (1..=depth).for_each(|cid| reader.ask(cid));
        reader
    }

    fn ask(&mut self, cid: u16) {
        let bytes = Data::Later(BLOCKS * BLOCK as u32);
        self.wire.say(&self.read.capsule(cid, bytes));
    }

    /// Takes some of what has come. Each read that has ended is followed by another.
    fn turn(&mut self, memory: &mut [u8]) {
        let taken = self.wire.take(memory);
        let mut rest = &memory[..taken];
        while !rest.is_empty() {
            let skipped = self.data.min(rest.len());
            self.data -= skipped;
            rest = &rest[skipped..];
            let head = (HEADER - self.header.len()).min(rest.len());
            self.header.extend_from_slice(&rest[..head]);
            rest = &rest[head..];
            if self.header.len() == HEADER {
                self.next();
            }
        }
    }

    /// A PDU's header is there.
    fn next(&mut self) {
        let header = std::mem::take(&mut self.header);
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let whole = u32::from_le_bytes(header[4..8].try_into().unwrap());
        self.data = whole as usize - HEADER;
        let (cid, is_end) = match header[0] {
            // "SUCCESS": no response follows.
            C2H_DATA => (word(8), header[1] & 8 != 0),
            RESPONSE => {
                assert_eq!(word(22) >> 1, 0, "a read failed");
                (word(20), true)
            }
            kind => panic!("a PDU of type {kind}"),
        };
        if is_end {
            self.ended += 1;
            self.ask(cid);
        }
    }
}

/// What a host gets is what the node gives it in each of its turns, however much it has asked for. One thread is both hosts, and
/// takes from each what is there, so nothing but the node gives one of them more than the other.
#[test]
fn a_host_that_asks_for_much_gets_no_more_than_its_share() {
    if is_skipped() {
        return;
    }
    if !oriel_spdk_sys::SPDK_MENDED {
        eprintln!("skipped: only the SPDK that scripts/bootstrap builds gives hosts their shares");
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start_on_one_core_in_memory();
    let bytes = content(1, BLOCKS as usize * BLOCK);
    let [open, closed] = [OPEN, CLOSED].map(|realm| {
        let controller = node.connect(realm);
        let raw = namespace(&controller);
        let block = put_window(&raw, &bytes);
        drop(raw);
        controller.close();
        block
    });
    for ((greedy, much), (modest, little)) in
        [((BAD, closed), (GOOD, open)), ((GOOD, open), (BAD, closed))]
    {
        let mut hosts = [
            Reader::start(&node, greedy, much, GREEDY),
            Reader::start(&node, modest, little, MODEST),
        ];
        let mut memory = vec![0; 256 << 10];
        let begun = Instant::now();
        let mut until = |count: u32| {
            while hosts.iter().map(|host| host.ended).sum::<u32>() < count {
                assert!(begun.elapsed() < PATIENCE, "the node gives nothing");
                hosts.iter_mut().for_each(|host| host.turn(&mut memory));
            }
            hosts.each_ref().map(|host| host.ended)
        };
        let before = until(BEFORE);
        let ended = until(BEFORE + COUNTED);
        let [greedy_ended, modest_ended] = [0, 1].map(|host| ended[host] - before[host]);
        let least = (greedy_ended + modest_ended) * SHARE / 100;
        assert!(
            greedy_ended.min(modest_ended) >= least,
            "of {greedy_ended} + {modest_ended} reads, {greedy} with {GREEDY} under way had the former, {modest} with {MODEST} the latter"
        );
    }
    node.end();
}
