//! Namespaces on files in the place of devices, and on a kernel that says what a test wants.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oriel_nvme_kernel::{
    Answer, Command as Passed, Device, Ended, Errno, Operation, Piece, Queue, Waker,
};
use oriel_protocol::{Key, Length, STAT_BYTES};

use super::driver::{Kernel, Port};
use super::request::Whole;
use super::*;
use crate::memory::{Aligned, Nothing};
use crate::nvme::identify::IDENTIFY_BYTES;

const BLOCK: usize = 4096;

fn attached(means: Means) -> Attached {
    let mut bytes = [0; IDENTIFY_BYTES];
    bytes[768..798].copy_from_slice(b"nqn.2026-11.io.oriel:n1:models");
    let controller = ControllerData::decode(&bytes, 12);
    let mut bytes = [0; IDENTIFY_BYTES];
    bytes[..8].copy_from_slice(&(1_u64 << 50).to_le_bytes());
    // The first format: blocks of 2^12 bytes.
    bytes[130] = 12;
    Attached {
        controller,
        namespace: NamespaceData::decode(1, &bytes).unwrap(),
        transfer_bytes_max: 128 << 10,
        means,
    }
}

fn device(blocks: u64) -> Arc<Device> {
    let mut file = tempfile::tempfile().unwrap();
    for number in 0..blocks {
        file.write_all(&[number as u8; BLOCK]).unwrap();
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    Arc::new(Device::from_files(file.into(), Some(null.into()), 1))
}

fn on_files(blocks: u64, means: Means) -> Option<KernelNamespace> {
    let device = device(blocks);
    let queue = match Queue::new(&device, 4, Some(means)) {
        Ok(queue) => queue,
        Err(error) => {
            eprintln!("left out: {error:?}");
            return None;
        }
    };
    let attach =
        move |_: &Shared, _: &KernelOptions| Ok((Kernel { device, queue }, attached(means)));
    let opening = KernelNamespace::begin("file".into(), KernelOptions::default(), attach);
    Some(opening.unwrap().wait().unwrap())
}

type Script = Box<dyn FnMut(&Operation) -> Result<Answer, Errno> + Send>;

/// Does what a test says, at once, and is woken by a real queue.
struct Scripted {
    script: Script,
    has_path: Arc<AtomicBool>,
    queue: Queue<Whole>,
    ended: Vec<Ended>,
}

impl Port for Scripted {
    fn waker(&self) -> Waker {
        self.queue.waker()
    }

    fn room(&self) -> usize {
        3 - self.ended.len()
    }

    fn push(&mut self, token: u64, operation: Operation, _: Piece<Whole>) {
        self.ended.push((token, (self.script)(&operation)));
    }

    fn wait(&mut self, most: Option<Duration>, ended: &mut Vec<Ended>) {
        match self.ended.is_empty() {
            true => self.queue.wait(most, ended).unwrap(),
            false => ended.append(&mut self.ended),
        }
    }

    fn alignment(&self) -> usize {
        BLOCK
    }

    fn has_path(&self) -> bool {
        self.has_path.load(Ordering::Relaxed)
    }
}

/// A kernel that does as it is told, and what tells it whether there is a path.
fn scripted(
    give_up_after: Duration,
    script: impl FnMut(&Operation) -> Result<Answer, Errno> + Send + 'static,
) -> (KernelNamespace, Arc<AtomicBool>) {
    let options = KernelOptions {
        give_up_after,
        requests_max: 2,
        ..KernelOptions::default()
    };
    let has_path = Arc::new(AtomicBool::new(true));
    let path = Arc::clone(&has_path);
    let attach = move |_: &Shared, _: &KernelOptions| {
        let port = Scripted {
            script: Box::new(script),
            has_path: path,
            queue: Queue::new(&device(0), 1, Some(Means::Threads)).unwrap(),
            ended: Vec::new(),
        };
        Ok((port, attached(Means::Threads)))
    };
    let opening = KernelNamespace::begin("scripted".into(), options, attach);
    (opening.unwrap().wait().unwrap(), has_path)
}

const LONG: Duration = Duration::from_secs(300);
const DONE: Result<Answer, Errno> = Ok(Answer {
    status: 0,
    result: 0,
});

#[test]
fn windows_are_read_and_written_in_parts_at_their_places() {
    for means in [Means::Ring, Means::Threads] {
        let blocks = 3 * 256 + 5;
        let Some(namespace) = on_files(blocks + 10, means) else {
            continue;
        };
        assert_eq!(namespace.means(), means);
        let bytes = blocks as usize * BLOCK;
        let (mut memory, result) = namespace.read(10, Aligned::zeroed(bytes)).wait();
        result.unwrap();
        let place = memory.host_mut().unwrap();
        for (number, block) in (10..).zip(place.chunks_mut(BLOCK)) {
            assert!(block.iter().all(|byte| *byte == number as u8), "{number}");
            block.fill(!block[0]);
        }
        let (_, result) = namespace.write(0, memory).wait();
        result.unwrap();
        // Several at a time, from futures and from other threads.
        let pending: Vec<_> = (0..40)
            .map(|at| (at, namespace.read(at * 3, Aligned::zeroed(BLOCK))))
            .collect();
        for (at, pending) in pending {
            let (memory, result) = block_on(pending);
            result.unwrap();
            let first = !(10 + 3 * at as u8);
            assert!(memory.host().unwrap().iter().all(|byte| *byte == first));
        }
        namespace.close();
    }
}

#[test]
fn what_is_no_range_of_blocks_is_refused_with_its_memory() {
    let (namespace, _) = scripted(LONG, |_| panic!("nothing is to be sent"));
    let (memory, result) = namespace.read(0, vec![7; 100]).wait();
    assert_eq!(memory, [7; 100]);
    assert!(matches!(
        result,
        Err(KernelError::NotWholeBlocks { bytes: 100, .. })
    ));
    let (_, result) = namespace.read(1 << 50, Aligned::zeroed(BLOCK)).wait();
    assert!(matches!(result, Err(KernelError::OutOfRange { .. })));
    let (_, result) = namespace
        .vendor(&Command::Put, vec![0; 128 * 1024 + 4])
        .wait();
    assert!(matches!(result, Err(KernelError::TooLong { .. })));
}

/// The blocks that a passed-through READ or WRITE is of.
fn blocks_of(command: &Passed) -> std::ops::Range<u64> {
    let [_, _, low, high, count, ..] = command.dwords;
    let first = u64::from(low) | u64::from(high) << 32;
    first..first + u64::from(count) + 1
}

#[test]
fn a_plain_read_that_fails_is_passed_through_and_says_why() {
    let unwritten = Answer {
        status: 0x287,
        result: 0,
    };
    for answer in [Answer::default(), unwritten] {
        let passed = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&passed);
        let first = 1 << 40;
        let (namespace, _) = scripted(LONG, move |operation| match operation {
            Operation::Read { offset } if *offset == (first + 256) * BLOCK as u64 => {
                Err(Errno::NODATA)
            }
            Operation::Read { .. } => DONE,
            Operation::Command(command) => {
                assert_eq!(command.opcode, 0x02);
                seen.lock().unwrap().push(blocks_of(command));
                Ok(answer)
            }
            Operation::Write { .. } => panic!("nothing is written"),
        });
        let (_, result) = namespace.read(first, Aligned::zeroed(3 << 20)).wait();
        let mut passed = std::mem::take(&mut *passed.lock().unwrap());
        passed.sort_by_key(|blocks| blocks.start);
        if answer.status == 0 {
            result.unwrap();
            // The second MiB, in transfers of 128 KiB.
            let parts = (0..8).map(|part| first + 256 + part * 32);
            let parts: Vec<_> = parts.map(|start| start..start + 32).collect();
            assert_eq!(passed, parts);
        } else {
            assert_eq!(result.unwrap_err().status(), Some(Status::Unwritten));
        }
    }
}

