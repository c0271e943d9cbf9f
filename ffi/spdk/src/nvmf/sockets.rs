//! What SPDK does not do with the sockets of NVMe/TCP: it keeps a connection for as long as the kernel does, and the kernel
//! keeps one for ever whose host takes nothing, or is gone without a word. And it gives the kernel as much of one host's data in
//! one turn as the kernel takes, while the other hosts wait.
//!
//! Linux gives a connection the options of the socket that it came in by, so they are set on the listening one. SPDK has no
//! way to reach it that all releases share; it is the one of this process that listens at the address.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, socklen_t};
use oriel_spdk_sys as sys;

use crate::oneshot::yield_now;

/// Questions to a host that says nothing, before it is taken for gone.
const QUESTIONS: c_int = 3;

/// What connections are to be like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Limits {
    /// One ends once its host has taken nothing of what waits for it, or given no sign of life, for so long.
    pub(super) patience: Option<Duration>,
    /// So much is on its way at most, in bytes; the kernel allows as much again for what it adds.
    pub(super) send_buffer: Option<u32>,
}

/// Has every connection be so that comes in at this address from now on.
pub(super) fn limit(address: SocketAddr, limits: Limits) -> io::Result<()> {
    if limits == Limits::default() {
        return Ok(());
    }
    let listener = listening_at(address)?;
    if let Some(bytes) = limits.send_buffer {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        set(&listener, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)?;
    }
    limits
        .patience
        .map_or(Ok(()), |patience| limit_patience(&listener, patience))
}

