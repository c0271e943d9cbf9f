//! A controller on a socket that is honest until its script says otherwise.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use oriel_client::Digests;

use super::{Capsule, FromHost, LAST, SUCCESS, data, ic_resp, response, take};

pub(crate) const BLOCKS: u64 = 1024;

/// What a script does with a command.
pub(crate) enum Answer {
    /// What an honest controller would.
    Honest,
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, and the end of the connection.
    Close(Vec<u8>),
}

/// Called with each capsule and whether it came on the admin queue.
pub(crate) type Script = Box<dyn FnMut(&Capsule, bool, Digests) -> Answer + Send>;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The reasons for which hosts ended connections.
    pub(crate) terms: Arc<Mutex<Vec<u16>>>,
}

impl Server {
    pub(crate) fn start(script: Script) -> Self {
        Self::start_with(ic_resp, script)
    }

    /// With another answer to ICReq.
    pub(crate) fn start_with(first: fn(Digests, u8, u32) -> Vec<u8>, script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let terms = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(Mutex::new(script));
        let (over, noted) = (Arc::clone(&is_over), Arc::clone(&terms));
        let thread = std::thread::spawn(move || {
            let mut sessions = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let (script, noted) = (Arc::clone(&script), Arc::clone(&noted));
                let ours = stream.try_clone().unwrap();
                sessions.push((
                    ours,
                    std::thread::spawn(move || serve(stream, first, &script, &noted)),
                ));
            }
            for (stream, session) in sessions {
                let _ = stream.shutdown(Shutdown::Both);
                session.join().unwrap();
            }
        });
        Self {
            address,
            is_over,
            thread: Some(thread),
            terms,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Lets the listener look.
        drop(TcpStream::connect(self.address));
        let result = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            result.unwrap().unwrap();
        }
    }
}

fn serve(
    mut stream: TcpStream,
    first: fn(Digests, u8, u32) -> Vec<u8>,
    script: &Mutex<Script>,
    terms: &Mutex<Vec<u16>>,
) {
    let mut input = Vec::new();
    let mut digests = Digests::NONE;
    let mut is_admin = true;
    let mut configuration = 0;
    let mut buffer = [0; 65536];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        input.extend(&buffer[..count]);
        if input.first() == Some(&0) && input.len() >= 128 {
            digests = Digests {
                header: input[11] & 1 != 0,
                data: input[11] & 2 != 0,
            };
        }
        while let Some(pdu) = take(&mut input, digests, 0) {
            let answer = match pdu {
                FromHost::IcReq { .. } => first(digests, 0, 131_072),
                FromHost::Term { status, .. } => {
                    terms
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(status);
                    return;
                }
                FromHost::Data { .. } => Vec::new(),
                FromHost::Capsule(capsule) => {
                    if capsule.opcode() == 0x7f && capsule.command[4] == 1 {
                        is_admin = capsule.command[42..44] == [0, 0];
                    }
                    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
                    let answer = script(&capsule, is_admin, digests);
                    drop(script);
                    match answer {
                        Answer::Honest => honest(&capsule, is_admin, &mut configuration, digests),
                        Answer::Bytes(bytes) => bytes,
                        Answer::Close(bytes) => {
                            let _ = stream.write_all(&bytes);
                            let _ = stream.shutdown(Shutdown::Write);
                            // Whatever the host still sends: closing with it unread would destroy what it has not read.
                            while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {}
                            return;
                        }
                    }
                }
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

pub(crate) fn identify_controller() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[4..8].copy_from_slice(b"FAKE");
    bytes[24..28].copy_from_slice(b"FAKE");
    bytes[77] = 5;
    bytes[1792..1796].copy_from_slice(&260_u32.to_le_bytes());
    bytes
}

fn honest(capsule: &Capsule, is_admin: bool, configuration: &mut u32, digests: Digests) -> Vec<u8> {
    let cid = capsule.cid();
    let whole = |content: &[u8]| data(cid, 0, content, LAST | SUCCESS, 0, digests);
    match (capsule.opcode(), is_admin) {
        (0x7f, _) => match capsule.command[4] {
            0 => {
                *configuration = u32::from_le_bytes(capsule.command[48..52].try_into().unwrap());
                response(cid, 0, 0, digests)
            }
            1 => response(cid, 0, 1, digests),
            _ => {
                let value = match capsule.command[44] {
                    0 => 127 | 10 << 24,
                    0x1c if *configuration >> 14 & 3 != 0 => 1 | 2 << 2,
                    _ => 1,
                };
                response(cid, 0, value, digests)
            }
        },
        (0x06, true) => match capsule.dword(10) {
            1 => whole(&identify_controller()),
            0 => {
                let mut bytes = vec![0; 4096];
                bytes[..8].copy_from_slice(&BLOCKS.to_le_bytes());
                bytes[130] = 12;
                whole(&bytes)
            }
            _ => {
                let mut bytes = vec![0; 4096];
                bytes[0] = u8::from(capsule.dword(1) == 0);
                whole(&bytes)
            }
        },
        (0x02, false) => whole(&vec![0x5a; capsule.sgl().0 as usize]),
        _ => response(cid, 0, 0, digests),
    }
}
