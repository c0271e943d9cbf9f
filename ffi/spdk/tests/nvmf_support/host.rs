//! An NVMe-oF host in a process of its own: SPDK's initiator, told what to do line by line.

use std::future::poll_fn;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::task::Poll;
use std::time::{Duration, Instant};

use oriel_spdk::bdev::{Access, BdevDesc, BlockRange, Channel, create, exists};
use oriel_spdk::{CoreSet, DmaBuf, EnvOptions, SpdkThread, Subsystems, block_on, keyring};
use serde_json::json;

use super::{Address, pending};

/// In front of every answer, because the test runner prints to the same pipe.
const MARK: &str = "HOST ";
const BLOCK: usize = 4096;
const BLOCKS: u64 = 32;
const QUEUES_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The test that the host's process runs; see `tests/nvmf.rs`.
pub(crate) const ENTRY: &str = "host_process";

pub(crate) fn pattern(seed: u64) -> Vec<u8> {
    let bytes = BLOCKS as usize * BLOCK;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state as u8
    };
    (0..bytes).map(|_| step(&mut state)).collect()
}

/// The blocks that `write` and `verify` are about.
pub(crate) fn range() -> BlockRange {
    BlockRange::new(7, BLOCKS)
}

/// The host as its test sees it.
pub(crate) struct Host {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) answers: Receiver<String>,
}