#[test]
fn memory_that_does_not_lie_well_is_passed_through() {
    let (namespace, _) = scripted(LONG, |operation| match operation {
        Operation::Command(command) => {
            assert_eq!((command.opcode, blocks_of(command)), (0x01, 300..302));
            DONE
        }
        _ => panic!("the block device cannot use it"),
    });
    let whole = Aligned::zeroed(3 * BLOCK);
    let part = crate::memory::Part::new(whole, 8..8 + 2 * BLOCK).unwrap();
    let (_, result) = namespace.write(300, part).wait();
    result.unwrap();
}

#[test]
fn commands_wait_for_a_path_within_their_time() {
    let mut answers = vec![
        DONE,
        Err(Errno::INVAL),
        Err(Errno::AGAIN),
        Ok(Answer {
            status: 0x370,
            result: 0,
        }),
    ];
    let (namespace, has_path) = scripted(LONG, move |_| answers.pop().unwrap());
    has_path.store(false, Ordering::Relaxed);
    let (_, result) = namespace.vendor(&Command::Put, vec![0; 128]).wait();
    result.unwrap();

    let time = Duration::from_millis(120);
    let (namespace, _) = scripted(time, |_| Err(Errno::AGAIN));
    let begin = Instant::now();
    let (_, result) = namespace.vendor(&Command::Stat, vec![0; STAT_BYTES]).wait();
    assert!(begin.elapsed() >= time);
    let error = result.unwrap_err();
    assert!(
        matches!(error, KernelError::Away { after, .. } if after == time),
        "{error}"
    );
    assert!(error.to_string().contains("STAT"), "{error}");
}

