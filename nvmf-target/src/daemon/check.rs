//! Looking at the drives of a stopped node.

use std::io::Write;

use oriel_engine::store::{
    OpenError, OpenOptions, Report, SpdkDriveError, check, index_in_memory, match_parts,
};
use oriel_spdk::Subsystems;

use super::devices::Devices;
use super::drives::{self, Part, Take};
use super::{DaemonError, on_reactors};
use crate::config::Config;

/// Reads everything on the drives of a node that does not run, and says what is there and what is wrong with it.
pub fn check_drives(config: &Config, mut out: impl Write + 'static) -> Result<(), DaemonError> {
    let config = config.clone();
    on_reactors(&config.clone(), move |_, subsystems| async move {
        let checked = all(&subsystems, &config, &mut out).await;
        Ok((subsystems, checked))
    })
}

async fn all(
    subsystems: &Subsystems,
    config: &Config,
    out: &mut impl Write,
) -> Result<(), DaemonError> {
    let mut say = |line: String| {
        // Whoever closed the pipe does not want to know; the status says how it ended.
        let _ = writeln!(out, "{line}");
    };
    let mut reports = Vec::new();
    let (_, parts) = Devices::make(subsystems, config, false).await?;
    let mut is_any = false;
    for part in &parts {
        let Some(report) = one(part, config).await? else {
            say(format!("{}: blank, and no drive of the store", part.name));
            continue;
        };
        is_any = true;
        let Report {
            blobs,
            live_blocks,
            slabs,
            leftovers,
            frames,
            fragments,
            problems,
        } = &report;
        say(format!(
            "{}: {blobs} blobs in {slabs} slabs, {} MiB, {} of them parts of larger ones",
            part.name,
            (live_blocks * oriel_protocol::limits::BLOCK_BYTES) >> 20,
            fragments.len(),
        ));
        if *frames > 0 || *leftovers > 0 {
            say(format!(
                "{}: was not closed; the next start reads {frames} frames of its journal and gives {leftovers} extents back",
                part.name
            ));
        }
        for problem in problems {
            say(format!("{}: {problem}", part.name));
        }
        reports.push(report);
    }
    if let (false, Some(part)) = (is_any, parts.first()) {
        let device = part.device.clone();
        return Err(DaemonError::NotFormatted { device });
    }
    let of_parts = match_parts(&reports);
    for problem in &of_parts {
        say(problem.to_string());
    }
    let problems = reports.iter().map(|report| report.problems.len());
    match problems.sum::<usize>() + of_parts.len() {
        0 => {
            say("nothing is wrong".into());
            Ok(())
        }
        problems => Err(DaemonError::Problems { problems }),
    }
}

/// What is on a drive; `None` if nothing is, as on one that is to be added or was emptied.
async fn one(part: &Part, config: &Config) -> Result<Option<Report>, DaemonError> {
    let drive = match drives::load(part, Take::Load).await {
        Err(DaemonError::Drive {
            source: SpdkDriveError::NotFormatted { .. },
            ..
        }) => {
            drives::check_empty(part).await?;
            return Ok(None);
        }
        loaded => loaded?,
    };
    let blobs = config.blobs_max;
    let index = index_in_memory(blobs).map_err(|source| DaemonError::Index { blobs, source });
    let options = OpenOptions {
        store: Some(config.store),
        blobs_max: blobs,
        realms: config
            .realms
            .iter()
            .map(|realm| realm.options.clone())
            .collect(),
        ..OpenOptions::default()
    };
    let report = match index {
        Ok(index) => match check(&drive, index, &options).await {
            Ok(report) => Ok(Some(report)),
            Err(OpenError::NotFormatted) => Ok(None),
            Err(source) => Err(DaemonError::Store {
                device: part.device.clone(),
                source,
            }),
        },
        Err(error) => Err(error),
    };
    let closed = drive.close().await.map_err(|source| DaemonError::Close {
        device: part.device.clone(),
        source,
    });
    let report = report?;
    closed.map(|()| report)
}
