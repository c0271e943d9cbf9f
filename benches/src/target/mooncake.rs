//! Mooncake's store as it comes in a Python package, measured by a script that is a part of this program.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;

use super::TargetError;
use super::plan::{BYTES_OF_SIZE, Kind, Speed};

const SCRIPT: &str = include_str!("../../peers/mooncake.py");

/// What somebody does who wants it to be measured.
pub(super) const REMEDY: &str = "say --mooncake PYTHON, of an environment where pip has installed mooncake-transfer-engine-non-cuda";

/// Where Mooncake's store is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MooncakeArgs {
    /// Measure gets of 1 MiB beside Mooncake's store, too: a Python that has the package mooncake-transfer-engine-non-cuda
    #[arg(long, value_name = "PYTHON")]
    mooncake: Option<PathBuf>,
}

impl MooncakeArgs {
    pub(super) fn is_there(&self) -> bool {
        self.mooncake.is_some()
    }

    /// Starts it, has it hold as many bytes as the others, and reads them.
    pub(super) fn measure(
        &self,
        [first, second]: [u32; 2],
        (kind, bytes, depth): (Kind, u64, u32),
        (round, seconds): (u32, u32),
    ) -> Result<Speed, TargetError> {
        let python = self.mooncake.as_ref().filter(|_| kind == Kind::Get);
        let python = python.ok_or_else(|| TargetError::Side(REMEDY.into()))?;
        let blobs = BYTES_OF_SIZE / bytes;
        let mut child = Command::new(python)
            .args(["-", &format!("{first},{second}")])
            .args(
                [bytes, blobs, depth.into(), seconds.into(), round.into()].map(|it| it.to_string()),
            )
            .env("GLOG_minloglevel", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(TargetError::Program)?;
        if let Some(mut input) = child.stdin.take() {
            // If it has ended, its status says so below.
            let _ = input.write_all(SCRIPT.as_bytes());
        }
        let output = child.wait_with_output().map_err(TargetError::Program)?;
        if !output.status.success() {
            return Err(TargetError::Ended(output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The package itself may have said something before.
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|_| TargetError::Nonsense(text))
    }
}