#[test]
fn a_command_that_is_really_invalid_does_not_take_all_its_time() {
    let (namespace, _) = scripted(LONG, |_| Err(Errno::INVAL));
    let (_, result) = namespace.vendor(&Command::Stat, vec![0; STAT_BYTES]).wait();
    assert!(matches!(
        result,
        Err(KernelError::System {
            errno: Errno::INVAL,
            ..
        })
    ));
}

#[test]
fn what_changes_something_is_sent_once_if_it_may_have_been_done() {
    let key = Key::new([5; 32]);
    for (command, is_lost) in [
        (Command::Delete { key }, true),
        (Command::Locate { key }, false),
        (
            Command::Reserve {
                length: Length::new(1).unwrap(),
                part: None,
            },
            true,
        ),
    ] {
        let mut sent = 0;
        let (namespace, _) = scripted(LONG, move |_| {
            sent += 1;
            match sent {
                1 => Err(Errno::INTR),
                _ => Ok(Answer {
                    status: 0,
                    result: 99,
                }),
            }
        });
        let (_, result) = namespace.vendor(&command, Nothing).wait();
        match result {
            Err(KernelError::Lost { .. }) => assert!(is_lost, "{command:?}"),
            Ok(completion) => assert!(!is_lost && completion.dword() == 99, "{command:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn too_many_requests_and_those_after_the_end_come_back() {
    let (namespace, has_path) = scripted(LONG, |_| Err(Errno::AGAIN));
    has_path.store(false, Ordering::Relaxed);
    let stat = |namespace: &KernelNamespace| namespace.vendor(&Command::Stat, vec![1; STAT_BYTES]);
    let waiting = [stat(&namespace), stat(&namespace)];
    let (memory, result) = stat(&namespace).wait();
    assert_eq!(memory, [1; STAT_BYTES]);
    assert!(
        matches!(result, Err(KernelError::Full { max: 2, .. })),
        "{result:?}"
    );
    namespace.0.shared.close();
    let (_, result) = stat(&namespace).wait();
    assert!(
        matches!(result, Err(KernelError::Closed { .. })),
        "{result:?}"
    );
    drop(waiting);
}

#[test]
fn what_cannot_be_opened_says_what_to_do() {
    let open = |path: &str| {
        let opening = KernelNamespace::open(path, KernelOptions::default()).unwrap();
        opening.wait().map(drop).unwrap_err().to_string()
    };
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nvme7n1");
    let said = open(missing.to_str().unwrap());
    assert!(
        said.contains("nvme connect") && said.contains("nvme7n1"),
        "{said}"
    );
    let said = open("/dev/null");
    assert!(said.contains("/dev/null is no NVMe namespace"), "{said}");
}
