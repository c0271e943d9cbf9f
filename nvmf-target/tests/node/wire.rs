//! A host of bare bytes, which can say what no initiator would.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};

/// Longer than anything takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// "PDU-Type".
pub(crate) const IC_REQ: u8 = 0;
pub(crate) const TERM_REQ: u8 = 2;
pub(crate) const CAPSULE: u8 = 4;
pub(crate) const RESPONSE: u8 = 5;
pub(crate) const H2C_DATA: u8 = 6;
pub(crate) const C2H_DATA: u8 = 7;
pub(crate) const R2T: u8 = 9;

/// Where a command's data are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data<'a> {
    None,
    /// In its capsule.
    Here(&'a [u8]),
    /// To be sent when they are asked for, or to come: so many bytes.
    Later(u32),
}

/// A command of 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sqe(pub(crate) [u8; 64]);

impl Sqe {
    pub(crate) fn new(opcode: u8, nsid: u32) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = opcode;
        // "PSDT" 01b: SGLs.
        bytes[1] = 0x40;
        bytes[4..8].copy_from_slice(&nsid.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn with(mut self, at: usize, field: &[u8]) -> Self {
        self.0[at..at + field.len()].copy_from_slice(field);
        self
    }

    pub(crate) fn dword(self, number: usize, value: u32) -> Self {
        self.with(number * 4, &value.to_le_bytes())
    }

    /// READ or WRITE of blocks.
    pub(crate) fn blocks(opcode: u8, block: u64, blocks: u32) -> Self {
        Self::new(opcode, 1)
            .with(40, &block.to_le_bytes())
            .dword(12, blocks - 1)
    }

    /// Its capsule.
    pub(crate) fn capsule(self, cid: u16, data: Data<'_>) -> Vec<u8> {
        // The descriptor's address is an offset in the capsule, or nothing.
        let mut sqe = self.with(2, &cid.to_le_bytes()).with(24, &[0; 8]);
        let mut here: &[u8] = &[];
        match data {
            Data::None => {}
            Data::Here(bytes) => {
                here = bytes;
                sqe = sqe.dword(8, bytes.len() as u32).with(39, &[0x01]);
            }
            Data::Later(bytes) => sqe = sqe.dword(8, bytes).with(39, &[0x5a]),
        }
        let at = if here.is_empty() { 0 } else { 72 };
        let mut pdu = pdu(CAPSULE, 72, at, 72 + here.len() as u32);
        pdu.extend_from_slice(&sqe.0);
        pdu.extend_from_slice(here);
        pdu
    }
}

/// The first eight bytes of a PDU.
fn pdu(kind: u8, header: u8, data_at: u8, whole: u32) -> Vec<u8> {
    let mut pdu = vec![kind, 0, header, data_at];
    pdu.extend_from_slice(&whole.to_le_bytes());
    pdu
}

/// What opens a connection: no digests, any alignment, as many R2Ts as a command may have.
pub(crate) fn ic_req() -> Vec<u8> {
    let mut ic = pdu(IC_REQ, 128, 0, 128);
    ic.resize(128, 0);
    ic
}

/// Data that were asked for, or not.
pub(crate) fn h2c(cid: u16, tag: u16, offset: u32, data: &[u8], is_last: bool) -> Vec<u8> {
    let mut h2c = pdu(H2C_DATA, 24, 24, 24 + data.len() as u32);
    h2c[1] = u8::from(is_last) << 2;
    h2c.extend_from_slice(&cid.to_le_bytes());
    h2c.extend_from_slice(&tag.to_le_bytes());
    h2c.extend_from_slice(&offset.to_le_bytes());
    h2c.extend_from_slice(&(data.len() as u32).to_le_bytes());
    h2c.extend_from_slice(&[0; 4]);
    h2c.extend_from_slice(data);
    h2c
}

/// The end of a connection, with the header that is said to be wrong.
pub(crate) fn term_req(status: u16, information: u32, offender: &[u8]) -> Vec<u8> {
    let mut term = pdu(TERM_REQ, 24, 0, 24 + offender.len() as u32);
    term.extend_from_slice(&status.to_le_bytes());
    term.extend_from_slice(&information.to_le_bytes());
    term.resize(24, 0);
    term.extend_from_slice(offender);
    term
}

/// A PDU of the controller's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) kind: u8,
    flags: u8,
    /// All but its first eight bytes.
    pub(crate) rest: Vec<u8>,
}

impl Answer {
    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.rest[at], self.rest[at + 1]])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.rest[at..at + 4].try_into().unwrap())
    }

    /// The tag of what asks for data.
    pub(crate) fn tag(&self) -> u16 {
        assert_eq!(self.kind, R2T, "{self:?}");
        self.word(2)
    }

    /// Status type and code, and dword 0, of a command's end.
    pub(crate) fn completion(&self) -> ((u8, u8), u32) {
        assert_eq!(self.kind, RESPONSE, "{self:?}");
        let status = self.word(14) >> 1;
        (((status >> 8 & 7) as u8, status as u8), self.dword(0))
    }
}