fn limit_patience(listener: &TcpListener, patience: Duration) -> io::Result<()> {
    let ms = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
    // In seconds, and at least one: half of the time it may be silent, in the other it is asked.
    let idle = (ms / 2000).max(1);
    let between = (ms / 2000 / QUESTIONS).max(1);
    set(listener, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, ms)?;
    set(listener, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle)?;
    set(listener, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, between)?;
    set(listener, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, QUESTIONS)?;
    set(listener, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// Where a host is connected from.
pub(super) type Peer = (IpAddr, u16);

/// Whether the linked SPDK may keep a connection whose host is gone: from v23.05 on, where it went in the middle of a PDU.
pub fn keeps_gone() -> bool {
    // SAFETY: without any precondition.
    unsafe { sys::oriel_nvmf_keeps_gone() }
}

/// Those to whom this process is connected.
#[derive(Clone, Debug, Default)]
pub struct Peers(HashSet<Peer>);

/// Descriptors that are looked at in one go.
const AT_ONCE: usize = 64;

impl Peers {
    /// Looks who is there, with pauses for whatever else the thread does.
    pub async fn look() -> io::Result<Self> {
        let mut peers = HashSet::new();
        for (count, number) in (1_usize..).zip(open_numbers()?) {
            peers.extend(connected_to(number));
            if count.is_multiple_of(AT_ONCE) {
                yield_now().await;
            }
        }
        Ok(Self(peers))
    }

    pub(super) fn contains(&self, peer: &Peer) -> bool {
        self.0.contains(peer)
    }
}

/// To whom a descriptor is connected, as long as neither side has closed.
fn connected_to(number: RawFd) -> Option<Peer> {
    // "TCP_ESTABLISHED", the first byte of "struct tcp_info".
    const ESTABLISHED: u8 = 1;
    let ours = duplicate(number).ok()?;
    let state = get(&ours, libc::IPPROTO_TCP, libc::TCP_INFO).ok()?;
    if state.to_ne_bytes()[0] != ESTABLISHED {
        return None;
    }
    let peer = TcpStream::from(ours).peer_addr().ok()?;
    Some((peer.ip(), peer.port()))
}

/// The numbers of this process's open files.
fn open_numbers() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Another descriptor of the socket of this process that listens there.
fn listening_at(address: SocketAddr) -> io::Result<TcpListener> {
    for number in open_numbers()? {
        // It may be gone, or another file, by now: what is looked at is a descriptor of our own.
        let Ok(ours) = duplicate(number) else {
            continue;
        };
        if get(&ours, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens == 1) {
            let listener = TcpListener::from(ours);
            // Of another family or protocol, it has no such address.
            if listener.local_addr().is_ok_and(|at| at == address) {
                return Ok(listener);
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer; a number that is no descriptor is an error.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has just been made, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn get(socket: &OwnedFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: value and length are valid for the whole call, which writes no more than the length says.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &mut length,
        )
    };
    (rc == 0)
        .then_some(value)
        .ok_or_else(io::Error::last_os_error)
}

fn set(socket: &TcpListener, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: value is valid for the whole call and has the length that is given.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    (rc == 0).then_some(()).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    const LONGEST: u64 = 100_000;

    /// Sends a byte as SPDK does.
    fn send(socket: &UnixStream) -> io::Result<usize> {
        let mut byte = 7_u8;
        let mut piece = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        // SAFETY: all zeros are a message without a name, pieces and control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
        // SAFETY: the message and its piece live during the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// The same in a turn of a poll group at that time.
    fn send_at(now: u64, socket: &UnixStream) -> Result<usize, ErrorKind> {
        // SAFETY: without any precondition.
        unsafe { sys::oriel_stalls_begin(now, LONGEST) };
        let sent = send(socket);
        // SAFETY: as above.
        unsafe { sys::oriel_stalls_end() };
        sent.map_err(|error| error.kind())
    }

    fn unix_pair() -> (UnixStream, UnixStream) {
        let (ours, host) = UnixStream::pair().unwrap();
        for side in [&ours, &host] {
            side.set_nonblocking(true).unwrap();
        }
        (ours, host)
    }

    fn fill(ours: &UnixStream) {
        while (&*ours).write(&[7; 4096]).is_ok() {}
        while (&*ours).write(&[7]).is_ok() {}
    }

    fn empty(host: &UnixStream) {
        while (&*host).read(&mut [0; 1 << 16]).is_ok() {}
    }

    #[test]
    fn a_host_that_takes_nothing_is_asked_less_and_less_often() {
        let full = Err(ErrorKind::WouldBlock);
        let (ours, host) = unix_pair();
        fill(&ours);
        assert_eq!(send_at(1000, &ours), full);
        assert_eq!(send_at(1800, &ours), full);
        empty(&host);
        // It is not asked, for an eighth of those 800, in a turn, and nobody else is taken for it.
        assert_eq!(send_at(1899, &ours), full);
        assert_eq!(send(&ours).unwrap(), 1);
        assert_eq!(send_at(1899, &host), Ok(1));
        assert_eq!(send_at(1900, &ours), Ok(1));
        // It has taken something, so all begins again.
        assert_eq!(send_at(1901, &ours), Ok(1));
        fill(&ours);
        let start = 10_000;
        assert_eq!(send_at(start, &ours), full);
        let late = start + 100 * LONGEST;
        assert_eq!(send_at(late, &ours), full);
        empty(&host);
        assert_eq!(send_at(late + LONGEST - 1, &ours), full);
        assert_eq!(send_at(late + LONGEST, &ours), Ok(1));
    }

    fn pair(limits: Limits) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        limit(address, limits).unwrap();
        let host = TcpStream::connect(address).unwrap();
        (listener.accept().unwrap().0, host)
    }

    #[test]
    fn a_connection_has_the_limits_of_what_it_came_in_by() {
        let (ours, _host) = pair(Limits {
            patience: Some(Duration::from_secs(12)),
            send_buffer: Some(64 << 10),
        });
        let ours = OwnedFd::from(ours);
        let of = |level, name| get(&ours, level, name).unwrap();
        assert_eq!(of(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), 12_000);
        assert_eq!(of(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 6);
        assert_eq!(of(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL), 2);
        assert_eq!(of(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        assert_eq!(of(libc::SOL_SOCKET, libc::SO_SNDBUF), 128 << 10);
    }

    /// As long as it takes anything it stays, and no longer.
    #[test]
    fn a_host_that_takes_nothing_is_cut_off() {
        let (mut ours, mut host) = pair(Limits {
            patience: Some(Duration::from_secs(5)),
            ..Limits::default()
        });
        ours.set_nonblocking(true).unwrap();
        let mut chunk = vec![7; 1 << 20];
        for _ in 0..4 {
            while ours.write(&chunk).is_ok() {}
            std::thread::sleep(Duration::from_millis(500));
            host.read_exact(&mut chunk).unwrap();
        }
        ours.set_nonblocking(false).unwrap();
        let error = loop {
            if let Err(error) = ours.write(&chunk) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn who_has_closed_is_not_there() {
        let (ours, host) = pair(Limits::default());
        let to = ours.peer_addr().unwrap();
        let number = ours.as_raw_fd();
        assert_eq!(connected_to(number), Some((to.ip(), to.port())));
        host.shutdown(std::net::Shutdown::Write).unwrap();
        while connected_to(number).is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn nobody_listens_where_only_a_connection_is() {
        let (ours, host) = pair(Limits::default());
        for address in [ours.local_addr(), host.local_addr()] {
            let limits = Limits {
                send_buffer: Some(1 << 20),
                ..Limits::default()
            };
            let error = limit(address.unwrap(), limits).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
