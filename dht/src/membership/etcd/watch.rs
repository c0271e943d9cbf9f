//! Following what changes.

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};

use super::view::View;
use super::{Cluster, EtcdError, pause};

/// The state of a cluster, kept up to date. Nothing is missed between one [`next`](Watcher::next) and the following one,
/// however long that takes and whatever happens to the connection.
pub struct Watcher {
    cluster: Cluster,
    view: View,
    stream: Option<WatchStream>,
    failures: u32,
    reopened: u64,
    resyncs: u64,
}

/// What one message of etcd means for the view.
enum Step {
    Changed,
    Nothing,
    /// The stream is of no more use.
    Reopen,
    /// What came after the view is gone from etcd's history.
    Compacted,
}

impl Cluster {
    /// Begins to follow changes, from the state of now on.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or a record cannot be read.
    pub async fn watch(&self) -> Result<Watcher, EtcdError> {
        Ok(Watcher {
            cluster: self.clone(),
            view: self.view().await?,
            stream: None,
            failures: 0,
            reopened: 0,
            resyncs: 0,
        })
    }
}

impl Watcher {
    /// The state last seen.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// How often the stream was opened again after it was lost.
    pub fn reopened(&self) -> u64 {
        self.reopened
    }

    /// How often everything was read again because history was gone.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// Waits for a change and returns the state after it. While etcd cannot be reached it goes on trying; who does not
    /// want to wait drops the future, which loses nothing.
    ///
    /// # Errors
    ///
    /// A record that cannot be read; the next call goes on behind it.
    pub async fn next(&mut self) -> Result<&View, EtcdError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await;
                continue;
            };
            let step = match stream.message().await {
                Ok(Some(message)) => {
                    self.failures = 0;
                    self.take(&message)?
                }
                Ok(None) | Err(_) => Step::Reopen,
            };
            match step {
                Step::Changed => return Ok(&self.view),
                Step::Nothing => {}
                Step::Reopen => {
                    self.stream = None;
                    self.reopened += 1;
                }
                Step::Compacted => {
                    self.stream = None;
                    if self.resync().await? {
                        return Ok(&self.view);
                    }
                }
            }
        }
    }

    /// One try to open a stream behind the view.
    async fn open(&mut self) {
        if self.failures > 0 {
            tokio::time::sleep(pause(self.failures)).await;
        }
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(self.view.revision + 1)
            .with_progress_notify();
        let prefix = self.cluster.keys.prefix().to_owned();
        let mut client: Client = self.cluster.client.clone();
        let opening = client.watch(prefix, Some(options));
        match self.cluster.within(opening).await {
            Ok(stream) => self.stream = Some(stream),
            Err(_) => self.failures = self.failures.saturating_add(1),
        }
    }

    fn take(&mut self, message: &WatchResponse) -> Result<Step, EtcdError> {
        if message.canceled() {
            self.failures = self.failures.saturating_add(1);
            let compacted = message.compact_revision() > self.view.revision;
            return Ok(if compacted {
                Step::Compacted
            } else {
                Step::Reopen
            });
        }
        // The answer to the request itself speaks of a revision whose events may be still to come.
        if message.created() {
            return Ok(Step::Nothing);
        }
        let mut result = Ok(());
        for event in message.events() {
            let Some(pair) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => {
                    let keys = &self.cluster.keys;
                    let put = self
                        .view
                        .put(keys, pair.key(), pair.value(), pair.mod_revision());
                    result = result.and(put);
                }
                EventType::Delete => self.view.remove(&self.cluster.keys, pair.key()),
            }
        }
        if let Some(header) = message.header() {
            self.view.revision = self.view.revision.max(header.revision());
        }
        result?;
        Ok(if message.events().is_empty() {
            Step::Nothing
        } else {
            Step::Changed
        })
    }

    /// Reads everything again. Whether anything is different.
    async fn resync(&mut self) -> Result<bool, EtcdError> {
        let view = match self.cluster.view().await {
            Ok(view) => view,
            // The stream is opened again, and says again that it is compacted.
            Err(error) if error.may_pass() => return Ok(false),
            Err(error) => return Err(error),
        };
        self.resyncs += 1;
        self.failures = 0;
        let changed = !view.same_content(&self.view);
        self.view = view;
        Ok(changed)
    }
}
