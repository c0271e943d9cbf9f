//! A connection's state machine on a socket.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg, socket_with,
    sockopt,
};

use crate::connection::{
    Buffers, Connection, ConnectionError, ConnectionOptions, Received, Transmitted,
};
use crate::limits::{DIAL_STEP, PARTING_TIME};

pub(crate) struct Link {
    stream: TcpStream,
    pub(crate) connection: Connection,
}

/// A wait that a poll takes.
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// Waits for one descriptor; whether it is ready.
fn ready(fd: BorrowedFd<'_>, events: PollFlags, time: Duration) -> io::Result<bool> {
    match poll(
        &mut [PollFd::from_borrowed_fd(fd, events)],
        Some(&timespec(time)),
    ) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Connects without blocking longer than a step at a time, so that it can be given up.
fn dial(
    address: SocketAddr,
    within: Duration,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS | Errno::INTR) => {
            let until = Instant::now() + within;
            loop {
                if !goes_on() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if ready(socket.as_fd(), PollFlags::OUT, left.min(DIAL_STEP))? {
                    break;
                }
            }
            sockopt::socket_error(&socket)??;
        }
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Link {
    pub(crate) fn dial(
        address: SocketAddr,
        within: Duration,
        options: ConnectionOptions,
        goes_on: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let stream = dial(address, within, goes_on)?;
        Ok(Self {
            stream,
            connection: Connection::new(options),
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What a poll has to wait for.
    pub(crate) fn interest(&self) -> PollFlags {
        match self.connection.has_output() {
            true => PollFlags::IN | PollFlags::OUT,
            false => PollFlags::IN,
        }
    }

    pub(crate) fn transmit(
        &mut self,
        buffers: &dyn Buffers,
    ) -> Result<Transmitted, ConnectionError> {
        let stream = &self.stream;
        self.connection
            .transmit(buffers, &mut |slices: &[IoSlice<'_>]| {
                // A closed connection is an error and not a signal.
                let mut nothing = SendAncillaryBuffer::default();
                Ok(sendmsg(stream, slices, &mut nothing, SendFlags::NOSIGNAL)?)
            })
    }

    pub(crate) fn receive(
        &mut self,
        buffers: &mut dyn Buffers,
    ) -> Result<Received, ConnectionError> {
        let mut stream = &self.stream;
        let mut read = |slices: &mut [IoSliceMut<'_>]| stream.read_vectored(slices);
        self.connection.receive(buffers, &mut read)
    }

    /// Sends, receives, and waits for a while if neither did anything.
    pub(crate) fn turn(
        &mut self,
        buffers: &mut dyn Buffers,
        time: Duration,
    ) -> Result<(), ConnectionError> {
        self.transmit(buffers)?;
        let network = |error: io::Error| ConnectionError::Network { kind: error.kind() };
        if ready(self.stream.as_fd(), self.interest(), time).map_err(network)? {
            self.receive(buffers)?;
        }
        Ok(())
    }

    /// Tells the other side why, if that can be done soon, and ends.
    pub(crate) fn part(mut self, error: &ConnectionError) {
        self.connection.part(error);
        let until = Instant::now() + PARTING_TIME;
        while let Ok(Transmitted::Blocked) = self.transmit(&NoBuffers) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !ready(self.fd(), PollFlags::OUT, left).unwrap_or(false) {
                return;
            }
        }
    }
}

/// For connections on which no command with data is under way.
pub(crate) struct NoBuffers;

impl Buffers for NoBuffers {
    fn bytes(&self, _: u64) -> Option<&[u8]> {
        None
    }

    fn bytes_mut(&mut self, _: u64) -> Option<&mut [u8]> {
        None
    }
}
