//! What becomes of a command that the kernel has answered: pure, so that it can be looked at alone.
//!
//! While Linux has no path to a controller it answers a passed-through command at once: by `EAGAIN` to the ioctl, by `EINVAL` by
//! io_uring (`nvme_ns_head_chr_uring_cmd` of Linux 6.12, where there is no path to choose), and on a device without multipath by the status *Host Pathing
//! Error*. Commands that were under way when a connection was lost end by `EINTR`, or by a status of the same meaning.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oriel_nvme_kernel::{Answer, Errno};

use super::error::{Cause, KernelError};
use crate::nvme::Status;
use crate::nvme::command::CommandName;

/// How often `EINVAL` is not believed although there is a path: it may have come back between the command and the question.
pub(super) const INVALIDS_MAX: u8 = 3;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is done; dwords 0 and 1.
    Done(u64),
    /// It was not done, or does no harm twice: it is to be sent again while there is time.
    Again(Cause),
    /// It may have been done, and is not to be done twice.
    Lost,
    /// The node has refused it.
    Refused(Status, u32),
    /// This process may not send it.
    Denied(Errno),
    /// The kernel has no such call.
    TooOld(Errno),
    /// The device is gone.
    Gone(Errno),
    /// Anything else.
    System(Errno),
}

/// Judges the answer to a passed-through command. `has_path` asks the kernel, and is called for `EINVAL` alone, of which there
/// were so many in a row before this one.
pub(super) fn judge(
    answer: Result<Answer, Errno>,
    is_idempotent: bool,
    invalids: u8,
    has_path: impl FnOnce() -> bool,
) -> Verdict {
    let unknown = |cause| match is_idempotent {
        true => Verdict::Again(cause),
        false => Verdict::Lost,
    };
    let errno = match answer {
        Ok(Answer { status: 0, result }) => return Verdict::Done(result),
        Ok(Answer { status, result }) => {
            let status = Status::of_field(status);
            return match (status.kind, status.code) {
                // "Asymmetric Access" states and "Host Pathing Error": it has not reached the controller.
                (3, 0x01..=0x03 | 0x70) => Verdict::Again(Cause::Status(status)),
                // "Internal Path Error", "Controller Pathing Error", "Command Aborted By Host"; "Command Abort Requested",
                // "Command Aborted due to SQ Deletion".
                (3, 0x00 | 0x60 | 0x71) | (0, 0x07 | 0x08) => unknown(Cause::Status(status)),
                _ => Verdict::Refused(status, result as u32),
            };
        }
        Err(errno) => errno,
    };
    let again = Verdict::Again(Cause::Errno(errno));
    match errno {
        Errno::AGAIN | Errno::NOMEM | Errno::BUSY => again,
        Errno::INTR => unknown(Cause::Errno(errno)),
        Errno::INVAL if !has_path() || invalids < INVALIDS_MAX => again,
        Errno::ACCESS | Errno::PERM => Verdict::Denied(errno),
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS => Verdict::TooOld(errno),
        Errno::NODEV | Errno::NXIO => Verdict::Gone(errno),
        errno => Verdict::System(errno),
    }
}

/// What a caller is told who has waited so long as it may; of everything but [`Verdict::Done`].
pub(super) fn failure(
    verdict: Verdict,
    device: &Arc<PathBuf>,
    command: CommandName,
    after: Duration,
) -> KernelError {
    let device = Arc::clone(device);
    match verdict {
        Verdict::Done(_) => unreachable!("what is done has not failed"),
        Verdict::Again(cause) => KernelError::Away {
            device,
            command,
            after,
            cause,
        },
        Verdict::Lost => KernelError::Lost { device, command },
        Verdict::Refused(status, result) => KernelError::Status {
            device,
            command,
            status,
            result,
        },
        Verdict::Denied(errno) => KernelError::Denied { device, errno },
        Verdict::TooOld(errno) => KernelError::TooOld { device, errno },
        Verdict::Gone(errno) => KernelError::Gone { device, errno },
        Verdict::System(errno) => KernelError::System {
            device,
            command,
            errno,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(answer: Result<Answer, Errno>, is_idempotent: bool) -> Verdict {
        judge(answer, is_idempotent, INVALIDS_MAX, || true)
    }

    fn status(kind: u16, code: u16) -> Result<Answer, Errno> {
        let status = kind << 8 | code;
        Ok(Answer { status, result: 7 })
    }

    #[test]
    fn what_has_not_reached_the_node_is_sent_again_whatever_it_is() {
        for is_idempotent in [true, false] {
            let again = |answer| matches!(of(answer, is_idempotent), Verdict::Again(_));
            assert!(again(Err(Errno::AGAIN)));
            assert!(again(status(3, 0x70)) && again(status(3, 0x02)));
            // DNR is in bit 14, and speaks of the path.
            assert!(again(Ok(Answer {
                status: 0x4370,
                result: 0
            })));
        }
    }

    #[test]
    fn what_may_have_been_done_is_sent_again_only_if_that_is_no_harm() {
        for answer in [
            Err(Errno::INTR),
            status(3, 0x71),
            status(0, 0x08),
            status(3, 0x00),
        ] {
            assert!(matches!(of(answer, true), Verdict::Again(_)), "{answer:?}");
            assert_eq!(of(answer, false), Verdict::Lost, "{answer:?}");
        }
    }

    #[test]
    fn an_invalid_command_is_told_from_a_missing_path() {
        let invalid = |invalids, has_path| judge(Err(Errno::INVAL), false, invalids, || has_path);
        let again = Verdict::Again(Cause::Errno(Errno::INVAL));
        assert_eq!(invalid(INVALIDS_MAX, false), again);
        assert_eq!(invalid(0, true), again);
        assert_eq!(invalid(INVALIDS_MAX, true), Verdict::System(Errno::INVAL));
    }

    #[test]
    fn the_node_s_own_word_is_passed_on() {
        let done = Answer {
            status: 0,
            result: 1 << 32 | 5,
        };
        assert_eq!(of(Ok(done), false), Verdict::Done(1 << 32 | 5));
        match of(status(2, 0x87), true) {
            Verdict::Refused(status, 7) => {
                assert_eq!(status.of_blobs(), Some(oriel_protocol::Status::Unwritten))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(of(Err(Errno::ACCESS), true), Verdict::Denied(Errno::ACCESS));
        assert_eq!(of(Err(Errno::NODEV), true), Verdict::Gone(Errno::NODEV));
        assert_eq!(of(Err(Errno::NOTTY), true), Verdict::TooOld(Errno::NOTTY));
        assert_eq!(of(Err(Errno::IO), true), Verdict::System(Errno::IO));
    }
}