pub(crate) struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// A connection of which nothing was said yet.
    pub(crate) fn bare(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// One that has been opened.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut wire = Self::bare(address);
        wire.say(&ic_req());
        let answer = wire.hear().expect("the target takes connections");
        assert_eq!((answer.kind, answer.rest.len()), (1, 120));
        wire
    }

    /// The admin queue of a controller, which is enabled, and the controller's number.
    pub(crate) fn admin(address: SocketAddr, subsystem: &str, host: &str) -> (Self, u16) {
        let mut wire = Self::open(address);
        let (status, controller) = wire.connect(0, 31, 0xffff, subsystem, host);
        assert_eq!(status, (0, 0));
        // Property Set of "CC": enabled, entries of 64 and 16 bytes.
        let configuration: u64 = 1 | 6 << 16 | 4 << 20;
        let enable = Sqe::new(0x7f, 0)
            .dword(11, 0x14)
            .with(48, &configuration.to_le_bytes());
        assert_eq!(wire.command(enable, Data::None).0, (0, 0));
        (wire, controller as u16)
    }

    /// An I/O queue, and the admin queue that it lives by.
    pub(crate) fn queue(address: SocketAddr, subsystem: &str, host: &str) -> (Self, Self) {
        Self::queue_of(31, address, subsystem, host)
    }

    /// The same with room for so many commands.
    pub(crate) fn queue_of(
        size: u16,
        address: SocketAddr,
        subsystem: &str,
        host: &str,
    ) -> (Self, Self) {
        let (admin, controller) = Self::admin(address, subsystem, host);
        let mut wire = Self::open(address);
        let connected = wire.connect(1, size, controller, subsystem, host);
        assert_eq!(connected.0, (0, 0));
        (wire, admin)
    }

    /// Connects a queue: status, and the controller's number.
    pub(crate) fn connect(
        &mut self,
        queue: u16,
        size: u16,
        controller: u16,
        subsystem: &str,
        host: &str,
    ) -> ((u8, u8), u32) {
        let mut data = vec![0; 1024];
        data[..16].fill(0x11);
        data[16..18].copy_from_slice(&controller.to_le_bytes());
        data[256..256 + subsystem.len()].copy_from_slice(subsystem.as_bytes());
        data[512..512 + host.len()].copy_from_slice(host.as_bytes());
        let connect = Sqe::new(0x7f, 1)
            .with(42, &queue.to_le_bytes())
            .with(44, &size.to_le_bytes());
        self.command(connect, Data::Here(&data))
    }

    /// Sends a command and awaits its end.
    pub(crate) fn command(&mut self, sqe: Sqe, data: Data<'_>) -> ((u8, u8), u32) {
        self.say(&sqe.capsule(1, data));
        self.end().expect("the connection lasts")
    }

    /// How the command under way ends; `None` where the connection does. Data that come are let go, and zeros are sent
    /// where some are asked for.
    pub(crate) fn end(&mut self) -> Option<((u8, u8), u32)> {
        loop {
            let answer = self.hear()?;
            match answer.kind {
                RESPONSE => return Some(answer.completion()),
                // "SUCCESS": no response follows.
                C2H_DATA if answer.flags & 8 != 0 => return Some(((0, 0), 0)),
                R2T => {
                    let (cid, tag) = (answer.word(0), answer.word(2));
                    let zeros = vec![0; answer.dword(8) as usize];
                    self.try_say(&h2c(cid, tag, answer.dword(4), &zeros, true));
                }
                _ => {}
            }
        }
    }

    /// What a command reads, which may be up to so many bytes; or how it ends where it fails.
    pub(crate) fn read(&mut self, sqe: Sqe, bytes: u32) -> Result<Vec<u8>, (u8, u8)> {
        self.say(&sqe.capsule(1, Data::Later(bytes)));
        let mut read = Vec::new();
        loop {
            let answer = self.hear().expect("the connection lasts");
            let is_last = match answer.kind {
                // Its header has 24 bytes, and the data are in order.
                C2H_DATA => {
                    assert_eq!(answer.dword(4) as usize, read.len(), "data out of order");
                    read.extend_from_slice(&answer.rest[16..]);
                    answer.flags & 8 != 0
                }
                RESPONSE if answer.completion().0 != (0, 0) => return Err(answer.completion().0),
                RESPONSE => true,
                kind => panic!("a PDU of type {kind}"),
            };
            if is_last {
                return Ok(read);
            }
        }
    }

    /// Takes what has come already, as far as there is room for it; 0 is nothing.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> usize {
        match rustix::net::recv(&self.stream, bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => panic!("the target has hung up"),
            Ok((taken, _)) => taken,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => panic!("nothing can be taken: {error}"),
        }
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The same to a target that may have hung up.
    pub(crate) fn try_say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next PDU; `None` at the connection's end.
    pub(crate) fn hear(&mut self) -> Option<Answer> {
        let mut head = [0; 8];
        self.fill(&mut head)?;
        let whole = u32::from_le_bytes(head[4..].try_into().unwrap());
        assert!((8..1 << 20).contains(&whole), "a PDU of {whole} bytes");
        let mut rest = vec![0; whole as usize - 8];
        self.fill(&mut rest)?;
        let [kind, flags, ..] = head;
        Some(Answer { kind, flags, rest })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if is_end(&error) => None,
            Err(error) => panic!("the target neither answers nor hangs up: {error}"),
        }
    }

    /// From now on little of what it does not listen to fits on the way.
    pub(crate) fn holds_little(&self) {
        set_socket_recv_buffer_size(&self.stream, 1 << 16).unwrap();
    }

    /// Says that no more comes.
    pub(crate) fn ends_saying(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Goes without a word: the target is told that there is nobody any more, and no port is kept for what may still come.
    pub(crate) fn vanish(self) {
        set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// Says that no more comes, waits until the target has answered something or hung up, and goes. An end in order would
    /// not do: what a target has found wrong it may leave unread, and not look behind it for half a minute.
    pub(crate) fn hang_up(mut self) {
        // It may have been hung up on already.
        let _ = self.stream.shutdown(Shutdown::Write);
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => break,
                Err(error) if is_end(&error) => break,
                Err(error) => panic!("the target neither answers nor hangs up: {error}"),
            }
        }
        self.vanish();
    }
}

/// Whether the other side has closed the connection, however it did.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}
