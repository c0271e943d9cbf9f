//! What changes in a node that runs: what a reload asks for, and drives that leave by themselves.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use oriel_engine::reactor::stop_requested;
use oriel_engine::store::Departed;

use super::devices::{Devices, DevicesError, Plan, Tools};
use super::notify::Listener;
use super::reload::{Desk, Request};
use crate::config::Config;
use crate::observe::Record;
use crate::{Hosts, HostsError, Node};

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
                        hosts,
                        reply,
                    } = *request;
                    let changed = Box::pin(self.change(&config, &hosts)).await;
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
        tracing::info!("{said}");
        self.record.gave_back(departed.drive.to_string());
        if let Some(listener) = Listener::of_env() {
            listener.tell(&format!("STATUS={said}"));
        }
    }

    /// All of it, or nothing where that can be: what is refused is found before anything is done, as far as it can be known.
    async fn change(
        &mut self,
        config: &Config,
        hosts: &[(String, Hosts)],
    ) -> Result<Outcome, ChangeError> {
        let mut plan = self.devices.plan(self.tools, config).await?;
        let mut outcome = Outcome::default();
        let changed = self.carry_out(&mut plan, hosts, &mut outcome).await;
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
        plan: &mut Plan,
        hosts: &[(String, Hosts)],
        Outcome { done, notes }: &mut Outcome,
    ) -> Result<(), ChangeError> {
        notes.append(&mut plan.notes);
        let voters = self.tools.store.stat().await.voters;
        if voters.here * 2 <= voters.all {
            // Too few drives take no other change before.
            self.devices.forget(self.tools, plan, done).await?;
        }
        self.devices.add(self.tools, plan, done).await?;
        if !hosts.is_empty() {
            let subsystems = self.tools.subsystems;
            notes.extend(self.node.change_hosts(subsystems, hosts).await?);
        }
        self.devices.forget(self.tools, plan, done).await?;
        self.devices.drain(self.tools, plan, done).await?;
        Ok(())
    }
}
