//! What hosts are told of the store's errors.

use oriel_engine::store::{DriveError, NodeError, StoreError};
use oriel_protocol::Status;
use oriel_spdk::bdev::IoError;

use crate::trouble;

/// What was being done: the same error means different things to a plain initiator and to a client of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doing {
    /// A READ.
    Read,
    /// A WRITE.
    Write,
    /// A vendor command.
    Command,
}

/// A status as SPDK's devices say it.
pub(crate) fn io_error(status: Status) -> IoError {
    let (status_type, status_code) = status.code();
    IoError {
        status_type,
        status_code,
    }
}

/// The status for an error. What a person has to look into is logged, since the status says only that.
pub(crate) fn status_of(error: &NodeError, doing: Doing) -> Status {
    let status = match error {
        NodeError::Lost { .. } => match doing {
            Doing::Command => Status::DriveLost,
            Doing::Read | Doing::Write => failed(doing),
        },
        NodeError::ReadOnly { .. } => Status::Stopped,
        NodeError::NoDrive => Status::CapacityExceeded,
        NodeError::Moved { .. } => Status::NotReserved,
        NodeError::NoSuchPosition { .. } => nothing_there(doing),
        NodeError::LogEnds { .. } => Status::LogEnds,
        NodeError::Memory(_) => Status::Busy,
        NodeError::Closing => Status::NotReady,
        NodeError::TooLarge { .. } => Status::TooLarge,
        NodeError::PutOver => Status::NoSuchPut,
        NodeError::PartUnderWay => Status::BeingWritten,
        NodeError::OtherPart { .. } | NodeError::OnePart { .. } | NodeError::NotHashed { .. } => {
            Status::OtherParts
        }
        NodeError::PartGone { .. } => Status::PartGone,
        NodeError::OtherContent { .. } => Status::OtherContent,
        NodeError::Part { source, .. } => return status_of(source, doing),
        NodeError::Drive { source, .. } => of_store(source, doing),
        _ => Status::Internal,
    };
    let is_trouble = matches!(
        status,
        Status::Internal
            | Status::Unreadable
            | Status::WriteFault
            | Status::Damaged
            | Status::Stopped
            | Status::DriveLost
    );
    match is_trouble.then(|| trouble::tell(status)).flatten() {
        Some(untold) => {
            let untold = (untold > 0).then_some(untold);
            tracing::error!(%error, ?status, untold, "a request of a host failed");
        }
        None => tracing::debug!(%error, ?status, "a request of a host failed"),
    }
    status
}

fn of_store(error: &StoreError, doing: Doing) -> Status {
    match error {
        StoreError::Empty | StoreError::BufferSize { .. } | StoreError::NotWholeBlocks { .. } => {
            Status::InvalidField
        }
        // In the protocol's words a blob is at one place, and one in parts is at none.
        StoreError::TooLarge { .. } | StoreError::InParts { .. } => Status::TooLarge,
        StoreError::OverQuota { .. } | StoreError::CacheHeld { .. } => Status::OverQuota,
        StoreError::NotReserved { .. } | StoreError::NoWindow { .. } => nothing_there(doing),
        StoreError::BeyondWindow { .. } => Status::Unwritten,
        StoreError::BeingWritten { .. } => Status::BeingWritten,
        StoreError::NotWritten { .. } => Status::NotWritten,
        StoreError::LongerThanReserved { .. } => Status::LongerThanReserved,
        StoreError::OtherChecksum { .. } => Status::OtherChecksum,
        StoreError::LogEnds => Status::LogEnds,
        StoreError::OtherContent { .. } => Status::OtherContent,
        StoreError::Full => Status::CapacityExceeded,
        StoreError::TooManyBlobs { .. } => Status::TooManyBlobs,
        StoreError::Damaged { .. }
        | StoreError::DamagedWindow { .. }
        | StoreError::Quarantined { .. } => match doing {
            // Media errors are what initiators know.
            Doing::Read => Status::Unreadable,
            Doing::Write | Doing::Command => Status::Damaged,
        },
        StoreError::Directory { .. } => Status::Unreadable,
        StoreError::Stopped { .. } | StoreError::IndexDamaged => Status::Stopped,
        StoreError::Closing => Status::NotReady,
        StoreError::Drive(DriveError::NoMemory { .. }) => Status::Busy,
        StoreError::Drive(DriveError::NoRoom { .. }) => Status::CapacityExceeded,
        StoreError::Drive(_) => failed(doing),
        _ => Status::Internal,
    }
}

/// Where there is no window of the kind that is asked for.
fn nothing_there(doing: Doing) -> Status {
    match doing {
        Doing::Read => Status::Unwritten,
        Doing::Write => Status::AccessDenied,
        Doing::Command => Status::NotReserved,
    }
}

fn failed(doing: Doing) -> Status {
    match doing {
        Doing::Read => Status::Unreadable,
        Doing::Write => Status::WriteFault,
        Doing::Command => Status::Internal,
    }
}

#[cfg(test)]
mod tests {
    use oriel_engine::store::{Position, RealmId};

    use super::*;

    #[test]
    fn the_same_error_is_told_in_the_words_of_what_was_done() {
        let position = Position(7);
        let told = |error: &NodeError| {
            [Doing::Read, Doing::Write, Doing::Command].map(|doing| status_of(error, doing))
        };
        assert_eq!(
            told(&NodeError::NoSuchPosition { position }),
            [Status::Unwritten, Status::AccessDenied, Status::NotReserved]
        );
        assert_eq!(told(&NodeError::Closing), [Status::NotReady; 3]);
        let realm = RealmId(3);
        assert_eq!(
            of_store(&StoreError::UnknownRealm { realm }, Doing::Command),
            Status::Internal
        );
        let damaged = StoreError::DamagedWindow {
            position,
            expected: 1,
            found: 2,
        };
        assert_eq!(of_store(&damaged, Doing::Read), Status::Unreadable);
        assert_eq!(of_store(&damaged, Doing::Command), Status::Damaged);
    }

    #[test]
    fn a_status_goes_out_with_its_numbers() {
        let error = io_error(Status::Unwritten);
        assert_eq!((error.status_type, error.status_code), (2, 0x87));
    }
}
