//! Being alive: a key under a lease, held for as long as the node runs.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Cluster, EtcdError, pause};
use crate::ring::Name;

/// Why a node cannot say that it is alive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// Another process is this node.
    #[error(
        "node {name} is alive in another process ({holder}), which renews its lease: stop that one, or choose another name"
    )]
    Taken {
        /// The name.
        name: Name,
        /// What that process calls itself.
        holder: String,
    },
    /// etcd does not answer.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// A node's lease. Dropping it stops its renewal, so that it runs out; [`leave`](Presence::leave) ends it at once.
pub struct Presence {
    cluster: Cluster,
    lease: watch::Receiver<Option<i64>>,
    task: JoinHandle<()>,
}

/// The key, and what this process writes into it.
#[derive(Clone)]
struct Claim {
    cluster: Cluster,
    key: String,
    name: Name,
    process: String,
}

impl Cluster {
    /// Says that this node is alive, and goes on saying so. `process` is a number that no other process has had, for
    /// example a random one: it tells a node that was started twice from one that comes back after a crash, whose last
    /// lease is waited for.
    ///
    /// # Errors
    ///
    /// Another process holds the name for longer than a lease lasts, or etcd does not answer.
    pub async fn announce(&self, name: &Name, process: u64) -> Result<Presence, AnnounceError> {
        let claim = Claim {
            cluster: self.clone(),
            key: self.keys.alive(name),
            name: name.clone(),
            process: format!("{process:016x}"),
        };
        // A dead process is gone after its lease, and what etcd takes to notice.
        let patience = Duration::from_secs(self.options.lease_seconds().unsigned_abs()) * 2;
        let deadline = Instant::now() + patience + Duration::from_secs(1);
        let lease = loop {
            match claim.take().await {
                Ok(lease) => break lease,
                Err(AnnounceError::Taken { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        };
        let (sender, receiver) = watch::channel(Some(lease));
        let task = tokio::spawn(claim.hold(lease, sender));
        Ok(Presence {
            cluster: self.clone(),
            lease: receiver,
            task,
        })
    }
}

impl Claim {
    /// A new lease, and the key under it.
    async fn take(&self) -> Result<i64, AnnounceError> {
        let seconds = self.cluster.options.lease_seconds();
        let grant = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let lease = self.cluster.again(grant).await?.id();
        let mine = || {
            let options = PutOptions::new().with_lease(lease);
            TxnOp::put(self.key.as_str(), self.process.as_str(), Some(options))
        };
        let free = Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0);
        let own = Compare::value(self.key.as_str(), CompareOp::Equal, self.process.as_str());
        let if_own = Txn::new()
            .when([own])
            .and_then([mine()])
            .or_else([TxnOp::get(self.key.as_str(), None)]);
        let txn = Txn::new()
            .when([free])
            .and_then([mine()])
            .or_else([TxnOp::txn(if_own)]);
        // Writing the same again does no harm.
        let put = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let response = self.cluster.again(put).await?;
        match (
            response.succeeded(),
            response.op_responses().into_iter().next(),
        ) {
            (false, Some(TxnOpResponse::Txn(inner))) if !inner.succeeded() => {
                let answers = inner.op_responses();
                let holder = answers.into_iter().find_map(|answer| match answer {
                    TxnOpResponse::Get(get) => {
                        Some(String::from_utf8_lossy(get.kvs().first()?.value()).into_owned())
                    }
                    _ => None,
                });
                // A lease that holds nothing runs out by itself.
                Err(AnnounceError::Taken {
                    name: self.name.clone(),
                    holder: holder.unwrap_or_default(),
                })
            }
            _ => Ok(lease),
        }
    }

    /// Renews the lease until the task is ended, and takes another where it was lost.
    async fn hold(self, mut lease: i64, state: watch::Sender<Option<i64>>) {
        loop {
            self.renew(lease).await;
            state.send_replace(None);
            let mut tries = 0;
            lease = loop {
                if let Ok(lease) = self.take().await {
                    break lease;
                }
                tries += 1;
                tokio::time::sleep(pause(tries)).await;
            };
            state.send_replace(Some(lease));
        }
    }

    /// Returns when the lease is gone.
    async fn renew(&self, lease: i64) {
        let whole = Duration::from_secs(self.cluster.options.lease_seconds().unsigned_abs());
        let mut renewed = Instant::now();
        // A broken stream is opened again as long as the lease may still live.
        while renewed.elapsed() < whole {
            let mut client = self.cluster.client.clone();
            let opened = tokio::time::timeout(whole / 3, client.lease_keep_alive(lease)).await;
            let (mut keeper, mut answers) = match opened {
                Ok(Ok(opened)) => opened,
                // It says that there is no such lease.
                Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => return,
                _ => {
                    tokio::time::sleep(whole / 10).await;
                    continue;
                }
            };
            loop {
                renewed = Instant::now();
                tokio::time::sleep(whole / 3).await;
                let renewing = async {
                    keeper.keep_alive().await.ok()?;
                    answers.message().await.ok()?
                };
                match tokio::time::timeout(whole / 3, renewing).await {
                    Ok(Some(answer)) if answer.ttl() > 0 => {}
                    Ok(Some(_)) => return,
                    _ => break,
                }
            }
        }
    }
}

impl Presence {
    /// Whether the lease is held, as far as this process knows.
    pub fn is_held(&self) -> bool {
        self.lease.borrow().is_some()
    }

    /// Waits until the lease is lost or taken anew.
    pub async fn changed(&mut self) {
        // An error means that the task has ended, and with it all changes.
        let _ = self.lease.changed().await;
    }

    /// Ends the lease, so that others know at once.
    ///
    /// # Errors
    ///
    /// etcd does not answer; the lease then runs out.
    pub async fn leave(self) -> Result<(), EtcdError> {
        self.task.abort();
        let lease = *self.lease.borrow();
        if let Some(lease) = lease {
            let revoke = |mut client: Client| async move { client.lease_revoke(lease).await };
            self.cluster.again(revoke).await?;
        }
        Ok(())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.task.abort();
    }
}
