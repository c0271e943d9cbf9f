//! `oriel`, the command line of a storage node's clients.
//!
//! ```text
//!   arguments (args) ──► node (connect: address, discovery, connection) ──► a command ──► lines of text or JSON (out)
//!                                                                             │
//!                  put, get, rm: a crew of threads, one blob each at a time ──┘  first failure ──► exit status (error)
//! ```
//!
//! What was asked for goes to standard output, one line or one JSON object a thing; everything else goes to standard error.
//! A key that `put` has printed is durable on the node.
#![forbid(unsafe_code)]

mod address;
mod args;
mod connect;
mod crew;
mod error;
mod files;
mod get;
mod keys;
mod limits;
mod link;
mod list;
mod look;
mod out;
mod ping;
mod place;
mod put;
mod stream;
mod top;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Arguments, Plan, What};
use crate::connect::Node;
use crate::error::{CliError, Exit};
use crate::out::Out;

/// Runs the program with its arguments to its end.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let out = Out::new(arguments.common.json, std::io::stderr().is_terminal());
    let exit = match work(&arguments, &out) {
        Ok(exit) => exit,
        Err(error) => {
            out.failed(&error, None);
            error.exit()
        }
    };
    ExitCode::from(exit.status())
}

fn work(arguments: &Arguments, out: &Out) -> Result<Exit, CliError> {
    if let What::Completions { shell } = arguments.what {
        // Into memory first: the generator panics where nobody reads what it writes.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "oriel", &mut script);
        std::io::stdout()
            .write_all(&script)
            .map_err(CliError::output)?;
        return Ok(Exit::Done);
    }
    // What is wrong with the arguments shows before anything is connected to.
    let mut plan = arguments.what.plan(arguments.common.json)?;
    let node = Node::connect(&arguments.common)?;
    let done = match &mut plan {
        Plan::Put(items, jobs) => put::run(&node, out, items, *jobs),
        Plan::Get(gets, jobs) => get::run(&node, out, gets, *jobs),
        Plan::Remove(keys, force, jobs) => look::remove(&node, out, keys, *force, *jobs),
        Plan::Probe(keys) => look::probe(&node, out, keys),
        Plan::Pin(keys, time) => look::pin(&node, out, keys, *time),
        Plan::Locate(keys) => look::locate(&node, out, keys),
        Plan::List(prefix, long) => look::list(&node, out, *prefix, *long),
        Plan::Stat => look::stat(&node, out),
        Plan::Map => look::map(&node, out),
        Plan::Ping(count, interval) => ping::run(&node, out, *count, *interval),
        Plan::Top(once, interval) => top::run(&node, out, *once, *interval),
    };
    node.close();
    done
}
