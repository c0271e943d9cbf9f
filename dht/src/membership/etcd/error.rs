//! What can go wrong between a node and etcd.

use std::time::Duration;

use super::super::record::RecordError;
use crate::ring::{Epoch, Name};

/// Why etcd could not be asked, or was not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// It answered by an error, or the way to it did.
    #[error("etcd: {0}; see that its members run and that the endpoints are right")]
    Request(#[from] etcd_client::Error),
    /// It did not answer.
    #[error("etcd did not answer within {} ms: see that most of its members run and can be reached", waited.as_millis())]
    NoAnswer {
        /// For how long.
        waited: Duration,
    },
    /// A record is not what a node writes.
    #[error("the record {key} is no node's: {source}; correct or delete it")]
    Json {
        /// Its key.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A record cannot be a member.
    #[error("the record {key} is no node's: {source}; correct or delete it")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong.
        source: RecordError,
    },
    /// A record cannot be written as JSON.
    #[error("a record cannot be written as JSON: {0}")]
    Encode(#[source] serde_json::Error),
}

impl EtcdError {
    /// Whether another try may do better: it is not a matter of what was asked.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => true,
            Self::Request(error) => !matches!(
                error,
                etcd_client::Error::InvalidArgs(_)
                    | etcd_client::Error::InvalidUri(_)
                    | etcd_client::Error::EndpointError(_)
                    | etcd_client::Error::InvalidMetadataValue(_)
            ),
            _ => false,
        }
    }
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Another was faster.
    #[error(
        "{key} has changed meanwhile (seen at revision {seen:?}, now at {found:?}): look again and decide anew"
    )]
    Changed {
        /// The key.
        key: String,
        /// The revision that the change was made from; nothing: there was no such key.
        seen: Option<i64>,
        /// The revision that it has; nothing: there is no such key.
        found: Option<i64>,
    },
    /// There is no record of this node.
    #[error("there is no node {name}: declare it first")]
    NoSuchNode {
        /// The name.
        name: Name,
    },
    /// Epochs only grow.
    #[error("epoch {found} does not follow epoch {before}: build upon the ring in force")]
    NotLater {
        /// The epoch in force.
        before: Epoch,
        /// The epoch to be published.
        found: Epoch,
    },
    /// etcd does not answer. The change may have been made.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}
