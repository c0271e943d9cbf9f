//! The store of many drives as a whole: what it holds, and its drives that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_channel::oneshot;

use super::super::format::FormatOptions;
use super::super::options::{LogStat, RealmOptions, RealmStat};
use super::super::types::RealmId;
use super::error::{ChangeError, DriveLabel, Loss, NodeError};
use super::handle::NodeStore;
use super::place::DriveNumber;
use super::roster::Voters;
use super::seat::{NoLane, NodeDrive, Seat};
use super::table::{Command, Departed};

/// A drive of the store, as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DriveStat {
    /// Its number and name.
    pub drive: DriveLabel,
    /// Why it is lost, if it is.
    pub loss: Option<Loss>,
    /// It is being emptied; `log.blobs` says how many blobs are left.
    pub is_draining: bool,
    /// It is new, or was away: blobs that belong on it may be elsewhere, and are on their way.
    pub is_filling: bool,
    /// Blocks that it was made with.
    pub capacity_blocks: u64,
    /// What its log holds and has done.
    pub log: LogStat,
}

/// The store as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStat {
    /// Its drives, by number.
    pub drives: Vec<DriveStat>,
    /// How many drives have a say, and how many of them are here.
    pub voters: Voters,
    /// Blobs on all drives. One that is between two drives counts twice.
    pub blobs: u64,
    /// Blobs that went from one drive to another since the store was opened.
    pub moved_blobs: u64,
    /// Their bytes.
    pub moved_bytes: u64,
}

impl<D: NodeDrive> NodeStore<D> {
    /// What it holds, drive by drive.
    pub async fn stat(&self) -> NodeStat {
        let table = self.table();
        let mut drives = Vec::new();
        for row in &table.rows {
            let log = match &row.seat {
                Some(seat) => seat.call(|lane| async move { lane.stat() }).await,
                None => Err(NoLane),
            };
            drives.push(DriveStat {
                drive: row.label(),
                loss: row.loss.clone(),
                is_draining: row.is_draining,
                is_filling: row.is_hungry,
                capacity_blocks: row.capacity_blocks,
                log: log.unwrap_or_default(),
            });
        }
        let here = drives.iter().filter(|drive| drive.loss.is_none());
        NodeStat {
            blobs: here.map(|drive| drive.log.blobs).sum(),
            voters: table.voters,
            moved_blobs: self.shared.moved_blobs.load(Ordering::Relaxed),
            moved_bytes: self.shared.moved_bytes.load(Ordering::Relaxed),
            drives,
        }
    }

    /// What a realm holds on all drives that are here.
    pub async fn realm_stat(&self, realm: RealmId) -> Option<RealmStat> {
        let table = self.table();
        let mut sum: Option<RealmStat> = None;
        for (at, row) in (0..).zip(&table.rows) {
            let Some(seat) = row.seat.as_ref().filter(|_| table.is_present(at)) else {
                continue;
            };
            let stat = seat.call(move |lane| async move { lane.realm_stat(realm) });
            let Some(stat) = stat.await.ok().flatten() else {
                continue;
            };
            sum = Some(match sum {
                None => stat,
                Some(sum) => RealmStat {
                    blobs: sum.blobs + stat.blobs,
                    used_blocks: sum.used_blocks + stat.used_blocks,
                    reservations: sum.reservations + stat.reservations,
                    quota_blocks: sum.quota_blocks.zip(stat.quota_blocks).map(|(a, b)| a + b),
                },
            });
        }
        sum
    }

    async fn change<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, ChangeError>>) -> Command<D>,
    ) -> Result<T, ChangeError> {
        let (reply, heard) = oneshot::channel();
        self.shared.command(ask(reply));
        heard.await.unwrap_or(Err(NodeError::Closing.into()))
    }

    /// Adds a drive: an empty one, which is formatted, or one of the store's that was lost. Blobs that belong on it are moved
    /// there while the store is in use.
    pub async fn add(
        &self,
        seat: Seat<D>,
        format: &FormatOptions,
    ) -> Result<DriveNumber, ChangeError> {
        let format = *format;
        self.change(|reply| Command::Add {
            seat,
            format,
            reply,
        })
        .await
    }

    /// Empties a drive while the store is in use, and lets it go when it holds nothing any more: [`stat`](Self::stat) says
    /// how far that is. Answers when it has begun for good; it goes on after a restart.
    pub async fn drain(&self, number: DriveNumber) -> Result<(), ChangeError> {
        self.change(|reply| Command::Drain { number, reply }).await
    }

    /// Gives up a drive that is lost, and all blobs on it.
    pub async fn forget(&self, number: DriveNumber) -> Result<(), ChangeError> {
        self.change(|reply| Command::Forget { number, reply }).await
    }

    /// The realms, with the quotas that they have on all drives together.
    pub fn realms(&self) -> Arc<[RealmOptions]> {
        self.table().realms.clone()
    }

    /// Takes new realms in, and changes the quotas of those that there are and whether they check what they read. All realms
    /// are to be named; how one makes room stays as it is. Nothing of it is kept on the drives: the next opening is told again.
    pub async fn set_realms(&self, realms: &[RealmOptions]) -> Result<(), ChangeError> {
        let realms = realms.to_vec();
        self.change(|reply| Command::Realms { realms, reply }).await
    }

    /// Waits for the next drive that has left the store, emptied or forgotten, and is closed: its device can be taken out.
    /// One task at a time hears of them.
    pub async fn departed(&self) -> Departed {
        self.shared.next_departed().await
    }

    /// Lets the keeper end once all that was begun is done.
    pub fn close(&self) {
        self.shared.command(Command::Close);
    }
}
