//! Puts by parts that hosts have under way.
//!
//! A node does not see which host sends a command, nor that one is gone. So a put lasts as long as commands for it come; after
//! a while without any it is given up, and the store takes back what it has stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oriel_engine::clock::{Clock, Moment};
use oriel_engine::reactor::{JoinHandle, NoTaskSlot, sleep, spawn_local};
use oriel_engine::store::{PartsPut, RealmId, SpdkDrive};
use oriel_protocol::{PutId, Status};

use crate::limits::PUTS_MAX;

/// How often puts are looked through in the time that they last.
const LOOKS: u32 = 4;

type Put = PartsPut<SpdkDrive>;

struct Open {
    put: Arc<Put>,
    deadline: Moment,
}

/// Those of all realms, on all cores.
pub(crate) struct Puts {
    open: Mutex<HashMap<(RealmId, PutId), Open>>,
    time: Duration,
}

impl Puts {
    /// Each lasts so long without a command.
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            open: Mutex::default(),
            time,
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<(RealmId, PutId), Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long each lasts without a command.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// Takes in one that has begun. Where the realm has as many as it may it is given up.
    pub(crate) fn add(&self, realm: RealmId, put: Put, now: Moment) -> Result<PutId, Status> {
        let mut open = self.open();
        if open.keys().filter(|(of, _)| *of == realm).count() >= PUTS_MAX {
            return Err(Status::Busy);
        }
        let id = PutId(put.number());
        let deadline = now + self.time;
        let put = Arc::new(put);
        open.insert((realm, id), Open { put, deadline });
        Ok(id)
    }

    /// One that a command is for.
    pub(crate) fn of(&self, realm: RealmId, id: PutId, now: Moment) -> Result<Arc<Put>, Status> {
        let mut open = self.open();
        let open = open.get_mut(&(realm, id)).ok_or(Status::NoSuchPut)?;
        open.deadline = now + self.time;
        Ok(open.put.clone())
    }

    /// Forgets one that is over.
    pub(crate) fn forget(&self, realm: RealmId, id: PutId) {
        self.open().remove(&(realm, id));
    }

    /// Gives up those that nothing was heard of for too long. What is under way for one of them ends first.
    fn expire(&self, now: Moment) {
        let over: Vec<_> = {
            let mut open = self.open();
            open.extract_if(|_, put| put.deadline <= now).collect()
        };
        for ((realm, put), _) in over {
            tracing::info!(%realm, put = put.0, "a put by parts is given up: nothing was heard of it for too long");
        }
    }
}

/// Gives up what has to be, for as long as there are puts.
pub(crate) fn watch(
    puts: &Arc<Puts>,
    clock: &Clock,
) -> Result<JoinHandle<()>, NoTaskSlot<impl Future<Output = ()> + use<>>> {
    let (puts, clock) = (Arc::downgrade(puts), clock.clone());
    spawn_local("give up puts by parts", async move {
        while let Some(now) = puts.upgrade() {
            now.expire(clock.now());
            let pause = now.time / LOOKS;
            drop(now);
            sleep(pause).await;
        }
    })
}