fn lines_of(source: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Host {
    pub(crate) async fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                ENTRY,
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let answers = lines_of(child.stdout.take().unwrap());
        let host = Self {
            child,
            stdin,
            answers,
        };
        assert_eq!(host.answer().await, "ready");
        host
    }

    /// The next answer; the target is polled meanwhile.
    pub(crate) async fn answer(&self) -> String {
        let deadline = Instant::now() + ANSWER_LIMIT;
        poll_fn(|_| {
            loop {
                match self.answers.try_recv() {
                    Ok(line) => {
                        // The runner's own "test host_process ... " stands in front of the first.
                        if let Some(place) = line.find(MARK) {
                            return Poll::Ready(line[place + MARK.len()..].to_owned());
                        }
                    }
                    Err(TryRecvError::Empty) => {
                        assert!(Instant::now() < deadline, "the host does not answer");
                        return pending();
                    }
                    Err(TryRecvError::Disconnected) => panic!("the host's process ended"),
                }
            }
        })
        .await
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self
            .stdin
            .as_mut()
            .expect("the host listens until it is ended");
        writeln!(stdin, "{line}").unwrap();
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer().await
    }

    pub(crate) async fn attach(&mut self, address: Address, subsystem: &str, host: &str) -> String {
        let (ip, port) = (address.socket.ip(), address.socket.port());
        self.ask(&format!("attach {ip} {port} {subsystem} {host}"))
            .await
    }

    /// Ends the host's process in order and says whether that went well.
    pub(crate) async fn end(mut self) {
        self.stdin = None;
        let deadline = Instant::now() + ANSWER_LIMIT;
        let status = poll_fn(|_| match self.child.try_wait().unwrap() {
            Some(status) => Poll::Ready(status),
            None => {
                assert!(Instant::now() < deadline, "the host does not end");
                pending()
            }
        })
        .await;
        assert!(status.success(), "the host's process failed: {status}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Best effort: after a failed test it may still be there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the host's process does.
pub(crate) fn main() {
    super::log_to_stderr();
    let env = EnvOptions {
        name: "host".into(),
        // Not the core that the target's own thread keeps busy.
        cores: CoreSet::single(CoreSet::allowed().iter().last().unwrap()),
        ..EnvOptions::default()
    };
    let env = env.start().unwrap();
    let thread = SpdkThread::create("host").unwrap();
    block_on(&thread, async {
        let sub = Subsystems::start().await.unwrap();
        let commands = lines_of(std::io::stdin());
        println!("{MARK}ready");
        loop {
            let command = poll_fn(|_| match commands.try_recv() {
                Ok(line) => Poll::Ready(Some(line)),
                Err(TryRecvError::Empty) => pending(),
                Err(TryRecvError::Disconnected) => Poll::Ready(None),
            });
            let Some(command) = command.await else { break };
            let words: Vec<&str> = command.split(' ').collect();
            println!("{MARK}{}", obey(&sub, &words).await);
        }
        sub.stop().await;
    });
    thread.exit();
    drop(env);
}

async fn obey(sub: &Subsystems, words: &[&str]) -> String {
    let result = match words {
        ["key", name, path] => keyring::add_file(sub, name, Path::new(path))
            .await
            .map_err(|error| error.to_string()),
        ["attach", ip, port, subsystem, host, key @ ..] => {
            let mut params = json!({
                "name": "Host", "trtype": "TCP", "adrfam": "IPv4", "traddr": ip, "trsvcid": port,
                "subnqn": subsystem, "hostnqn": host,
            });
            if let [key] = key {
                params["dhchap_key"] = json!(key);
            }
            let attached = sub.rpc().call("bdev_nvme_attach_controller", params);
            attached.await.map(drop).map_err(|error| error.to_string())
        }
        ["detach"] => create::delete(sub, create::Kind::Nvme, "Host")
            .await
            .map_err(|error| error.to_string()),
        ["see", namespace] => see(namespace).await,
        ["write", namespace, seed] => write(namespace, seed.parse().unwrap()).await,
        ["verify", namespace, seed] => verify(namespace, seed.parse().unwrap()).await,
        // Reads until one fails: for connections that the target ends.
        ["hammer", namespace] => loop {
            if let Err(error) = verify(namespace, 0).await.or_else(not_data) {
                break Err(error);
            }
        },
        _ => panic!("the host does not know '{}'", words.join(" ")),
    };
    result.map_or_else(|error| format!("failed: {error}"), |()| "ok".into())
}

fn not_data(error: String) -> Result<(), String> {
    if error == "other data" {
        Ok(())
    } else {
        Err(error)
    }
}

/// Queues to a namespace. A target that has not yet noticed the end of earlier ones refuses their
/// numbers for a moment.
async fn queues(desc: &BdevDesc) -> Result<Channel, String> {
    let deadline = Instant::now() + QUEUES_LIMIT;
    poll_fn(|_| match desc.channel() {
        Ok(channel) => Poll::Ready(Ok(channel)),
        Err(error) if Instant::now() > deadline => Poll::Ready(Err(error.to_string())),
        Err(_) => pending(),
    })
    .await
}

/// Waits until the target's notice of a namespace has come and its device stands. v20.07's initiator
/// takes such a notice for a controller that it is detaching, too, and then never gets rid of the device.
async fn see(namespace: &str) -> Result<(), String> {
    let deadline = Instant::now() + ANSWER_LIMIT / 2;
    let name = format!("Hostn{namespace}");
    poll_fn(|_| match exists(&name) {
        true => Poll::Ready(Ok(())),
        false if Instant::now() > deadline => Poll::Ready(Err(format!("{name} does not appear"))),
        false => pending(),
    })
    .await
}

async fn write(namespace: &str, seed: u64) -> Result<(), String> {
    let desc = BdevDesc::open(&format!("Hostn{namespace}"), Access::ReadWrite, |_| {});
    let desc = desc.map_err(|error| error.to_string())?;
    let channel = queues(&desc).await?;
    let mut buf = DmaBuf::zeroed(BLOCKS as usize * BLOCK, BLOCK).unwrap();
    buf.copy_from_slice(&pattern(seed));
    let (_, result) = channel.write_at(buf, range()).await;
    result.map_err(|error| error.to_string())
}

async fn verify(namespace: &str, seed: u64) -> Result<(), String> {
    let desc = BdevDesc::open(&format!("Hostn{namespace}"), Access::ReadOnly, |_| {});
    let desc = desc.map_err(|error| error.to_string())?;
    let channel = queues(&desc).await?;
    let buf = DmaBuf::zeroed(BLOCKS as usize * BLOCK, BLOCK).unwrap();
    let (buf, result) = channel.read_at(buf, range()).await;
    result.map_err(|error| error.to_string())?;
    if buf[..] == pattern(seed)[..] {
        Ok(())
    } else {
        Err("other data".into())
    }
}
