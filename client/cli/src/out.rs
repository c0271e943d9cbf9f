//! What people and programs see.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::{CliError, Exit};

/// Standard output for results, as text or as JSON, one a line; standard error for all else. Of several threads each line
/// stays whole.
pub(crate) struct Out {
    is_json: bool,
    has_terminal: bool,
    bar: OnceLock<ProgressBar>,
    lines: Mutex<()>,
}

#[derive(Serialize)]
struct Failed<'a> {
    error: String,
    exit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a str>,
}

impl Out {
    pub(crate) fn new(is_json: bool, has_terminal: bool) -> Self {
        Self {
            is_json,
            has_terminal,
            bar: OnceLock::new(),
            lines: Mutex::new(()),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// Shows how far `bytes` have come, on a terminal.
    pub(crate) fn begin(&self, bytes: u64) {
        if !self.has_terminal {
            return;
        }
        let style = "{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        let bar = ProgressBar::new(bytes);
        // The default is good enough where the style is not.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let _ = self.bar.set(bar);
    }

    /// More is to come than was thought.
    pub(crate) fn expect(&self, bytes: u64) {
        if let Some(bar) = self.bar.get() {
            bar.inc_length(bytes);
        }
    }

    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(bar) = self.bar.get() {
            bar.inc(bytes);
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
    }

    fn write(&self, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _whole = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match self.bar.get() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// A result: the text, or the object.
    pub(crate) fn line(
        &self,
        text: Arguments<'_>,
        object: &impl Serialize,
    ) -> Result<(), CliError> {
        let mut line = match self.is_json {
            true => serde_json::to_vec(object).map_err(io::Error::from),
            false => Ok(text.to_string().into_bytes()),
        }
        .map_err(CliError::Output)?;
        line.push(b'\n');
        // One call each, so that what was printed is out even if the program is killed.
        let write = || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&line)?;
            stdout.flush()
        };
        self.write(write).map_err(CliError::Output)
    }

    /// Something on the side, for people.
    pub(crate) fn note(&self, text: Arguments<'_>) {
        if !self.is_json {
            self.error_line(&format!("oriel: {text}"));
        }
    }

    /// What went wrong, and with what.
    pub(crate) fn failed(&self, error: &CliError, item: Option<&str>) {
        let exit = error.exit();
        if exit == Exit::BrokenPipe {
            return;
        }
        let object = Failed {
            error: error.to_string(),
            exit: exit.status(),
            item,
        };
        match (self.is_json, item) {
            (true, _) => self.error_line(&serde_json::to_string(&object).unwrap_or(object.error)),
            (false, Some(item)) => self.error_line(&format!("oriel: {item}: {error}")),
            (false, None) => self.error_line(&format!("oriel: {error}")),
        }
    }

    fn error_line(&self, line: &str) {
        // Nobody may be listening.
        let _ = self.write(|| {
            io::stderr()
                .lock()
                .write_all(format!("{line}\n").as_bytes())
        });
    }
}
