//! What happens to the drives of a simulated node while it is used.

use oriel_engine::store::{ChangeError, NodeError, NodeOpenError, OpenError};

use super::client::Store;
use super::life::{REALM, Simulation};

impl Simulation {
    pub(super) async fn events(&self, store: &Store) {
        for _ in 0..self.plan.events {
            let pause = self.random(|rng| rng.between(1, 200 * self.plan.nanos_max));
            self.world.sleep(pause).await;
            match self.random(|rng| rng.below(5)) {
                0 => self.pull(),
                1 | 2 => self.add(store).await,
                3 => self.drain(store).await,
                _ => self.forget(store).await,
            }
        }
    }

    /// Pulls a drive out, in the middle of something.
    fn pull(&self) {
        let drives = self.drives.borrow();
        let in_use: Vec<usize> = self.in_use.borrow().iter().copied().collect();
        if in_use.is_empty() {
            return;
        }
        let drive = &drives[self.random(|rng| rng.one_of(&in_use))];
        if drive.will_be_removed() {
            return;
        }
        drive.remove_at(drive.ended_calls() + self.random(|rng| rng.between(1, 30)));
        self.report.borrow_mut().pulled += 1;
    }

    /// Adds a drive that is not in use, or was lost.
    async fn add(&self, store: &Store) {
        let names = store.stat().await.drives;
        let names: Vec<_> = names
            .into_iter()
            .filter(|drive| drive.loss.is_none())
            .collect();
        let count = self.drives.borrow().len();
        let is_free = |drive: &usize| {
            let name = Self::name(*drive);
            !names.iter().any(|stat| *stat.drive.name == *name)
                && !self.forgotten.borrow().contains(drive)
                && !self.in_use.borrow().contains(drive)
        };
        let Some(drive) = (0..count).find(is_free) else {
            return;
        };
        if self.any_drive_fails() {
            // One that was lost may be back before those notice who did without it.
            self.is_unsure.set(true);
        }
        let seat = self.seat(drive);
        match store.add(seat, &self.plan.format.drive).await {
            Ok(_) => {
                self.report.borrow_mut().added += 1;
                self.in_use.borrow_mut().insert(drive);
            }
            Err(error) => self.allow(&error, "add"),
        }
    }

    async fn drain(&self, store: &Store) {
        let drives = store.stat().await.drives;
        let drive = self.random(|rng| rng.below(drives.len() as u64)) as usize;
        let Some(number) = drives[drive].drive.number else {
            return;
        };
        match store.drain(number).await {
            Ok(()) => self.report.borrow_mut().drained += 1,
            Err(error) => self.allow(&error, "drain"),
        }
    }

    /// Gives up a drive that is lost.
    async fn forget(&self, store: &Store) {
        let drives = store.stat().await.drives;
        let Some(lost) = drives.iter().find(|drive| drive.loss.is_some()) else {
            return;
        };
        let Some(number) = lost.drive.number else {
            return;
        };
        // What was on it may be gone from here on.
        for key in 0..self.plan.keys() {
            let places = store.lost_places(REALM, &self.plan.key(key).0);
            if self.plan.large > 0 || places.contains(&lost.drive) {
                let known = &mut self.known.borrow_mut()[key];
                known.now.insert(None);
                known.is_fragile |= self.plan.large > 0;
            }
        }
        // Keys are used while it is forgotten.
        self.is_unsure.set(true);
        let forgotten = store.forget(number).await;
        let drive =
            (0..self.drives.borrow().len()).find(|drive| *Self::name(*drive) == *lost.drive.name);
        match forgotten {
            Ok(()) => {
                self.report.borrow_mut().forgotten += 1;
                self.forgotten.borrow_mut().extend(drive);
            }
            Err(error) => {
                self.allow(&error, "forget");
                // Whether it was done is not known.
                if matches!(error, ChangeError::Refused(NodeError::Closing)) {
                    self.forgotten.borrow_mut().extend(drive);
                }
            }
        }
    }

    /// Whether that may be said.
    fn allow(&self, error: &ChangeError, what: &str) {
        let is_faulty = self.any_drive_fails();
        let is_fine = match error {
            ChangeError::Refused(NodeError::Closing)
            | ChangeError::LastDrive { .. }
            | ChangeError::CannotDrain { .. } => true,
            ChangeError::Refused(NodeError::ReadOnly { voters }) => voters.here * 2 <= voters.all,
            // It was about to be given back, or taken in, when the power went.
            ChangeError::Open(NodeOpenError::Drive {
                source: OpenError::Formatted { .. },
                ..
            }) => true,
            ChangeError::Open(_)
            | ChangeError::NoSuchDrive { .. }
            | ChangeError::NotLost { .. }
            | ChangeError::InUse { .. } => is_faulty,
            _ => false,
        };
        // A drive may have been drained to its end meanwhile.
        if !is_fine && !matches!(error, ChangeError::NoSuchDrive { .. }) {
            self.is_wrong(format!("{what}: {error}, for no reason"));
        }
    }
}
