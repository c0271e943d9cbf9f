//! Membership in etcd.
//!
//! ```text
//!  /oriel/CLUSTER/nodes/NAME   the record of a node: weight, domains, state, addresses (JSON)   stays until removed
//!  /oriel/CLUSTER/alive/NAME   the number of the process that is the node now (16 hex digits)   under a lease
//!  /oriel/CLUSTER/epoch        the ring in force: epoch, checksum of its bytes, who built it    compare and swap
//! ```
//!
//! - **Records change by compare and swap** on the revision that the writer has
//!   seen ([`Cluster::declare`]), and so does the epoch ([`Cluster::publish`]):
//!   of two nodes that build a ring at the same time one wins, and the other is
//!   told what it has to build upon. The table itself is larger than etcd wants
//!   a value to be; it travels by the MAP command, and its checksum here tells
//!   whether it is the one.
//! - **A node is alive** as long as its lease is ([`Cluster::announce`]). The
//!   lease is renewed at a third of its time, and taken anew when it was lost.
//!   Being alive is not being up: nobody's shards move because a lease ran
//!   out. Who declares a node down, and when, is decided elsewhere.
//! - **Watching** ([`Cluster::watch`]) goes on after a broken connection from
//!   the revision after the last one seen, at any member that answers. Where
//!   etcd has compacted that revision away, all keys are read again.
//!
//! A request whose answer is lost may have been carried out. Writes therefore
//! look at what is there before they report a failure.

mod error;
mod presence;
mod view;
mod watch;

pub use error::{ChangeError, EtcdError};
pub use presence::{AnnounceError, Presence};
pub use view::{Declared, Published, View};
pub use watch::Watcher;

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, Txn, TxnOp, TxnOpResponse,
};

use super::record::Record;
use crate::ring::{Epoch, Member, Name, State};
use view::Keys;

/// Where etcd is, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members of etcd: `http://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// The name of the cluster, which all its keys begin with.
    pub cluster: Name,
    /// For how long a node counts as alive after it was heard of last. Whole seconds, at least one.
    pub lease: Duration,
    /// How long one request may take.
    pub request: Duration,
    /// How often a request that changes nothing is made before its error is reported.
    pub tries: u32,
}

impl Options {
    /// The usual times: a lease of ten seconds, three for a request.
    pub fn new(endpoints: Vec<String>, cluster: Name) -> Self {
        Self {
            endpoints,
            cluster,
            lease: Duration::from_secs(10),
            request: Duration::from_secs(3),
            tries: 5,
        }
    }

    fn lease_seconds(&self) -> i64 {
        i64::try_from(self.lease.as_secs())
            .unwrap_or(i64::MAX)
            .max(1)
    }
}

/// The ring in force.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochRecord {
    /// Its version.
    pub epoch: u32,
    /// The CRC32C of its bytes.
    pub checksum: u32,
    /// The node that built it, which has it in any case.
    pub builder: String,
}

impl EpochRecord {
    /// The version as a type of its own.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }
}

/// A connection to the records of one cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    options: Options,
    keys: Keys,
}

/// How long to wait before the next try: longer each time, at most this long.
const PAUSE_MAX: Duration = Duration::from_secs(1);

fn pause(tries: u32) -> Duration {
    PAUSE_MAX.min(Duration::from_millis(20) * 2u32.saturating_pow(tries.min(10)))
}

impl Cluster {
    /// Connects, and asks once whether anybody answers.
    ///
    /// # Errors
    ///
    /// No member of etcd answers in time, or an address is none.
    pub async fn connect(options: Options) -> Result<Self, EtcdError> {
        // A connection whose other end has vanished without a word is found by these.
        let alive = (options.request / 2, options.request);
        let connect = ConnectOptions::new()
            .with_connect_timeout(options.request)
            .with_keep_alive(alive.0, alive.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let client = Client::connect(&options.endpoints, Some(connect)).await?;
        let keys = Keys::new(&options.cluster);
        let cluster = Self {
            client,
            options,
            keys,
        };
        cluster.view().await?;
        Ok(cluster)
    }

    /// Makes a request that changes nothing, again where it fails.
    async fn again<T, F>(&self, mut request: impl FnMut(Client) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut tries = 0;
        loop {
            let answer = self.within(request(self.client.clone())).await;
            tries += 1;
            match answer {
                Err(error) if error.may_pass() && tries < self.options.tries => {
                    tokio::time::sleep(pause(tries)).await;
                }
                answer => return answer,
            }
        }
    }

    async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, EtcdError> {
        match tokio::time::timeout(self.options.request, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(EtcdError::NoAnswer {
                waited: self.options.request,
            }),
        }
    }

    /// Everything as it is now.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or a record cannot be read.
    pub async fn view(&self) -> Result<View, EtcdError> {
        let prefix = self.keys.prefix().to_owned();
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move {
                let options = GetOptions::new().with_prefix();
                client.get(prefix, Some(options)).await
            }
        };
        let response = self.again(get).await?;
        let revision = response.header().map_or(0, |header| header.revision());
        let mut view = View::at(revision);
        for pair in response.kvs() {
            view.put(&self.keys, pair.key(), pair.value(), pair.mod_revision())?;
        }
        Ok(view)
    }

