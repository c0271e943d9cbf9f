//! Tests that need SPDK, each in a process of its own.
//!
//! DPDK can be started once in a process, so a test that starts it cannot share its process with
//! another. [`run`] starts the test binary again for the one test and passes on what it said.

use std::process::{Command, exit};

const MARK: &str = "ORIEL_ISOLATED_TEST";

/// Runs `body` in a child process that runs nothing but the test `name`, the test's full path as
/// the test runner prints it.
///
/// # Panics
/// When the child fails, with everything that it printed.
pub fn run(name: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some_and(|mark| mark == name) {
        body();
        // The runner's own threads would outlive the test; everything it printed is flushed.
        return;
    }
    let test_binary = std::env::current_exe().expect("the test binary has a path");
    let child = Command::new(test_binary)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .output();
    let output = match child {
        Ok(output) => output,
        Err(error) => {
            eprintln!("the test {name} could not start its process: {error}");
            exit(1);
        }
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stdout.contains("1 passed"),
        "{name} in its own process: {}, or no test of that name\n--- stdout\n{stdout}--- stderr\n{stderr}",
        output.status
    );
    assert!(
        output.status.success(),
        "{name} in its own process: {}\n{stderr}",
        output.status
    );
}
