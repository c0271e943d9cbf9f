//! Reactors on SPDK's threads: the executor, SPDK's messages and pollers, and
//! block I/O from tasks. Each test in a process of its own, unprivileged.
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use oriel_engine::reactor::*;
use oriel_spdk::bdev::{Access, BdevDesc, BlockRange, create};
use oriel_spdk::thread::{Poller, ThreadHandle};
use oriel_spdk::{CoreSet, DmaBuf, EnvOptions, SpdkThread, Subsystems, isolate};

/// SPDK and DPDK come without ThreadSanitizer, which then takes their rings and
/// their memory pools for races. It looks at reactors without them.
fn synchronisation_is_unseen() -> bool {
    let under_tsan = std::env::var_os("TSAN_OPTIONS").is_some();
    if under_tsan {
        eprintln!("skipped: ThreadSanitizer does not see how SPDK synchronises");
    }
    under_tsan
}

fn config() -> ReactorConfig {
    ReactorConfig {
        signals: false,
        // The tests share two cores with whatever else runs there.
        held_limit: Duration::from_secs(5),
        backoff: Some(Backoff::small_machine()),
        ..ReactorConfig::default()
    }
}

/// Runs `root` on the reactors of the first `cores` cores that we may use.
fn on_env<F, Fut>(cores: usize, config: ReactorConfig, root: F) -> Fut::Output
where
    F: FnOnce(ReactorHandle) -> Fut,
    Fut: Future + 'static,
    Fut::Output: 'static,
{
    let env = EnvOptions {
        cores: CoreSet::allowed().first(cores),
        ..EnvOptions::default()
    };
    let env = env.start().unwrap();
    start(&env, config, root).unwrap().value
}

fn attach_spdk_thread(name: &str) -> ThreadHandle {
    let thread = SpdkThread::create(name).unwrap();
    let handle = thread.handle();
    attach(thread);
    handle
}

#[test]
fn messages_and_pollers_of_an_spdk_thread_run_on_its_reactor() {
    if synchronisation_is_unseen() {
        return;
    }
    isolate::run(
        "messages_and_pollers_of_an_spdk_thread_run_on_its_reactor",
        || {
            on_env(2, config(), |reactors| async move {
                let cores = reactors.cores();
                let main = attach_spdk_thread("main");
                let other = *cores.last().unwrap();
                let there = reactors.spawn(other, "make a thread", move || async move {
                    attach_spdk_thread("other")
                });
                let there = there.unwrap().await.unwrap();

                // To the other core's SPDK thread and back, by SPDK's own messages.
                let (reply, answer) = std::sync::mpsc::channel();
                there
                    .send(move || {
                        let ran_on = current_core();
                        main.send(move || reply.send((ran_on, current_core())).unwrap())
                            .unwrap();
                    })
                    .unwrap();
                let answer = loop {
                    match answer.try_recv() {
                        Ok(answer) => break answer,
                        Err(_) => yield_now().await,
                    }
                };
                assert_eq!(answer, (other, cores[0]));

                let calls = Rc::new(Cell::new(0));
                let counted = calls.clone();
                let poller = Poller::register("counts", Duration::ZERO, move || {
                    counted.set(counted.get() + 1);
                    false
                });
                while calls.get() < 100 {
                    yield_now().await;
                }
                drop(poller);
                let seen = calls.get();
                sleep(Duration::from_millis(5)).await;
                assert_eq!(calls.get(), seen, "a dropped poller is not called");
            });
        },
    );
}

#[test]
fn tasks_on_every_core_write_and_read_one_drive() {
    if synchronisation_is_unseen() {
        return;
    }
    isolate::run("tasks_on_every_core_write_and_read_one_drive", || {
        on_env(2, config(), |reactors| async move {
            attach_spdk_thread("main");
            let subsystems = Subsystems::start().await.unwrap();
            create::malloc(&subsystems, "Malloc0", 1024, 512)
                .await
                .unwrap();
            let mut waiting = Vec::new();
            for (index, core) in reactors.cores().into_iter().enumerate() {
                let there = reactors.spawn(core, "write and read", move || async move {
                    if index > 0 {
                        attach_spdk_thread("worker");
                    }
                    write_and_read(index as u64).await;
                });
                waiting.push(there.unwrap());
            }
            for there in waiting {
                there.await.unwrap();
            }
            create::delete(&subsystems, create::Kind::Malloc, "Malloc0")
                .await
                .unwrap();
            subsystems.stop().await;
        });
    });
}

async fn write_and_read(part: u64) {
    let desc = BdevDesc::open("Malloc0", Access::ReadWrite, |_| {}).unwrap();
    let channel = Rc::new(desc.channel().unwrap());
    let tasks: Vec<_> = (0..16u64)
        .map(|number| {
            let channel = channel.clone();
            let task = async move {
                let block = BlockRange::new(part * 512 + number, 1);
                let pattern = (part * 16 + number) as u8;
                let mut data = DmaBuf::zeroed(512, 512).unwrap();
                data.fill(pattern);
                let (data, written) = channel.write_at(data, block).await;
                written.unwrap();
                let (data, read) = channel.read_at(data, block).await;
                read.unwrap();
                assert!(data.iter().all(|&byte| byte == pattern));
            };
            spawn_local("one block", task).unwrap()
        })
        .collect();
    for task in tasks {
        task.await;
    }
}

#[test]
fn the_watchdog_names_an_spdk_thread_whose_poller_does_not_return() {
    if synchronisation_is_unseen() {
        return;
    }
    isolate::run(
        "the_watchdog_names_an_spdk_thread_whose_poller_does_not_return",
        || {
            let (report, reports) = std::sync::mpsc::channel();
            let config = ReactorConfig {
                held_limit: Duration::from_millis(300),
                on_held: Some(std::sync::Arc::new(move |held| {
                    let _ = report.send(held.by.to_string());
                })),
                ..config()
            };
            on_env(1, config, |_| async {
                attach_spdk_thread("slow disk");
                let calls = Rc::new(Cell::new(0));
                let counted = calls.clone();
                let poller = Poller::register("sleeps", Duration::ZERO, move || {
                    counted.set(counted.get() + 1);
                    if counted.get() == 1 {
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    false
                });
                while calls.get() < 2 {
                    yield_now().await;
                }
                drop(poller);
            });
            let reports: Vec<_> = reports.try_iter().collect();
            assert_eq!(reports, ["SPDK thread 'slow disk'"]);
        },
    );
}

#[test]
fn an_spdk_thread_that_keeps_a_poller_is_named_when_the_deadline_passes() {
    if synchronisation_is_unseen() {
        return;
    }
    isolate::run(
        "an_spdk_thread_that_keeps_a_poller_is_named_when_the_deadline_passes",
        || {
            let env = EnvOptions::default().start().unwrap();
            let config = ReactorConfig {
                shutdown_deadline: Duration::from_millis(1200),
                ..config()
            };
            let ended = start(&env, config, |_| async {
                attach_spdk_thread("forgetful");
                std::mem::forget(Poller::register("stays", Duration::ZERO, || true));
            });
            let error = ended.unwrap_err();
            assert_eq!(error.exit_status(), ExitStatus::DeadlinePassed);
            let sentence = error.to_string();
            assert!(
                sentence.contains("SPDK thread 'forgetful' has not exited"),
                "{sentence}"
            );
            // The thread is still there, so the environment cannot be taken down: the process ends.
            std::mem::forget(env);
        },
    );
}
