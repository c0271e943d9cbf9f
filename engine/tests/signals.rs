//! Signals and exit statuses, each scene in a process of its own.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use oriel_engine::reactor::*;

const SCENE: &str = "ORIEL_SIGNAL_SCENE";

/// What a program of ours looks like; the test binary started again plays it.
fn program(scene: &str) -> ! {
    let config = ReactorConfig {
        shutdown_deadline: Duration::from_millis(300),
        backoff: Some(Backoff::small_machine()),
        ..ReactorConfig::default()
    };
    let obstinate = scene == "obstinate";
    let config = ReactorConfig {
        shutdown_deadline: if obstinate {
            Duration::from_secs(60)
        } else {
            config.shutdown_deadline
        },
        ..config
    };
    let scene = scene.to_owned();
    let result = start(OsThreads::unpinned(2), config, |reactors| async move {
        let there = reactors.spawn(CoreId(1), "in flight", move || async move {
            stop_requested().await;
            if obstinate {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(50)).await;
            println!("completed");
        });
        // The runner's "test ... " stands on the same line without this.
        println!("\nready");
        if scene == "main reactor hangs" {
            std::thread::sleep(Duration::from_secs(600));
        }
        if scene == "a task hangs" {
            drop(spawn_local("stubborn", std::future::pending::<()>()));
        }
        stop_requested().await;
        println!("stopping");
        there.unwrap().await.unwrap();
    });
    match result {
        Ok(finished) => {
            println!("signal {:?}", finished.signal);
            std::process::exit(ExitStatus::Clean.code().into())
        }
        Err(error) => {
            eprintln!("{error}");
            error.exit_status().end_process()
        }
    }
}

#[test]
fn play() {
    if let Ok(scene) = std::env::var(SCENE) {
        program(&scene);
    }
}

/// ThreadSanitizer holds a signal back until its thread calls something that it
/// intercepts, which an idle reactor never does.
fn signals_are_held_back() -> bool {
    let under_tsan = std::env::var_os("TSAN_OPTIONS").is_some();
    if under_tsan {
        eprintln!("skipped: ThreadSanitizer holds signals back");
    }
    under_tsan
}

fn stage(scene: &str) -> (Child, BufReader<impl Read>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "play", "--nocapture", "--test-threads=1"])
        .env(SCENE, scene)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    await_line(&mut stdout, "ready");
    (child, stdout)
}

fn await_line(stdout: &mut impl BufRead, wanted: &str) {
    let mut line = String::new();
    while line.trim_end() != wanted {
        line.clear();
        let length = stdout.read_line(&mut line).unwrap();
        assert_ne!(length, 0, "the program ended before it said '{wanted}'");
    }
}

fn send(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

fn end(child: Child, mut stdout: impl Read) -> (Option<i32>, String, String) {
    // A program that does not end is a failure, not a test that hangs.
    let pid = child.id().to_string();
    let (ended, wait) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            let killed = Command::new("kill").args(["-s", "KILL", &pid]).status();
            assert!(killed.unwrap().success());
        }
    });
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    drop(ended);
    killer.join().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said, stderr)
}

#[test]
fn either_signal_completes_what_is_in_flight_and_exits_clean() {
    if signals_are_held_back() {
        return;
    }
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        let (child, stdout) = stage("orderly");
        send(signal, &child);
        let (code, said, stderr) = end(child, stdout);
        assert_eq!(code, Some(0), "{said}{stderr}");
        assert_eq!(
            said,
            format!("stopping\ncompleted\nsignal Some({number})\n")
        );
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    if signals_are_held_back() {
        return;
    }
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let (child, mut stdout) = stage("obstinate");
        send(signal, &child);
        await_line(&mut stdout, "stopping");
        send(signal, &child);
        assert_eq!(end(child, stdout).0, Some(code));
    }
}

#[test]
fn a_task_that_hangs_is_named_and_the_status_is_three() {
    if signals_are_held_back() {
        return;
    }
    let (child, stdout) = stage("a task hangs");
    send("TERM", &child);
    let (code, said, stderr) = end(child, stdout);
    assert_eq!(code, Some(ExitStatus::DeadlinePassed.code().into()));
    assert!(said.contains("completed"), "the rest is done: {said}");
    assert!(stderr.contains("core 0: task 'stubborn'"), "{stderr}");
}

#[test]
fn a_main_reactor_that_hangs_is_ended_by_the_watchdog() {
    if signals_are_held_back() {
        return;
    }
    let (child, stdout) = stage("main reactor hangs");
    send("TERM", &child);
    let (code, _, stderr) = end(child, stdout);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("core 0: held by task 'root'"), "{stderr}");
}

#[test]
fn exit_statuses_are_the_documented_numbers() {
    let all = [
        (ExitStatus::Clean, 0),
        (ExitStatus::Failed, 1),
        (ExitStatus::Usage, 2),
        (ExitStatus::DeadlinePassed, 3),
    ];
    for (status, number) in all {
        assert_eq!(status.code(), number);
        assert_eq!(ExitCode::from(status), ExitCode::from(number));
    }
}
