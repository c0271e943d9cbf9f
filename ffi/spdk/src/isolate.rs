//! Tests that need SPDK, each in a process of its own.
//!
//! DPDK can be started once in a process, so a test that starts it cannot share its process with
//! another. [`run`] starts the test binary again for the one test and passes on what it said.

use std::process::{Command, Output};

const MARK: &str = "ORIEL_ISOLATED_TEST";

/// Runs `body` in a child process that runs nothing but the test `name`, the test's full path as
/// the test runner prints it.
///
/// # Panics
/// When the child fails, with everything that it printed.
pub fn run(name: &str, body: impl FnOnce()) {
    let Some(output) = in_child(name, body) else {
        return;
    };
    let printed = printed(&output);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{name} in its own process: {}, or no test of that name\n{printed}",
        output.status
    );
}

/// Like [`run`] for a body that must panic with a message that contains `sentence`.
///
/// # Panics
/// When it does not.
pub fn expect_panic(name: &str, sentence: &str, body: impl FnOnce()) {
    let Some(output) = in_child(name, body) else {
        return;
    };
    let printed = printed(&output);
    assert!(
        !output.status.success() && printed.contains(sentence),
        "{name} in its own process should have ended with '{sentence}': {}\n{printed}",
        output.status
    );
}

fn printed(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("--- stdout\n{stdout}--- stderr\n{stderr}")
}

/// In the child: runs the body. In the parent: runs the child and returns what came of it.
fn in_child(name: &str, body: impl FnOnce()) -> Option<Output> {
    if std::env::var_os(MARK).is_some_and(|mark| mark == name) {
        body();
        return None;
    }
    let test_binary = std::env::current_exe().expect("the test binary has a path");
    let child = Command::new(test_binary)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .output();
    match child {
        Ok(output) => Some(output),
        Err(error) => panic!("the test {name} could not start its process: {error}"),
    }
}
