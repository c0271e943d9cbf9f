//! A drive's two copies of the roster.

use std::cell::{Cell, OnceCell, RefCell};

use super::super::drive::{Drive, DriveError, ExtentName, Spare, write_twice};
use super::super::error::OpenError;
use super::super::types::BLOCK_BYTES;
use super::roster::{ROSTER_BLOCKS, Roster};

/// The extents of the copies, once they are known.
pub(super) struct Ledger<D: Drive> {
    extents: RefCell<[Option<D::Extent>; 2]>,
    writes: Cell<u64>,
    spare: OnceCell<Spare<D::Buf>>,
}

impl<D: Drive> Default for Ledger<D> {
    fn default() -> Self {
        Self {
            extents: RefCell::new([None, None]),
            writes: Cell::new(0),
            spare: OnceCell::new(),
        }
    }
}

impl<D: Drive> Ledger<D> {
    /// The newer of the copies that are whole; `None` if the drive never had one.
    pub(super) async fn read(&self, drive: &D) -> Result<Option<Roster>, OpenError> {
        self.spare(drive)?;
        let mut newest: Option<Roster> = None;
        let mut wrong = None;
        for (name, extent) in drive.extents().await? {
            let ExtentName::Roster(copy @ (0 | 1)) = name else {
                continue;
            };
            let buf = drive.buffer(ROSTER_BLOCKS as usize * BLOCK_BYTES)?;
            let (buf, read) = drive.read(&extent, 0, buf).await;
            read?;
            self.extents.borrow_mut()[usize::from(copy)] = Some(extent);
            match Roster::decode(buf.as_ref()) {
                Ok(roster)
                    if newest
                        .as_ref()
                        .is_none_or(|newest| newest.writes < roster.writes) =>
                {
                    newest = Some(roster);
                }
                Ok(_) => {}
                Err(no_roster) => wrong = Some(no_roster.error(copy)),
            }
        }
        if let Some(newest) = &newest {
            self.writes.set(newest.writes);
        }
        match (newest, wrong) {
            // A drive that was about to get its first one has one copy at most.
            (None, Some(_)) if self.extents.borrow().iter().flatten().count() < 2 => Ok(None),
            (None, Some(wrong)) => Err(wrong),
            (newest, _) => Ok(newest),
        }
    }

    /// Writes both copies, one after the other; it is durable when this has ended.
    pub(super) async fn write(&self, drive: &D, mut roster: Roster) -> Result<(), OpenError> {
        self.writes.set(self.writes.get() + 1);
        roster.writes = self.writes.get();
        let mut bytes = vec![0; ROSTER_BLOCKS as usize * BLOCK_BYTES];
        roster.encode(&mut bytes);
        let spare = self.spare(drive)?;
        for copy in [0u8, 1] {
            let extent = self.extent(drive, copy).await?;
            let write = async |at, buf| write_twice(drive, &extent, at, buf).await;
            spare.write(drive, 0, &bytes, write).await?;
            drive.flush().await?;
        }
        Ok(())
    }

    /// Kept from the first look at the drive on.
    fn spare(&self, drive: &D) -> Result<&Spare<D::Buf>, DriveError> {
        if self.spare.get().is_none() {
            // One task at a time uses a ledger.
            let _ = self.spare.set(Spare::new(drive)?);
        }
        Ok(self.spare.get().expect("it was made just now"))
    }

    /// Where a copy is kept; made if it is not there, and known from then on, whatever becomes of its first write.
    async fn extent(&self, drive: &D, copy: u8) -> Result<D::Extent, OpenError> {
        let known = self.extents.borrow()[usize::from(copy)].clone();
        if let Some(extent) = known {
            return Ok(extent);
        }
        let name = ExtentName::Roster(copy);
        let extent = drive.create(name, ROSTER_BLOCKS).await?;
        self.extents.borrow_mut()[usize::from(copy)] = Some(extent.clone());
        Ok(extent)
    }

    pub(super) fn drop_extents(&self) {
        self.extents.replace([None, None]);
    }
}
