//! What the program is told, and what it makes of that.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use oriel_protocol::{Key, Prefix};

use crate::address::To;
use crate::error::{CliError, UsageError};
use crate::files;
use crate::get::Get;
use crate::keys::{Wanted, below, of_name, parse_key, parse_prefix};
use crate::limits::{JOBS_DEFAULT, JOBS_MAX};
use crate::list;
use crate::place::Place;
use crate::put::Put;

const EXAMPLES: &str = "\
Examples, after `orield --dev /tmp/node` in another terminal:
  export ORIEL_TO=nvme+tcp://127.0.0.1/default
  oriel put -r models > keys          store every file of a folder; one line each: KEY  PATH
  oriel get --list keys --into copy   get them all back, checked, into another folder
  echo hello | oriel put --name hi -  store what comes by a pipe, under a name
  oriel get --name hi                 and get it back
  oriel stat; oriel top               how full the node is, once and live
  oriel --to /dev/nvme0n1 ls          the same by the kernel's initiator, over TCP or RDMA, as root

Exit status: 0 done; 1 failed; 2 wrong usage; 3 there is no such blob; 4 the node refuses
(full, over quota, too long); 5 the node is not to be reached; 6 the blob is damaged.
docs/cli.md says more.";

/// Puts blobs into a storage node and gets them out again, over NVMe/TCP or by the kernel's NVMe initiator.
#[derive(Parser)]
#[command(name = "oriel", version, after_help = EXAMPLES, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) what: What,
}

#[derive(Args)]
pub(crate) struct Common {
    /// The realm, as nvme+tcp://HOST[:PORT]/REALM, or with the NQN of a subsystem in place of the realm; or, where the kernel has
    /// attached it (nvme connect), its device, as in /dev/nvme0n1
    #[arg(long, value_name = "URL|DEVICE", env = "ORIEL_TO", global = true)]
    pub(crate) to: Option<To>,
    /// This host's NQN, for realms that let only some hosts in; a device has that of its nvme connect
    #[arg(long, value_name = "NQN", env = "ORIEL_HOST", global = true)]
    pub(crate) host: Option<String>,
    /// How many seconds to wait for a node that does not answer, or is away
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) timeout: u16,
    /// Print JSON, one object a line; errors too, on standard error
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Subcommand)]
pub(crate) enum What {
    /// Store files as blobs
    ///
    /// Prints KEY and PATH of each once it is durable. A blob's key is the BLAKE3 of its bytes unless --name or --key is
    /// given. The first to put a key wins: what is there stays.
    Put(PutArgs),
    /// Read blobs, checked, to files or standard output
    ///
    /// A file appears when it is whole, or not at all.
    Get(GetArgs),
    /// Print the node's limits and figures
    Stat,
    /// Print the keys of the realm's blobs
    Ls {
        /// Only keys that begin so: up to 16 hexadecimal digits, an even number
        #[arg(long, value_name = "HEX", value_parser = parse_prefix, default_value = "", hide_default_value = true)]
        prefix: Prefix,
        /// In front of each key its length in bytes
        #[arg(short, long)]
        long: bool,
    },
    /// Delete blobs
    Rm {
        #[command(flatten)]
        keys: Keys,
        /// Those that are not there are no failure
        #[arg(short, long)]
        force: bool,
        #[command(flatten)]
        jobs: Jobs,
    },
    /// Say which blobs are there, without using them
    Probe(Keys),
    /// Have a cache keep blobs for a time, whatever it needs room for
    ///
    /// A pin ends by itself, after ten minutes at most: pin again what is to stay for longer.
    Pin {
        #[command(flatten)]
        keys: Keys,
        /// For so many seconds; 0 ends the pins
        #[arg(long = "for", value_name = "SECONDS", value_parser = seconds, default_value = "60")]
        time: Duration,
    },
    /// Say where blobs are in the namespace, for plain NVMe READs
    Locate(Keys),
    /// Say which routing table the node has
    Map,
    /// Measure how soon the node answers
    Ping(PingArgs),
    /// Show a live picture of the node
    Top(TopArgs),
    /// Print a script that completes commands in a shell
    ///
    /// As in: source <(oriel completions bash)
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args)]
pub(crate) struct Jobs {
    /// How many blobs are under way at a time
    #[arg(short, long, default_value_t = JOBS_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=i64::from(JOBS_MAX)))]
    pub(crate) jobs: u16,
}

#[derive(Args)]
pub(crate) struct PutArgs {
    /// Files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Also folders, with all files in them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Store the one file under a name
    #[arg(long, value_name = "TEXT", conflicts_with = "key")]
    pub(crate) name: Option<String>,
    /// Store the one file under a key of your own, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = parse_key)]
    pub(crate) key: Option<Key>,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
}

/// Which blobs.
#[derive(Args)]
pub(crate) struct Keys {
    /// Keys of blobs, 64 hexadecimal digits each
    #[arg(value_name = "KEY", value_parser = parse_key)]
    keys: Vec<Key>,
    /// The name that a blob was put under; may be given several times
    #[arg(long, value_name = "TEXT")]
    name: Vec<String>,
    /// A file with what put or ls has printed; - is standard input
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) keys: Keys,
    /// Write the one blob to this file; - is standard output, which is what happens without
    #[arg(short, long, value_name = "FILE", conflicts_with = "into")]
    pub(crate) output: Option<PathBuf>,
    /// Write the blobs into this folder: by their paths in the list, by their names, or by their keys
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) jobs: Jobs,
}

#[derive(Args)]
pub(crate) struct PingArgs {
    /// How many questions
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Seconds between them
    #[arg(short, long, default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
}

