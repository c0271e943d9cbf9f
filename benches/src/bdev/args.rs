//! The command line of `oriel-perf bdev`: bdevperf's letters, with names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::cores;
use crate::load::workload::Workload;
use crate::size;

/// Loads bdevs the way SPDK's bdevperf does, with its flags, its table and its JSON keys.
#[derive(Debug, Clone, Args)]
pub(crate) struct BdevArgs {
    /// I/Os in flight for each job [default: 32]
    #[arg(short = 'q', long, value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub(crate) queue_depth: Option<u32>,
    /// Size of an I/O in bytes, or as 4k, 128k, 1M [default: 4096]
    #[arg(short = 'o', long, value_parser = size::parse)]
    pub(crate) io_size: Option<u64>,
    /// read, write, randread, randwrite, rw, randrw, verify, reset, unmap, flush or write_zeroes [default: randread]
    #[arg(short = 'w', long)]
    pub(crate) workload: Option<Workload>,
    /// How long to run, in seconds
    #[arg(short = 't', long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub(crate) time: u32,
    /// Share of reads in percent, for rw and randrw
    #[arg(short = 'M', long, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) read_percent: Option<u8>,
    /// The bdev to load [default: every one in the configuration]. Malloc0 and Null0 need no configuration.
    #[arg(short = 'T', long)]
    pub(crate) bdev: Option<String>,
    /// Cores to use: a hexadecimal mask (0x3) or a list ([0,1])
    #[arg(short = 'm', long, default_value = "0x1", value_parser = cores::parse)]
    pub(crate) core_mask: BTreeSet<u32>,
    /// SPDK's JSON configuration
    #[arg(short = 'c', long)]
    pub(crate) config: Option<PathBuf>,
    /// Show the speed every so many seconds
    #[arg(short = 'S', long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) period: Option<u32>,
    /// Time every I/O and print percentiles; twice for the whole histogram
    #[arg(short = 'l', action = ArgAction::Count)]
    pub(crate) latency: u8,
    /// Time every I/O and print percentiles and the whole histogram
    #[arg(short = 'L', long)]
    pub(crate) latency_histogram: bool,
    /// bdevperf's job file; the command line overrides its [global]
    #[arg(short = 'j', long, conflicts_with_all = ["all_cores", "against"])]
    pub(crate) job_file: Option<PathBuf>,
    /// Skew random offsets: zipf with this theta
    #[arg(short = 'F', long)]
    pub(crate) zipf: Option<f64>,
    /// Load each bdev from every core, each core its own part
    #[arg(short = 'C', long)]
    pub(crate) all_cores: bool,
    /// Count I/Os that take longer than so many seconds (TO/s)
    #[arg(short = 'k', long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout: Option<u32>,
    /// Start, and wait for the JSON-RPC call perform_tests on the socket of -r
    #[arg(short = 'z', long, conflicts_with = "against")]
    pub(crate) wait_for_tests: bool,
    /// The socket of -z
    #[arg(short = 'r', long, default_value = "/var/tmp/spdk.sock")]
    pub(crate) rpc_socket: PathBuf,
    /// Go on after a failed I/O
    #[arg(short = 'f', long)]
    pub(crate) keep_going: bool,
    /// Accepted for bdevperf's sake: no zero-copy calls, as always here
    #[arg(short = 'x', conflicts_with = "zero_copy")]
    pub(crate) no_zero_copy: bool,
    /// bdevperf's zero-copy calls; not offered here
    #[arg(short = 'Z')]
    pub(crate) zero_copy: bool,
    /// Memory for SPDK in MiB [default: what the bdevs and jobs need, at least 512]
    #[arg(short = 's', long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) memory: Option<u32>,
    /// Run without hugepages even where there are some
    #[arg(long, conflicts_with = "huge")]
    pub(crate) no_huge: bool,
    /// Run with hugepages, or not at all
    #[arg(long)]
    pub(crate) huge: bool,
    /// Load this file or block device
    #[arg(long, conflicts_with = "config")]
    pub(crate) file: Option<PathBuf>,
    /// How --file is read and written
    #[arg(long, default_value = "aio", requires = "file")]
    pub(crate) file_api: FileApi,
    /// Block size of --file [default: the device's own, 512 for a file]
    #[arg(long, requires = "file", value_parser = size::parse)]
    pub(crate) block_size: Option<u64>,
    /// Write blocks that say where they belong, and check every block read
    #[arg(long)]
    pub(crate) verify: bool,
    /// At most so many I/Os a second, all jobs together
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate_iops: Option<u64>,
    /// At most so many MiB a second, all jobs together
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate_mbps: Option<u64>,
    /// Seed of offsets and patterns
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Compare with this bdevperf (the program, or an SPDK build tree), each in turn
    #[arg(long, value_name = "BDEVPERF")]
    pub(crate) against: Option<PathBuf>,
    /// Rounds of --against
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), requires = "against")]
    pub(crate) rounds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileApi {
    Aio,
    Uring,
}

impl BdevArgs {
    /// Whether every I/O is timed, rather than a sample.
    pub(crate) fn times_every_io(&self) -> bool {
        self.latency > 0 || self.latency_histogram
    }

    pub(crate) fn prints_histogram(&self) -> bool {
        self.latency > 1 || self.latency_histogram
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        args: BdevArgs,
    }

    pub(crate) fn args(line: &str) -> Result<BdevArgs, clap::Error> {
        Line::try_parse_from(line.split_whitespace()).map(|line| line.args)
    }

    #[test]
    fn bdevperfs_letters_mean_what_they_mean_there() {
        let args = args("-q 32 -o 4096 -w randrw -M 70 -t 10 -T Malloc0 -m 0x3 -c b.json -S 1 -ll -F 1.1 -C -k 5 -f -x -s 1024").unwrap();
        assert_eq!(
            (args.queue_depth, args.io_size, args.time),
            (Some(32), Some(4096), 10)
        );
        assert_eq!(
            (args.workload, args.read_percent),
            (Some(Workload::RandRw), Some(70))
        );
        assert_eq!(args.core_mask, BTreeSet::from([0, 1]));
        assert!(
            args.all_cores && args.keep_going && args.times_every_io() && args.prints_histogram()
        );
        assert_eq!(
            (args.period, args.zipf, args.timeout, args.memory),
            (Some(1), Some(1.1), Some(5), Some(1024))
        );
    }

    #[test]
    fn impossible_values_are_refused_at_the_door() {
        for bad in [
            "-q 0",
            "-q 65536",
            "-o 0",
            "-o 4kb",
            "-w reed",
            "-t 0",
            "-M 101",
            "-m zz",
            "-C -j f",
            "--rate-iops 0",
            "-z --against x",
            "--file a -c b",
            "--huge --no-huge",
            "--rounds 3",
            "-x -Z",
            "--file-api uring",
        ] {
            assert!(args(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_l_is_a_summary_and_two_or_a_capital_the_histogram() {
        let one = args("-l").unwrap();
        assert!(one.times_every_io() && !one.prints_histogram());
        assert!(args("-L").unwrap().prints_histogram());
        assert!(!args("").unwrap().times_every_io());
    }
}
