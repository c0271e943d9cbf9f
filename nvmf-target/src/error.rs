//! Why a node does not start or stop.

use oriel_engine::reactor::CoreId;
use oriel_engine::store::{NodeError, RealmId};
use oriel_spdk::device::{RegisterError, UnregisterError};
use oriel_spdk::keyring::KeyringError;
use oriel_spdk::nvmf::{
    CreateSubsystemError, HostError, ListenError, NamespaceError, NqnError, PollGroupError,
    ShutDownError, StateError, TargetError, TransportError,
};

/// Why a node did not start. What had been started is ended again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A name that is no part of another one.
    #[error(
        "'{word}' is no name of a node or a realm: use letters, digits, hyphens, dots and underscores"
    )]
    Word {
        /// The name.
        word: String,
    },
    /// Names that are too long together.
    #[error("realm '{realm}' of node '{node}' cannot be named in NVMe's way: {source}")]
    Name {
        /// The node.
        node: String,
        /// The realm.
        realm: String,
        /// Why not.
        source: NqnError,
    },
    /// Two of the same name or number.
    #[error("the realm '{realm}' is there twice, by its name or its number: give each its own")]
    Twice {
        /// The realm.
        realm: String,
    },
    /// A realm that the store was not opened with.
    #[error("the store was not opened with {realm}: open it with all realms that are to be served")]
    UnknownRealm {
        /// The realm.
        realm: RealmId,
    },
    /// A store of an earlier version.
    #[error(
        "the store has blobs of {realm} in the first blocks of its log, which a namespace reads as zeros: it was filled by an earlier version; copy its blobs into a new store"
    )]
    QuietBlobs {
        /// The realm.
        realm: RealmId,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] NodeError),
    /// A device for a realm.
    #[error(transparent)]
    Device(#[from] RegisterError),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A transport.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A subsystem.
    #[error(transparent)]
    Subsystem(#[from] CreateSubsystemError),
    /// A subsystem did not start.
    #[error(transparent)]
    State(#[from] StateError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A secret of a host.
    #[error(transparent)]
    Key(#[from] KeyringError),
    /// A core serves nobody.
    #[error("core {core} does not serve the target: {source}")]
    PollGroup {
        /// The core.
        core: CoreId,
        /// Why not.
        source: PollGroupError,
    },
    /// A task was not begun.
    #[error("this core has as many tasks as it may: start the node before other work")]
    Tasks,
    /// A core has stopped.
    #[error("core {core} has stopped: restart the program")]
    Core {
        /// The core.
        core: CoreId,
    },
}

/// Why a node did not stop in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// The target.
    #[error(transparent)]
    Target(#[from] ShutDownError),
    /// A realm's device.
    #[error(transparent)]
    Device(#[from] UnregisterError),
}
