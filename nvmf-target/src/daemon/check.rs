//! Looking at the drives of a stopped node.

use std::io::Write;

use oriel_engine::store::{OpenOptions, Report, check, index_in_memory, match_parts};
use oriel_spdk::Subsystems;

use super::drives::{self, Made};
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
    for made in drives::make(subsystems, config).await? {
        let report = one(&made, config).await?;
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
            made.device,
            (live_blocks * oriel_protocol::limits::BLOCK_BYTES) >> 20,
            fragments.len(),
        ));
        if *frames > 0 || *leftovers > 0 {
            say(format!(
                "{}: was not closed; the next start reads {frames} frames of its journal and gives {leftovers} extents back",
                made.device
            ));
        }
        for problem in problems {
            say(format!("{}: {problem}", made.device));
        }
        reports.push(report);
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

async fn one(made: &Made, config: &Config) -> Result<Report, DaemonError> {
    let drive = drives::load(made, config, false).await?;
    let blobs = config.blobs_max;
    let index = index_in_memory(blobs).map_err(|source| DaemonError::Index { blobs, source });
    let options = OpenOptions {
        store: Some(config.store),
        blobs_max: blobs,
        realms: config.realms.iter().map(|realm| realm.options).collect(),
        ..OpenOptions::default()
    };
    let report = match index {
        Ok(index) => {
            let report = check(&drive, index, &options).await;
            report.map_err(|source| DaemonError::Store {
                device: made.device.clone(),
                source,
            })
        }
        Err(error) => Err(error),
    };
    let closed = drive.close().await.map_err(|source| DaemonError::Close {
        device: made.device.clone(),
        source,
    });
    let report = report?;
    closed.map(|()| report)
}
