//! What a run showed, as bdevperf prints it: its table, and the keys of its
//! JSON.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The results of one job. The names are bdevperf's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobReport {
    pub(crate) job: String,
    pub(crate) core_mask: String,
    pub(crate) workload: String,
    /// The share of reads; only where the workload is a mix.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) percentage: Option<u8>,
    pub(crate) status: Status,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) verify_range: Option<VerifyRange>,
    pub(crate) queue_depth: u32,
    pub(crate) io_size: u64,
    /// In seconds.
    pub(crate) runtime: f64,
    pub(crate) iops: f64,
    pub(crate) mibps: f64,
    pub(crate) io_failed: u64,
    pub(crate) io_timeout: u64,
    pub(crate) avg_latency_us: f64,
    pub(crate) min_latency_us: f64,
    pub(crate) max_latency_us: f64,
    /// How many I/Os the latencies stand on.
    pub(crate) latency_samples: u64,
    /// Percent and microseconds; empty unless asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) percentiles_us: Vec<(f64, f64)>,
    /// From, to (microseconds), count, percent so far; empty unless asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) histogram_us: Vec<(f64, f64, u64, f64)>,
    /// What ended the job early, or what a check found.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) error: Option<String>,
}

/// In I/O units from the start of the bdev, as bdevperf prints it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct VerifyRange {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Finished,
    Terminated,
    Failed,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) results: Vec<JobReport>,
    pub(crate) core_count: usize,
}

/// The sums and means of the table's last line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Total {
    pub(crate) iops: f64,
    pub(crate) mibps: f64,
    failed_per_second: f64,
    timeout_per_second: f64,
    average_us: f64,
    min_us: f64,
    max_us: f64,
}

impl Report {
    pub(crate) fn total(&self) -> Total {
        let mut total = Total {
            min_us: f64::INFINITY,
            ..Total::default()
        };
        let mut weight = 0.0;
        for job in &self.results {
            total.iops += job.iops;
            total.mibps += job.mibps;
            total.failed_per_second += per_second(job.io_failed, job.runtime);
            total.timeout_per_second += per_second(job.io_timeout, job.runtime);
            if job.latency_samples > 0 {
                let ios = job.iops * job.runtime;
                total.average_us += job.avg_latency_us * ios;
                weight += ios;
                total.min_us = total.min_us.min(job.min_latency_us);
                total.max_us = total.max_us.max(job.max_latency_us);
            }
        }
        total.average_us = if weight > 0.0 {
            total.average_us / weight
        } else {
            0.0
        };
        total.min_us = if total.min_us.is_finite() {
            total.min_us
        } else {
            0.0
        };
        total
    }

    /// The first thing that went wrong, with the bdev it went wrong on.
    pub(crate) fn failure(&self) -> Option<(&str, &str)> {
        let failed = self
            .results
            .iter()
            .find(|job| job.status == Status::Failed)?;
        Some((
            &failed.job,
            failed.error.as_deref().unwrap_or("an I/O failed"),
        ))
    }

    /// The table, ended by a line feed.
    pub(crate) fn table(&self) -> String {
        let mut out = table_head();
        for job in &self.results {
            job.describe(&mut out);
            let failed = per_second(job.io_failed, job.runtime);
            let timeout = per_second(job.io_timeout, job.runtime);
            let name = format!("\t {:<20}", job.job);
            let latency = [job.avg_latency_us, job.min_latency_us, job.max_latency_us];
            row(
                &mut out,
                &name,
                &format!("{:.2}", job.runtime),
                [job.iops, job.mibps],
                [failed, timeout],
                latency,
            );
        }
        let total = self.total();
        let _ = writeln!(out, " {}", "=".repeat(115));
        let rates = [total.failed_per_second, total.timeout_per_second];
        let latency = [total.average_us, total.min_us, total.max_us];
        row(
            &mut out,
            &format!(" {:<28}", "Total"),
            "",
            [total.iops, total.mibps],
            rates,
            latency,
        );
        self.percentile_lines(&mut out);
        out
    }

    fn percentile_lines(&self, out: &mut String) {
        let asked = self
            .results
            .iter()
            .filter(|job| !job.percentiles_us.is_empty());
        for (index, job) in asked.enumerate() {
            if index == 0 {
                let _ = writeln!(out, "\n Latency summary");
            }
            let _ = writeln!(
                out,
                " {}\n Job: {} (Core Mask {})",
                "=".repeat(45),
                job.job,
                job.core_mask
            );
            for (percent, micros) in &job.percentiles_us {
                let _ = writeln!(out, "{percent:9.5}% : {micros:9.3}us");
            }
        }
        let asked = self
            .results
            .iter()
            .filter(|job| !job.histogram_us.is_empty());
        for (index, job) in asked.enumerate() {
            if index == 0 {
                let _ = writeln!(out, "\n Latency histogram");
            }
            let _ = writeln!(
                out,
                " {}\n Job: {} (Core Mask {})",
                "=".repeat(45),
                job.job,
                job.core_mask
            );
            for (from, to, count, percent) in &job.histogram_us {
                let _ = writeln!(out, "{from:9.3} - {to:9.3}: {percent:9.4}%  ({count:9})");
            }
        }
    }
}

pub(crate) fn table_head() -> String {
    let columns = [
        "runtime(s)",
        "IOPS",
        "MiB/s",
        "Fail/s",
        "TO/s",
        "Average",
        "min",
        "max",
    ];
    let mut head = format!("\n{:>107}\n {:<28}:", "Latency(us)", "Device Information");
    for (column, width) in columns.into_iter().zip([10, 10, 10, 10, 8, 10, 10, 10]) {
        let _ = write!(head, " {column:>width$}");
    }
    head.push('\n');
    head
}

