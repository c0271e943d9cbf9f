//! Signals, and what a process's exit status says.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// What a process's exit status says; every program of ours uses these.
///
/// A second SIGTERM or SIGINT ends a process that is already stopping at once,
/// with 128 and the signal's number: 143 or 130.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// 0: the work is done, or a signal asked to stop and everything in flight
    /// was completed.
    Clean,
    /// 1: the work failed; standard error says why.
    Failed,
    /// 2: the command line or the configuration is wrong; nothing was started.
    Usage,
    /// 3: asked to stop, the program did not within the deadline; standard error
    /// names what hung.
    DeadlinePassed,
}

impl ExitStatus {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::DeadlinePassed => 3,
        }
    }

    /// Ends the process here and now, without destructors, which may hang where
    /// a reactor does.
    pub fn end_process(self) -> ! {
        low_level::exit(self.code().into())
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        status.code().into()
    }
}

/// SIGTERM and SIGINT, caught while this lives.
#[derive(Debug)]
pub(crate) struct Signals {
    caught: Arc<AtomicUsize>,
    registered: Vec<SigId>,
}

impl Signals {
    /// The first signal sets `stop`, the second ends the process. The handlers
    /// only store to atomics and call `_exit`.
    pub(crate) fn catch(stop: &Arc<AtomicBool>) -> std::io::Result<Self> {
        let mut signals = Self {
            caught: Arc::default(),
            registered: Vec::new(),
        };
        // Apart from `stop`, which the program's own end sets as well: a first
        // signal must not end a process that is just finishing.
        let armed = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // Handlers of one signal run in the order of registration, so the
            // first signal finds `armed` unset.
            let status = 128 + signal;
            let ids = &mut signals.registered;
            ids.push(flag::register_conditional_shutdown(
                signal,
                status,
                armed.clone(),
            )?);
            ids.push(flag::register(signal, armed.clone())?);
            let caught = signals.caught.clone();
            ids.push(flag::register_usize(signal, caught, signal as usize)?);
            ids.push(flag::register(signal, stop.clone())?);
        }
        Ok(signals)
    }

    pub(crate) fn caught(&self) -> Option<i32> {
        match self.caught.load(Ordering::Acquire) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            low_level::unregister(id);
        }
    }
}
