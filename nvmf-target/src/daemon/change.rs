//! What changes in a node that runs: what a reload asks for, and drives that leave by themselves.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use oriel_engine::reactor::stop_requested;
use oriel_engine::store::Departed;

use super::devices::{Devices, DevicesError, Plan, Tools};
use super::notify::Listener;
use super::reload::{Desk, Request};
use crate::config::{Changes, Config};
use crate::observe::Record;
use crate::{Hosts, HostsError, Node, Realm, StartError};

/// What a change has done.
#[derive(Default)]
pub(super) struct Outcome {
    /// What is otherwise than before, the hosts of realms left out.
    pub(super) done: Vec<String>,
    /// What stays in spite of it.
    pub(super) notes: Vec<String>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error(transparent)]
    Devices(#[from] DevicesError),
    #[error("the realm '{realm}' cannot be added: {source}")]
    Realm {
        realm: String,
        source: Box<StartError>,
    },
    #[error(transparent)]
    Store(Box<oriel_engine::store::ChangeError>),
    /// Something cannot be undone that was done before.
    #[error("{source}; before that, {}, which stays so", done.join("; "))]
    Partly {
        done: Vec<String>,
        source: Box<ChangeError>,
    },
}

/// A node that takes changes, on the main core.
pub(super) struct Changing<'a> {
    pub(super) tools: Tools<'a>,
    pub(super) node: &'a mut Node,
    pub(super) devices: &'a mut Devices,
    pub(super) record: &'a Record,
}

enum Next {
    Stop,
    Asked(Box<Request>),
    Left(Departed),
}

impl Changing<'_> {
    /// Makes the changes that come to the desk, and gives drives back that have left, until the program is to stop.
    pub(super) async fn until_stop(&mut self, desk: &Desk) {
        let mut stop = pin!(stop_requested());
        loop {
            let (mut asked, mut left) = (pin!(desk.next()), pin!(self.tools.store.departed()));
            let next = poll_fn(|cx| {
                if stop.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Next::Stop);
                }
                if let Poll::Ready(request) = asked.as_mut().poll(cx) {
                    return Poll::Ready(Next::Asked(Box::new(request)));
                }
                left.as_mut().poll(cx).map(Next::Left)
            });
            match next.await {
                Next::Stop => return,
                Next::Asked(request) => {
                    let Request {
                        config,
                        changes,
                        reply,
                    } = *request;
                    let changed = Box::pin(self.change(&config, &changes)).await;
                    // Nobody waits for it any more where the program ends.
                    let _ = reply.try_send(changed);
                }
                Next::Left(departed) => self.gives_back(&departed).await,
            }
        }
    }

    async fn gives_back(&mut self, departed: &Departed) {
        let subsystems = self.tools.subsystems;
        let said = self.devices.departed(subsystems, departed).await;
        self.devices.indexes.tidy(self.tools.store).await;
        tracing::info!("{said}");
        self.record.gave_back(departed.drive.to_string());
        if let Some(listener) = Listener::of_env() {
            listener.tell(&format!("STATUS={said}"));
        }
    }

    /// All of it, or nothing where that can be: what is refused is found before anything is done, as far as it can be known.
    async fn change(&mut self, config: &Config, changes: &Changes) -> Result<Outcome, ChangeError> {
        let mut plan = self.devices.plan(self.tools, config).await?;
        let mut outcome = Outcome::default();
        let changed = self.carry_out(config, changes, &mut plan, &mut outcome);
        let changed = Box::pin(changed).await;
        self.devices.drop_plan(self.tools, plan).await;
        let Outcome { done, .. } = &mut outcome;
        match changed {
            Ok(()) => Ok(outcome),
            Err(error) if done.is_empty() => Err(error),
            Err(error) => Err(ChangeError::Partly {
                done: std::mem::take(done),
                source: Box::new(error),
            }),
        }
    }

    async fn carry_out(
        &mut self,
        config: &Config,
        changes: &Changes,
        plan: &mut Plan,
        Outcome { done, notes }: &mut Outcome,
    ) -> Result<(), ChangeError> {
        notes.append(&mut plan.notes);
        let voters = self.tools.store.stat().await.voters;
        if voters.here * 2 <= voters.all {
            // Too few drives take no other change before.
            self.devices.forget(self.tools, plan, done).await?;
        }
        self.devices.add(self.tools, plan, done).await?;
        // Some may have been added by a change that stopped half-way.
        let is_there = |realm: &&Realm| self.node.has_realm(&realm.name);
        let (there, new): (Vec<&Realm>, Vec<&Realm>) = changes.new.iter().partition(is_there);
        let there = there.into_iter();
        let there = there.map(|realm| (realm.name.clone(), realm.hosts.clone()));
        let hosts: Vec<(String, Hosts)> = changes.hosts.iter().cloned().chain(there).collect();
        if !hosts.is_empty() {
            let subsystems = self.tools.subsystems;
            notes.extend(self.node.change_hosts(subsystems, &hosts).await?);
        }
        self.add_realms(&new, done).await?;
        if !changes.limits.is_empty() || !changes.new.is_empty() {
            self.set_realms(config.realms.iter()).await?;
            let said = |(realm, key): &(String, _)| format!("other {key} of the realm '{realm}'");
            done.extend(changes.limits.iter().map(said));
        }
        self.record.serves(config.realms.clone());
        self.devices.forget(self.tools, plan, done).await?;
        self.devices.drain(self.tools, plan, done).await?;
        Ok(())
    }

    /// Has the store know new realms, and serves them.
    async fn add_realms(
        &mut self,
        new: &[&Realm],
        done: &mut Vec<String>,
    ) -> Result<(), ChangeError> {
        if new.is_empty() {
            return Ok(());
        }
        self.set_realms(new.iter().copied()).await?;
        for realm in new {
            let name = &realm.name;
            let added = self.node.add_realm(self.tools.subsystems, realm).await;
            added.map_err(|source| ChangeError::Realm {
                realm: name.clone(),
                source: Box::new(source),
            })?;
            tracing::info!(realm = name, "a realm is added");
            done.push(format!("the realm '{name}' is added"));
        }
        Ok(())
    }

    /// Has the store take these options for realms; those of all others stay.
    async fn set_realms(&self, wanted: impl Iterator<Item = &Realm>) -> Result<(), ChangeError> {
        let mut all = self.tools.store.realms().to_vec();
        for Realm { options, .. } in wanted {
            match all.iter_mut().find(|known| known.id == options.id) {
                Some(known) => *known = options.clone(),
                None => all.push(options.clone()),
            }
        }
        let set = self.tools.store.set_realms(&all).await;
        set.map_err(|source| ChangeError::Store(Box::new(source)))
    }
}
