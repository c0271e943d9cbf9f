//! What carries blobs: this program's own initiator, or the kernel's.

use oriel_client::blob::{Failure, Transport};
use oriel_client::{CommandError, KernelError, KernelNamespace, Memory, Namespace};
use oriel_protocol::{Command, Position, Status};

/// A realm's namespace.
#[derive(Clone)]
pub(crate) enum Link {
    Tcp(Namespace),
    Kernel(KernelNamespace),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Tcp(#[from] CommandError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl Link {
    /// Ends the connection in order. The kernel's own stays.
    pub(crate) fn close(self) {
        match self {
            Self::Tcp(namespace) => namespace.controller().clone().close(),
            Self::Kernel(namespace) => namespace.close(),
        }
    }
}

impl Failure for LinkError {
    fn status(&self) -> Option<Status> {
        match self {
            Self::Tcp(error) => error.status(),
            Self::Kernel(error) => error.status(),
        }
    }

    fn result(&self) -> u32 {
        match self {
            Self::Tcp(error) => error.result(),
            Self::Kernel(error) => error.result(),
        }
    }
}

/// Does the same by either.
macro_rules! by_either {
    ($link:expr, $do:ident($($argument:expr),*)) => {
        match $link {
            Link::Tcp(namespace) => {
                let (memory, result) = Transport::$do(namespace, $($argument),*).await;
                (memory, result.map_err(LinkError::from))
            }
            Link::Kernel(namespace) => {
                let (memory, result) = Transport::$do(namespace, $($argument),*).await;
                (memory, result.map_err(LinkError::from))
            }
        }
    };
}

impl Transport for Link {
    type Failure = LinkError;

    async fn read<M: Memory>(&self, from: Position, memory: M) -> (M, Result<(), LinkError>) {
        by_either!(self, read(from, memory))
    }

    async fn write<M: Memory>(&self, to: Position, memory: M) -> (M, Result<(), LinkError>) {
        by_either!(self, write(to, memory))
    }

    async fn command<M: Memory>(
        &self,
        command: &Command,
        memory: M,
    ) -> (M, Result<u32, LinkError>) {
        by_either!(self, command(command, memory))
    }
}
