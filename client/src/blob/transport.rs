//! What carries the blob protocol: one realm's namespace on one node.

use oriel_protocol::{Command, Position, Status};

use crate::error::CommandError;
use crate::memory::Memory;
use crate::namespace::{Again, Namespace};
use crate::nvme::Completion;

/// Why a command of a transport failed, as far as the blob client has to know.
pub trait Failure: std::error::Error + Send + Sync + 'static {
    /// The node's status, if the command came to its end there and that is one of the protocol's.
    fn status(&self) -> Option<Status>;

    /// Dword 0 of its completion.
    fn result(&self) -> u32;
}

/// Moves commands and data. Each command may be under way beside others.
pub trait Transport {
    /// How its commands fail.
    type Failure: Failure;

    /// Fills memory with whole blocks from a position on.
    fn read<M: Memory>(
        &self,
        from: Position,
        memory: M,
    ) -> impl Future<Output = (M, Result<(), Self::Failure>)> + Send;

    /// Writes whole blocks into a reserved window. It may be done twice.
    fn write<M: Memory>(
        &self,
        to: Position,
        memory: M,
    ) -> impl Future<Output = (M, Result<(), Self::Failure>)> + Send;

    /// Does a command with its data, or room for its answer; gives dword 0 of the completion.
    fn command<M: Memory>(
        &self,
        command: &Command,
        memory: M,
    ) -> impl Future<Output = (M, Result<u32, Self::Failure>)> + Send;
}

impl Failure for CommandError {
    fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => status.of_blobs(),
            _ => None,
        }
    }

    fn result(&self) -> u32 {
        match self {
            Self::Status { result, .. } => *result,
            _ => 0,
        }
    }
}

impl Transport for Namespace {
    type Failure = CommandError;

    async fn read<M: Memory>(&self, from: Position, memory: M) -> (M, Result<(), CommandError>) {
        let (memory, result) = Namespace::read(self, from.0, memory).await;
        (memory, result.map(drop))
    }

    async fn write<M: Memory>(&self, to: Position, memory: M) -> (M, Result<(), CommandError>) {
        // Nobody else writes into a window that this host has reserved.
        let namespace = self.clone().writing(Again::Harmless);
        let (memory, result) = namespace.write(to.0, memory).await;
        (memory, result.map(drop))
    }

    async fn command<M: Memory>(
        &self,
        command: &Command,
        memory: M,
    ) -> (M, Result<u32, CommandError>) {
        let (memory, result) = self.vendor(command, memory).await;
        (
            memory,
            result.map(|completion: Completion| completion.dword()),
        )
    }
}