    /// Writes a node's record, if it has not changed since: `seen` is the revision of the record that the change is made
    /// from, or nothing for a node that has none. The revision of the new record comes back.
    ///
    /// # Errors
    ///
    /// Another has changed it, or etcd does not answer.
    pub async fn declare(&self, member: &Member, seen: Option<i64>) -> Result<i64, ChangeError> {
        let key = self.keys.node(&member.name);
        let value = serde_json::to_string(&Record::of(member)).map_err(EtcdError::Encode)?;
        self.swap(key, Some(value), seen).await
    }

    /// Sets a node's state, whatever else others change in its record meanwhile.
    ///
    /// # Errors
    ///
    /// There is no such node, or etcd does not answer.
    pub async fn set_state(&self, name: &Name, state: State) -> Result<(), ChangeError> {
        loop {
            let view = self.view().await?;
            let Some(declared) = view.nodes().get(name) else {
                return Err(ChangeError::NoSuchNode { name: name.clone() });
            };
            let mut member = declared.member.clone();
            member.state = state;
            match self.declare(&member, Some(declared.revision)).await {
                Err(ChangeError::Changed { .. }) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Removes a node's record, if it has not changed since.
    ///
    /// # Errors
    ///
    /// Another has changed it, or etcd does not answer.
    pub async fn forget(&self, name: &Name, seen: i64) -> Result<(), ChangeError> {
        self.swap(self.keys.node(name), None, Some(seen))
            .await
            .map(drop)
    }

    /// Puts a ring into force, if the one that it was built upon still is: that of `seen`.
    ///
    /// # Errors
    ///
    /// Another was faster, the epoch is not a later one, or etcd does not answer.
    pub async fn publish(&self, seen: &View, record: &EpochRecord) -> Result<i64, ChangeError> {
        let before = seen.epoch();
        if let Some(before) = before.filter(|before| before.record.epoch >= record.epoch) {
            return Err(ChangeError::NotLater {
                before: before.record.epoch(),
                found: record.epoch(),
            });
        }
        let value = serde_json::to_string(record).map_err(EtcdError::Encode)?;
        let seen = before.map(|before| before.revision);
        self.swap(self.keys.epoch(), Some(value), seen).await
    }

    /// Puts or removes a key, if its revision is the one that was seen.
    async fn swap(
        &self,
        key: String,
        value: Option<String>,
        seen: Option<i64>,
    ) -> Result<i64, ChangeError> {
        let mut tries = 0;
        loop {
            let same = Compare::mod_revision(key.as_str(), CompareOp::Equal, seen.unwrap_or(0));
            let change = match &value {
                Some(value) => TxnOp::put(key.as_str(), value.as_str(), None),
                None => TxnOp::delete(key.as_str(), None),
            };
            let look = TxnOp::get(key.as_str(), None);
            let txn = Txn::new().when([same]).and_then([change]).or_else([look]);
            let mut client = self.client.clone();
            let answer = self.within(client.txn(txn)).await;
            let response = match answer {
                Ok(response) => response,
                // Whether it was carried out the next try finds out.
                Err(error) if error.may_pass() && tries < self.options.tries => {
                    tries += 1;
                    tokio::time::sleep(pause(tries)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if response.succeeded() {
                return Ok(response.header().map_or(0, |header| header.revision()));
            }
            let found = response
                .op_responses()
                .into_iter()
                .find_map(|answer| match answer {
                    TxnOpResponse::Get(get) => {
                        let pair = get.kvs().first()?;
                        Some((pair.mod_revision(), pair.value().to_vec()))
                    }
                    _ => None,
                });
            let is_ours = match (&found, &value) {
                (Some((_, found)), Some(value)) => found == value.as_bytes(),
                (None, None) => true,
                _ => false,
            };
            // Only after a try whose answer was lost can what is there be our own doing.
            if tries > 0 && is_ours {
                return Ok(found.map_or(0, |(revision, _)| revision));
            }
            return Err(ChangeError::Changed {
                key,
                seen,
                found: found.map(|(revision, _)| revision),
            });
        }
    }
}
