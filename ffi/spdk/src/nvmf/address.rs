//! Where a target listens.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use oriel_spdk_sys as sys;
use thiserror::Error;

use super::transport::TransportKind;

/// A transport and the address and port to listen at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Address {
    /// How.
    pub transport: TransportKind,
    /// Where. Hosts are matched against the exact address, so it must be one of this machine's own.
    pub socket: SocketAddr,
}

/// Why an address was not listened at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// No such transport.
    #[error("{address} needs the {} transport: add it to the target first", address.transport)]
    NoTransport {
        /// The address.
        address: Address,
    },
    /// Port 0.
    #[error("a port must be given to listen at {address}: 4420 is the usual one")]
    NoPort {
        /// The address.
        address: Address,
    },
    /// `0.0.0.0` or `::`.
    #[error(
        "{address} stands for every address, and hosts are matched against the exact one: name an address of this machine"
    )]
    Wildcard {
        /// The address.
        address: Address,
    },
    /// Twice in one subsystem.
    #[error("the subsystem already listens at {address}")]
    Already {
        /// The address.
        address: Address,
    },
    /// Somebody has the port.
    #[error(
        "{address} is in use by another program: stop that one (ss -ltnp shows it), or use another port"
    )]
    InUse {
        /// The address.
        address: Address,
    },
    /// Not an address of this machine.
    #[error("{address} is no address of this machine: ip address lists them")]
    NotLocal {
        /// The address.
        address: Address,
    },
    /// A port that only root may take.
    #[error(
        "this user may not listen at {address}: use a port from 1024 on, or give the program CAP_NET_BIND_SERVICE"
    )]
    Forbidden {
        /// The address.
        address: Address,
    },
    /// The address cannot be used at all.
    #[error("{address} cannot be listened at")]
    Unusable {
        /// The address.
        address: Address,
        /// The system's reason.
        source: io::Error,
    },
    /// SPDK refused for another reason.
    #[error("{address} could not be listened at ({}): SPDK's log says more", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The address.
        address: Address,
        /// The positive errno.
        errno: i32,
    },
}

/// A listener could not be removed.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnlistenError {
    /// There is none.
    #[error("the subsystem does not listen at {address}")]
    NotListening {
        /// The address.
        address: Address,
    },
    /// SPDK refused.
    #[error("listening at {address} could not be ended ({})", io::Error::from_raw_os_error(*errno))]
    Failed {
        /// The address.
        address: Address,
        /// The positive errno.
        errno: i32,
    },
}

impl Address {
    /// An NVMe/TCP address.
    pub fn tcp(socket: SocketAddr) -> Self {
        Self {
            transport: TransportKind::Tcp,
            socket,
        }
    }

    /// An NVMe/RDMA address.
    pub fn rdma(socket: SocketAddr) -> Self {
        Self {
            transport: TransportKind::Rdma,
            socket,
        }
    }

    /// Says what is wrong with the address while there is nobody of ours at it. SPDK's own answer
    /// is a number that differs from release to release.
    pub(crate) fn check(self) -> Result<(), ListenError> {
        let address = self;
        if self.socket.port() == 0 {
            return Err(ListenError::NoPort { address });
        }
        if self.socket.ip().is_unspecified() {
            return Err(ListenError::Wildcard { address });
        }
        let tried = match self.transport {
            TransportKind::Tcp => TcpListener::bind(self.socket).map(drop),
            // RDMA has port numbers of its own; that the address is ours is all that can be tried.
            TransportKind::Rdma => UdpSocket::bind((self.socket.ip(), 0)).map(drop),
        };
        tried.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            io::ErrorKind::AddrNotAvailable => ListenError::NotLocal { address },
            io::ErrorKind::PermissionDenied => ListenError::Forbidden { address },
            _ => ListenError::Unusable { address, source },
        })
    }

    /// What SPDK said although [`Self::check`] found nothing.
    pub(crate) fn refused(self, rc: i32) -> ListenError {
        let address = self;
        match rc.abs() {
            libc::EADDRINUSE => ListenError::InUse { address },
            libc::EADDRNOTAVAIL => ListenError::NotLocal { address },
            errno => ListenError::Failed { address, errno },
        }
    }

    pub(crate) fn to_c(self) -> AddressText {
        let text = |text: String| CString::new(text).expect("numbers and dots contain no NUL");
        AddressText {
            transport: self.transport.c_name(),
            host: text(self.socket.ip().to_string()),
            port: text(self.socket.port().to_string()),
            ipv6: self.socket.is_ipv6(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            TransportKind::Tcp => "tcp",
            TransportKind::Rdma => "rdma",
        };
        write!(f, "{scheme}://{}", self.socket)
    }
}

/// An address as C takes it; the pointers live as long as this.
pub(crate) struct AddressText {
    transport: &'static CStr,
    host: CString,
    port: CString,
    ipv6: bool,
}

impl AddressText {
    pub(crate) fn raw(&self) -> sys::oriel_nvmf_address {
        sys::oriel_nvmf_address {
            transport: self.transport.as_ptr(),
            host: self.host.as_ptr(),
            port: self.port.as_ptr(),
            ipv6: self.ipv6,
        }
    }
}
