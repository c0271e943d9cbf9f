//! What the tests share: running in a process of its own, and frames that prove themselves.
#![allow(dead_code, reason = "each test file uses its part")]

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use oriel_dpdk_sys::{Mbuf, PktPool, RxQueue, TxQueue};

/// Names the part that a child process plays; unset in the process that cargo starts.
const PART: &str = "ORIEL_DPDK_TEST_PART";
/// How many frames are to cross, where it is not a million. A sanitizer makes them slow.
const FRAMES: &str = "ORIEL_FRAMES";
/// The folder that a test's children share.
const FOLDER: &str = "ORIEL_DPDK_TEST_FOLDER";
/// What Linux calls nobody.
const NOBODY: u32 = 65534;

/// Frames that cross each way.
pub(crate) fn frames() -> u64 {
    let asked = env::var(FRAMES).ok();
    asked.map_or(1_000_000, |asked| asked.parse().unwrap())
}

/// The part that this process plays, if it is a child.
pub(crate) fn part() -> Option<String> {
    let part = env::var(PART).ok()?;
    fs::write(folder().join(format!("ran-{part}")), []).unwrap();
    Some(part)
}

/// The folder of the test that this child belongs to.
pub(crate) fn folder() -> PathBuf {
    env::var_os(FOLDER)
        .expect("children are started by Processes")
        .into()
}

/// The EAL starts once per process, so each part of a test runs in a child: this test binary
/// again, with only that test. Under root the children become nobody, so that what they show
/// holds without privilege.
pub(crate) struct Processes {
    dir: tempfile::TempDir,
    binary: PathBuf,
    root: bool,
    test: &'static str,
}

impl Processes {
    pub(crate) fn new(test: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut binary = env::current_exe().unwrap();
        let root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if root {
            // Nobody may be barred from the build folder.
            let copy = dir.path().join("test");
            fs::copy(&binary, &copy).unwrap();
            binary = copy;
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self {
            dir,
            binary,
            root,
            test,
        }
    }

    pub(crate) fn spawn(&self, part: &str) -> Child {
        let mut command = Command::new(&self.binary);
        command.args(["--exact", self.test, "--nocapture", "--test-threads=1"]);
        command.env(PART, part).env(FOLDER, self.dir.path());
        // DPDK keeps its run-time files there, and one user cannot use another's.
        command
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .current_dir(self.dir.path());
        if self.root {
            command.uid(NOBODY).gid(NOBODY);
        }
        loop {
            match command.spawn() {
                // Another test's child, just forked, may hold the copy open for writing until it
                // becomes its own program.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::yield_now();
                }
                child => return child.unwrap(),
            }
        }
    }

    /// Waits for the child that plays a part, and passes on its failure.
    pub(crate) fn finish(&self, part: &str, mut child: Child) {
        let status = child.wait().unwrap();
        assert!(status.success(), "the part \"{part}\" failed: {status}");
        // A binary that was asked for a test it does not have succeeds too.
        let ran = self.dir.path().join(format!("ran-{part}"));
        assert!(
            ran.exists(),
            "there is no test {} to play the part \"{part}\"",
            self.test
        );
    }

    /// Runs one part and passes on its failure.
    pub(crate) fn run(&self, part: &str) {
        self.finish(part, self.spawn(part));
    }
}

/// Bytes before the payload: two addresses, a type, the frame's number and its length.
const HEADER: usize = 6 + 6 + 2 + 8 + 2;
/// An Ethernet type that IEEE set aside for experiments.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
const CHECKSUM: usize = 8;
pub(crate) const FRAME_MIN: usize = 64;
pub(crate) const FRAME_MAX: usize = 300;

/// A mixing step (of SplitMix64): each input bit changes about half of the output's.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15)
    })
}

/// The length of frame number `seq` of a sender.
pub(crate) fn frame_len(sender: u8, seq: u64) -> usize {
    let span = (FRAME_MAX - FRAME_MIN + 1) as u64;
    FRAME_MIN + usize::try_from(mix(seq ^ u64::from(sender) << 56) % span).unwrap()
}

