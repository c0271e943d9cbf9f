//! `oriel`: puts blobs into a storage node and gets them out again. `oriel --help` says more.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    oriel_cli::run()
}