#[derive(Args)]
pub(crate) struct TopArgs {
    /// Print one picture and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Seconds between pictures
    #[arg(short, long, default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (0.0..=86_400.0).contains(seconds));
    let seconds: f64 = seconds.ok_or("give seconds from 0 to 86400, as in 0.5")?;
    Ok(Duration::from_secs_f64(seconds))
}

impl Keys {
    fn wanted(&self) -> Result<Vec<Wanted>, CliError> {
        let mut all: Vec<Wanted> = self.keys.iter().copied().map(Wanted::of_key).collect();
        all.extend(self.name.iter().map(|name| Wanted::of_name(name)));
        match &self.list {
            Some(file) => all.extend(list::read(file)?),
            None if all.is_empty() => return Err(UsageError::NoKeys.into()),
            None => {}
        }
        Ok(all)
    }
}

/// What is to be done, all arguments having been looked at.
pub(crate) enum Plan {
    Put(Vec<Put>, u16),
    Get(Vec<Get>, u16),
    Remove(Vec<Wanted>, bool, u16),
    Probe(Vec<Wanted>),
    Pin(Vec<Wanted>, Duration),
    Locate(Vec<Wanted>),
    List(Prefix, bool),
    Stat,
    Map,
    Ping(u32, Duration),
    Top(bool, Duration),
}

impl What {
    pub(crate) fn plan(&self, is_json: bool) -> Result<Plan, CliError> {
        Ok(match self {
            Self::Put(args) => Plan::Put(puts(args)?, args.jobs.jobs),
            Self::Get(args) => Plan::Get(gets(args, is_json)?, args.jobs.jobs),
            Self::Rm { keys, force, jobs } => Plan::Remove(keys.wanted()?, *force, jobs.jobs),
            Self::Probe(keys) => Plan::Probe(keys.wanted()?),
            Self::Pin { keys, time } => Plan::Pin(keys.wanted()?, *time),
            Self::Locate(keys) => Plan::Locate(keys.wanted()?),
            Self::Ls { prefix, long } => Plan::List(*prefix, *long),
            Self::Stat => Plan::Stat,
            // The completions were printed before anything was planned.
            Self::Map | Self::Completions { .. } => Plan::Map,
            Self::Ping(args) => Plan::Ping(args.count, args.interval),
            Self::Top(args) => {
                if !args.once && !is_json && !std::io::stdout().is_terminal() {
                    return Err(UsageError::NoTerminal.into());
                }
                Plan::Top(args.once, args.interval)
            }
        })
    }
}

fn puts(args: &PutArgs) -> Result<Vec<Put>, UsageError> {
    let items = files::items(&args.files, args.recursive)?;
    let key = args.name.as_deref().map(of_name).or(args.key);
    if key.is_some() && items.len() != 1 {
        return Err(UsageError::OneName { count: items.len() });
    }
    Ok(items.into_iter().map(|item| Put { item, key }).collect())
}

fn gets(args: &GetArgs, is_json: bool) -> Result<Vec<Get>, CliError> {
    let wanted = args.keys.wanted()?;
    if let Some(folder) = &args.into {
        return Ok(gets_into(wanted, folder)?);
    }
    let count = wanted.len();
    let Ok([wanted]) = <[Wanted; 1]>::try_from(wanted) else {
        return Err(UsageError::ManyBlobs { count }.into());
    };
    let place = match &args.output {
        Some(path) if path.as_os_str() != "-" => Place::File(path.clone()),
        _ if is_json => return Err(UsageError::JsonAndBlob.into()),
        None if std::io::stdout().is_terminal() => return Err(UsageError::Terminal.into()),
        _ => Place::Output,
    };
    Ok(vec![Get {
        wanted,
        place,
        makes_folders: false,
    }])
}

fn gets_into(wanted: Vec<Wanted>, folder: &Path) -> Result<Vec<Get>, UsageError> {
    let mut paths = BTreeSet::new();
    wanted
        .into_iter()
        .map(|wanted| {
            let path = match &wanted.label {
                None => folder.join(wanted.key.to_string()),
                Some(label) => {
                    let outside = || UsageError::Outside {
                        label: label.clone(),
                    };
                    below(folder, label).ok_or_else(outside)?
                }
            };
            if !paths.insert(path.clone()) {
                return Err(UsageError::Twice { path });
            }
            Ok(Get {
                wanted,
                place: Place::File(path),
                makes_folders: true,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn plan(words: &[&str]) -> Result<Plan, CliError> {
        let words = ["oriel"].iter().chain(words);
        Arguments::try_parse_from(words).unwrap().what.plan(false)
    }

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_connected_to() {
        let key = "00".repeat(32);
        for (words, says) in [
            (vec!["get", "--into", "d"], "say which blobs"),
            (
                vec!["get", &key, "--name", "n", "-o", "f"],
                "2 blobs do not go into one file",
            ),
            (
                vec!["get", "--name", "../n", "--into", "d"],
                "leads to no file below",
            ),
            (
                vec!["get", &key, &key, "--into", "d"],
                "two blobs would be written to d/0000",
            ),
            (
                vec!["put", "--name", "n", "-", "/nonexistent"],
                "there are 2 files",
            ),
            (vec!["put", "/"], "say -r"),
        ] {
            let error = plan(&words).map(drop).unwrap_err();
            assert!(error.to_string().contains(says), "{words:?}: {error}");
            assert_eq!(error.exit().status(), 2);
        }
    }

    #[test]
    fn blobs_get_the_paths_of_their_lists() {
        let Ok(Plan::Get(gets, jobs)) = plan(&["get", "--name", "/a/b", "--into", "d", "-j", "3"])
        else {
            panic!("it is a get");
        };
        assert_eq!(jobs, 3);
        assert_eq!(gets[0].place, Place::File("d/a/b".into()));
        assert!(gets[0].makes_folders);
    }
}