/// Writes frame number `seq`: every byte follows from the sender and the number.
pub(crate) fn write_frame(frame: &mut Mbuf<'_>, sender: u8, seq: u64) {
    let len = frame_len(sender, seq);
    let bytes = frame.append(len).unwrap();
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1 - sender]);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, sender]);
    bytes[12..14].copy_from_slice(&ETHER_TYPE);
    bytes[14..22].copy_from_slice(&seq.to_be_bytes());
    bytes[22..24].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    let (body, sum) = bytes.split_at_mut(len - CHECKSUM);
    for (index, chunk) in (0u64..).zip(body[HEADER..].chunks_mut(8)) {
        chunk.copy_from_slice(&mix(seq.wrapping_mul(64) + index).to_le_bytes()[..chunk.len()]);
    }
    sum.copy_from_slice(&checksum(body).to_be_bytes());
}

/// Asserts that this is frame number `seq`, whole and unaltered.
pub(crate) fn verify_frame(frame: &Mbuf<'_>, sender: u8, seq: u64) {
    let mut bytes = [0; FRAME_MAX];
    let bytes = &mut bytes[..frame.len().min(FRAME_MAX)];
    frame.read(0, bytes).unwrap();
    assert_eq!(
        bytes[6..12],
        [2, 0, 0, 0, 0, sender],
        "from the wrong sender"
    );
    let number = u64::from_be_bytes(bytes[14..22].try_into().unwrap());
    assert_eq!(number, seq, "a frame was lost, doubled or overtaken");
    assert_eq!(
        frame.len(),
        frame_len(sender, seq),
        "frame {seq} has the wrong length"
    );
    let (body, sum) = bytes.split_at(bytes.len() - CHECKSUM);
    assert_eq!(
        sum,
        checksum(body).to_be_bytes(),
        "frame {seq} was altered on the way"
    );
}

/// What one side did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Received frames that spanned several buffers.
    pub(crate) chained: u64,
}

/// Sends `count` frames and receives as many from the other side, each verified and in order;
/// then stays a while to see that nothing more comes.
pub(crate) fn exchange<'eal>(
    me: u8,
    rx: &mut RxQueue<'eal>,
    tx: &mut TxQueue<'eal>,
    pool: PktPool<'eal>,
    count: u64,
) -> Tally {
    const BURST: usize = 32;
    let mut progress = Instant::now();
    let mut tally = Tally::default();
    let mut outgoing = Vec::with_capacity(BURST);
    let mut incoming = Vec::with_capacity(BURST);
    let mut written = 0;
    while tally.sent < count || tally.received < count {
        while outgoing.len() < BURST && written < count {
            let Ok(mut frame) = pool.alloc() else { break };
            write_frame(&mut frame, me, written);
            written += 1;
            outgoing.push(frame);
        }
        let sent = tx.send(&mut outgoing);
        tally.sent += sent as u64;
        let received = take(1 - me, rx, &mut incoming, &mut tally);
        if sent == 0 && received == 0 {
            let waited = progress.elapsed();
            assert!(
                waited < Duration::from_secs(30),
                "side {me} is stuck at {tally:?}"
            );
            std::thread::yield_now();
        } else {
            progress = Instant::now();
        }
    }
    assert!(outgoing.is_empty());
    let quiet = Instant::now() + Duration::from_millis(200);
    while Instant::now() < quiet {
        take(1 - me, rx, &mut incoming, &mut tally);
        std::thread::yield_now();
    }
    assert_eq!((tally.sent, tally.received), (count, count), "side {me}");
    tally
}

fn take<'eal>(
    sender: u8,
    rx: &mut RxQueue<'eal>,
    incoming: &mut Vec<Mbuf<'eal>>,
    tally: &mut Tally,
) -> usize {
    let received = rx.receive(incoming);
    for frame in incoming.drain(..) {
        verify_frame(&frame, sender, tally.received);
        tally.received += 1;
        tally.chained += u64::from(frame.segments() > 1);
    }
    received
}
