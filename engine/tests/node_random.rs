//! A store of several drives in use, by seed, while drives fail, are pulled, are missing, are added, drained and forgotten,
//! and the node crashes.
//!
//! ```text
//!  cargo test -p oriel-engine --test node_random                                   a fixed number of seeds
//!  ORIEL_SIM_SEED=42 cargo test -p oriel-engine --test node_random seeds           that one
//!  ORIEL_SIM_HOURS=1 ORIEL_SIM_START=1000 cargo test --release -p oriel-engine --test node_random -- --ignored soak --nocapture
//! ```
#![cfg(not(loom))]
// Helpers of tests are tests as well, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod node_sim;
mod store_sim;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use node_sim::life::{Report, Simulation};
use node_sim::plan::Plan;

/// Seeds that are played in CI.
const SEEDS: u64 = 1500;

fn setting(name: &str) -> Option<f64> {
    let set = std::env::var(name).ok();
    set.map(|set| set.parse().unwrap())
}

/// Seeds of longer runs that have found something.
const FOUND: [u64; 6] = [
    1_001_408, 1_003_953, 1_008_475, 1_010_937, 5_001_015, 5_001_067,
];

/// What was wrong, if anything.
fn play(seed: u64) -> Result<Report, String> {
    let plan = Plan::of(seed);
    let played = catch_unwind(AssertUnwindSafe(|| Simulation::run(plan.clone())));
    let wrong = match played {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(wrong)) => wrong,
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(words), _) => format!("panic: {words}"),
            (_, Some(words)) => format!("panic: {words}"),
            _ => "panic".into(),
        },
    };
    Err(format!(
        "{wrong}\n  replay: ORIEL_SIM_SEED={seed} cargo test -p oriel-engine --test node_random seeds\n  {plan:?}"
    ))
}

#[test]
fn seeds_show_nothing_wrong() {
    let seeds = match setting("ORIEL_SIM_SEED") {
        Some(seed) => seed as u64..seed as u64 + 1,
        None => 0..setting("ORIEL_SIM_SEEDS").map_or(SEEDS, |seeds| seeds as u64),
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8)) as u64;
    let parts: Vec<(Report, Vec<String>)> = std::thread::scope(|scope| {
        let part = |rest| {
            let seeds = seeds.clone().filter(move |seed| seed % threads == rest);
            let found = FOUND.iter().copied().filter(move |_| rest == 0);
            scope.spawn(move || {
                let mut all = Report::default();
                let mut wrong = Vec::new();
                for seed in seeds.chain(found) {
                    match play(seed) {
                        Ok(report) => all.add(&report),
                        Err(words) => {
                            println!("{words}");
                            wrong.push(words);
                        }
                    }
                }
                (all, wrong)
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect()
    });
    let mut all = Report::default();
    let mut wrong = Vec::new();
    for (report, words) in parts {
        all.add(&report);
        wrong.extend(words);
    }
    println!("{} seeds: {all:?}", seeds.end - seeds.start);
    assert!(
        wrong.is_empty(),
        "{} seeds found something, among them\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
}

/// Goes on for so many hours from a seed, and says what it found and how far it came.
#[test]
#[ignore = "takes as long as it is told to"]
fn soak() {
    let hours = setting("ORIEL_SIM_HOURS").unwrap_or(1.0);
    let start = setting("ORIEL_SIM_START").unwrap_or(1e6) as u64;
    let began = Instant::now();
    let mut told = Instant::now();
    let mut all = Report::default();
    let (mut wrong, mut seed) = (0, start);
    while began.elapsed() < Duration::from_secs_f64(hours * 3600.0) {
        match play(seed) {
            Ok(report) => all.add(&report),
            Err(words) => {
                wrong += 1;
                println!("{words}");
            }
        }
        seed += 1;
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!(
                "{} seeds from {start}, {wrong} found something: {all:?}",
                seed - start
            );
        }
    }
    let per_hour = (seed - start) as f64 / began.elapsed().as_secs_f64() * 3600.0;
    println!(
        "{} seeds from {start}, {per_hour:.0} an hour, {wrong} found something: {all:?}",
        seed - start
    );
    assert_eq!(wrong, 0);
}