fn row(
    out: &mut String,
    name: &str,
    runtime: &str,
    speed: [f64; 2],
    rates: [f64; 2],
    latency: [f64; 3],
) {
    let _ = write!(
        out,
        "{name}: {runtime:>10} {:>10.2} {:>10.2}",
        speed[0], speed[1]
    );
    let _ = write!(out, " {:>10.2} {:>8.2}", rates[0], rates[1]);
    let _ = writeln!(
        out,
        " {:>10.2} {:>10.2} {:>10.2}",
        latency[0], latency[1], latency[2]
    );
}

/// A line of the table while the run lasts, when latencies are not known yet.
pub(crate) fn live_row(name: &str, seconds: f64, speed: [f64; 2], rates: [f64; 2]) -> String {
    let [iops, mibps] = speed;
    let [failed, late] = rates;
    format!("\t {name:<20}: {seconds:>10.2} {iops:>10.2} {mibps:>10.2} {failed:>10.2} {late:>8.2}")
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

impl JobReport {
    fn describe(&self, out: &mut String) {
        let _ = write!(
            out,
            "Job: {} (Core Mask {}, workload: {}",
            self.job, self.core_mask, self.workload
        );
        if let Some(percentage) = self.percentage {
            let _ = write!(out, ", percentage: {percentage}");
        }
        let _ = writeln!(
            out,
            ", depth: {}, IO size: {})",
            self.queue_depth, self.io_size
        );
        if let Some(error) = &self.error {
            let _ = writeln!(
                out,
                "Job: {} ended in about {:.2} seconds with error: {error}",
                self.job, self.runtime
            );
        }
        if let Some(range) = self.verify_range {
            let _ = writeln!(
                out,
                "\t Verification LBA range: start {:#x} length {:#x}",
                range.start, range.length
            );
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(job: &str, iops: f64) -> JobReport {
        JobReport {
            job: job.into(),
            core_mask: "0x1".into(),
            workload: "randread".into(),
            percentage: None,
            status: Status::Finished,
            verify_range: None,
            queue_depth: 32,
            io_size: 4096,
            runtime: 2.0,
            iops,
            mibps: iops * 4096.0 / 1_048_576.0,
            io_failed: 0,
            io_timeout: 0,
            avg_latency_us: 10.0,
            min_latency_us: 1.0,
            max_latency_us: 100.0,
            latency_samples: 10,
            percentiles_us: Vec::new(),
            histogram_us: Vec::new(),
            error: None,
        }
    }

    #[test]
    fn the_table_has_bdevperfs_columns() {
        let report = Report {
            results: vec![sample("Malloc0", 1000.0), sample("Null0", 500.0)],
            core_count: 1,
        };
        let table = report.table();
        let expected = " Device Information          : runtime(s)       IOPS      MiB/s     Fail/s     TO/s    Average        min        max";
        assert_eq!(table.lines().nth(2), Some(expected));
        assert_eq!(table.lines().nth(1).map(str::trim), Some("Latency(us)"));
        assert!(table.contains(
            "Job: Malloc0 (Core Mask 0x1, workload: randread, depth: 32, IO size: 4096)"
        ));
        let total = table.lines().last().unwrap();
        assert_eq!(
            total.split_whitespace().collect::<Vec<_>>(),
            [
                "Total", ":", "1500.00", "5.86", "0.00", "0.00", "10.00", "1.00", "100.00"
            ]
        );
    }

    #[test]
    fn the_json_has_bdevperfs_keys_and_reads_back() {
        let mut job = sample("Malloc0", 1000.0);
        job.percentage = Some(70);
        job.percentiles_us = vec![(50.0, 9.5)];
        let report = Report {
            results: vec![job],
            core_count: 1,
        };
        let json = serde_json::to_value(&report).unwrap();
        for key in [
            "job",
            "core_mask",
            "workload",
            "percentage",
            "status",
            "queue_depth",
            "io_size",
            "runtime",
            "iops",
            "mibps",
            "io_failed",
            "io_timeout",
            "avg_latency_us",
            "min_latency_us",
            "max_latency_us",
        ] {
            assert!(!json["results"][0][key].is_null(), "{key}");
        }
        assert_eq!(json["results"][0]["status"], "finished");
        assert_eq!(json["core_count"], 1);
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    }

    #[test]
    fn percentiles_and_histograms_are_printed_as_bdevperf_does() {
        let mut job = sample("Malloc0", 1000.0);
        job.percentiles_us = vec![(99.99, 12.345)];
        job.histogram_us = vec![(1.0, 2.0, 3, 100.0)];
        let table = Report {
            results: vec![job],
            core_count: 1,
        }
        .table();
        assert!(table.contains(" 99.99000% :    12.345us"), "{table}");
        assert!(
            table.contains("    1.000 -     2.000:  100.0000%  (        3)"),
            "{table}"
        );
    }

    #[test]
    fn a_failed_job_is_found() {
        let mut bad = sample("Null0", 1.0);
        bad.status = Status::Failed;
        bad.error = Some("block 3 differs".into());
        let report = Report {
            results: vec![sample("Malloc0", 1.0), bad],
            core_count: 1,
        };
        assert_eq!(report.failure(), Some(("Null0", "block 3 differs")));
        assert!(report.table().contains("with error: block 3 differs"));
    }
}
