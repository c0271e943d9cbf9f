//! A storage node: `orield --dev DIR`, or `orield --config FILE`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use oriel_nvmf_target::config::Config;
use oriel_nvmf_target::daemon::{self, DaemonError, Source};
use oriel_spdk::nvmf::{Address, TransportKind};
use tracing_subscriber::filter::LevelFilter;

const EXAMPLES: &str = "\
A node for trying out, and what to do with it in another terminal:
  orield --dev /tmp/node
  oriel --to nvme+tcp://127.0.0.1/default put -r docs

A node with a configuration, which says at least so much:
  node = \"n1\"
  store = \"00112233445566778899aabbccddeeff\"    # draw another: openssl rand -hex 16
  device = [{ path = \"/srv/oriel/drive\" }]      # a file or block device, or pci = \"0000:3b:00.0\"
  listener = [{ address = \"127.0.0.1:4420\" }]   # one of this machine's that hosts can reach
  realm = [{ name = \"models\", id = 1, hosts = \"any\" }]
In this order:
  orield --config node.toml config     is it right? Prints it with all that it leaves out
  orield --config node.toml format     once: its devices become the drives of a new store
  orield --config node.toml            serves; SIGHUP has it read its configuration again
  orield --config node.toml check      when it does not run: reads all, names what is wrong

Exit status: 0 done; 1 it failed, or the check found something; 2 wrong usage.
docs/node.md says more.";

/// Serves the blobs on its drives to hosts, as NVMe namespaces over TCP and RDMA.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, max_term_width = 120)]
struct Options {
    #[command(flatten)]
    node: Which,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The node's configuration.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// A node for trying out: on a file in this directory (oriel-dev if none is named), reached from this machine alone.
    #[arg(long, value_name = "DIR", global = true, num_args = 0..=1, default_missing_value = "oriel-dev")]
    dev: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// Serves until SIGTERM or SIGINT, which is what happens without a word as well.
    Run {
        /// The port that a new node for trying out listens at.
        #[arg(long, default_value_t = 4420)]
        port: u16,
    },
    /// Prints the configuration with all that it leaves out.
    Config,
    /// Reads everything on the drives of a node that does not run, and names what is wrong there.
    Check,
    /// Makes the configured devices the drives of a new, empty store.
    Format {
        /// Also where there is something on them, which is lost; another store's drives are refused all the same.
        #[arg(long)]
        overwrite: bool,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .with_writer(std::io::stderr)
        .init();
    match work(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orield: {error}");
            ExitCode::FAILURE
        }
    }
}

fn scheme(listener: &Address) -> &'static str {
    match listener.transport {
        TransportKind::Tcp => "tcp",
        TransportKind::Rdma => "rdma",
    }
}

fn work(options: Options) -> Result<(), DaemonError> {
    let what = options.what.unwrap_or(What::Run { port: 4420 });
    let port = match &what {
        What::Run { port } => *port,
        What::Config | What::Check | What::Format { .. } => 4420,
    };
    let source = match (options.node.config, &options.node.dev) {
        (Some(file), _) => Source {
            config: Config::read(&file)?,
            file,
            is_new: false,
        },
        (None, Some(directory)) => daemon::dev(directory, port)?,
        (None, None) => unreachable!("one of them is required"),
    };
    let config = source.config.clone();
    match what {
        What::Config => {
            print!("{}", config.text());
            Ok(())
        }
        What::Check => daemon::check_drives(&config, std::io::stdout()),
        What::Format { overwrite } => daemon::format(&config, overwrite),
        What::Run { .. } => daemon::run(source, move |status| {
            for realm in &config.realms {
                for listener in &config.listeners {
                    println!(
                        "{} at {} {}: nqn.2026-11.io.oriel:{}:{}",
                        realm.name,
                        scheme(listener),
                        listener.socket,
                        config.node,
                        realm.name
                    );
                }
            }
            if let Some(status) = status {
                println!("status at http://{status}/status, figures at http://{status}/metrics");
            }
            println!("ready");
        }),
    }
}
