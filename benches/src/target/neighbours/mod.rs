//! `oriel-perf neighbours` and the area `neighbours` of `oriel-perf gate`: what a node's hosts notice of each other.
//!
//! ```text
//!   core A: a node                                  core B
//!   realm "own"    ── first drive  ◄── TCP ── the host that is measured
//!   realm "other"  ── last drive   ◄── TCP ── its neighbour: stuck, slow, greedy, on a drive that fails, gone while it writes
//!   realm "full", realm "closed"   ◄── TCP ── its neighbour: refused
//! ```
//!
//! Each measurement is made twice, one after the other: without what is wrong, and with it. A neighbour that works has its
//! part of the node whatever it does, so there the first of the two has a neighbour that works as well, and is modest; both hosts
//! have half of core B then. Beside a greedy one the host asks for less than its half of the node, at its pace, which it is to get
//! whatever the other one asks for; core B is the host's when it wants it, and its neighbour's else.
//!
//! What a neighbour's program takes of core B is not the node's doing. The host polls, and so has its core whenever it can: it is
//! measured by what it gets in each second that it has it.

mod cases;
mod failing;
mod neighbour;
mod node;
mod plan;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::plan::Speed;
use super::{TargetError, measure, program, two_cores};
use crate::against::ratio::{Comparison, Round, median};
use crate::out::say;
use cases::{Beside, Case, Manner};
pub(super) use neighbour::run as neighbour;
pub(super) use node::run as node;
use plan::{LOADS, Load, Neighbourhood, Told};

/// What a host keeps of its throughput, whatever its neighbour does.
const BOUND: f64 = 0.90;
/// A neighbour works for so long before anything is measured.
const LEAD: Duration = Duration::from_millis(200);
/// What a neighbour says when all that it asks for at first is under way.
const BEGUN: &str = "begun";
/// A host that gets nothing at all is released after this much more than its time, by the end of its neighbour.
const PATIENCE: Duration = Duration::from_secs(3);
/// A slow host takes what has come for this long,
const SLOW_WORK: Duration = Duration::from_millis(1);
/// and then nothing for this long.
const SLOW_REST: Duration = Duration::from_millis(40);

/// Measures what a node's hosts keep of their throughput beside one that is stuck, slow, greedy, refused or gone.
#[derive(Debug, Clone, Args)]
pub(crate) struct NeighboursArgs {
    /// What the neighbour does [default: all of them]
    case: Vec<Case>,
    /// Seconds for each measurement
    #[arg(short = 't', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    time: u32,
    /// How often each is measured, without and with what is wrong
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

/// The node, which ends when this is dropped.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    served: Neighbourhood,
    cores: [u32; 2],
}

impl Server {
    fn start(cores: [u32; 2]) -> Result<Self, TargetError> {
        let mut child = program("node", cores[0])?
            .spawn()
            .map_err(TargetError::Program)?;
        let input = child.stdin.take();
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            let read = BufReader::new(output).read_line(&mut line);
            read.map_err(TargetError::Program)?;
        }
        let served = serde_json::from_str(&line).map_err(|_| TargetError::NotServing)?;
        Ok(Self {
            child,
            input,
            served,
            cores,
        })
    }

    /// From now on its last drive fails.
    fn fail(&mut self) -> Result<(), TargetError> {
        let input = self.input.as_mut().ok_or(TargetError::NotServing)?;
        writeln!(input, "fail").map_err(TargetError::Program)?;
        std::thread::sleep(LEAD);
        Ok(())
    }

    /// One measurement, alone or beside a neighbour.
    fn measure(
        &self,
        (load, pace): (Load, Option<f64>),
        beside: Option<&Beside>,
        (round, seconds): (u32, u32),
    ) -> Result<(Speed, Told), TargetError> {
        let plan = self.served.plan(load, pace, seconds, round.into());
        let one = || measure(self.cores[1], &plan);
        let Some(beside) = beside else {
            return Ok((one()?, Told::default()));
        };
        let limit = LEAD + Duration::from_secs(seconds.into()) + PATIENCE;
        let mut company = Company::start(self.cores[1], beside)?;
        let (end, ended) = channel::<()>();
        let (pid, manner) = (Pid::from_child(&company.child), beside.manner);
        let keeper = std::thread::spawn(move || keep(pid, manner, limit, &ended));
        std::thread::sleep(LEAD);
        let speed = one();
        drop(end);
        let is_over = keeper.join().map_err(|_| TargetError::NotServing)?;
        let told = match manner {
            Manner::Willing | Manner::Yielding if !is_over => company.end()?,
            _ => company.kill()?,
        };
        Ok((speed?, told))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input is its sign to end. If it has ended by itself, it does not matter how.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// A neighbour's program.
struct Company {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Company {
    fn start(core: u32, beside: &Beside) -> Result<Self, TargetError> {
        let mut program = program("neighbour", core)?;
        if beside.manner == Manner::Yielding {
            program = yielding(&program);
        }
        let mut child = program.spawn().map_err(TargetError::Program)?;
        if let Some(input) = &mut child.stdin {
            let text = serde_json::to_string(&beside.neighbour).expect("a neighbour is plain data");
            // If it has ended, it says no more, see below.
            let _ = writeln!(input, "{text}");
        }
        let output = child.stdout.take().ok_or(TargetError::NotServing)?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line).map_err(TargetError::Program)?;
        let mut company = Self { child, output };
        match line.trim_end() {
            BEGUN => Ok(company),
            _ => company.end().and_then(|_| Err(TargetError::Nonsense(line))),
        }
    }

    fn end(&mut self) -> Result<Told, TargetError> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let read = self.output.read_to_string(&mut text);
        read.map_err(TargetError::Program)?;
        let status = self.child.wait().map_err(TargetError::Program)?;
        if !status.success() {
            return Err(TargetError::Ended(status));
        }
        serde_json::from_str(&text).map_err(|_| TargetError::Nonsense(text))
    }

    fn kill(&mut self) -> Result<Told, TargetError> {
        self.child.kill().map_err(TargetError::Program)?;
        self.child.wait().map_err(TargetError::Program)?;
        Ok(Told::default())
    }
}

/// The same program under the policy of those who work while nobody else wants to.
fn yielding(program: &Command) -> Command {
    let mut yielding = Command::new("chrt");
    yielding
        .args(["--idle", "0"])
        .arg(program.get_program())
        .args(program.get_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    yielding
}

/// Has a neighbour be what it is to be until the channel closes. Ends it after `limit`, and then says so.
fn keep(pid: Pid, manner: Manner, limit: Duration, ended: &Receiver<()>) -> bool {
    let start = Instant::now();
    // Its end is noticed by those who wait for it.
    let signal = |signal| {
        let _ = kill_process(pid, signal);
    };
    let goes_on = |time| ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    loop {
        if start.elapsed() > limit {
            signal(Signal::KILL);
            return true;
        }
        match manner {
            Manner::Willing | Manner::Yielding => {}
            Manner::Stuck => signal(Signal::STOP),
            Manner::Slow => {
                signal(Signal::CONT);
                std::thread::sleep(SLOW_WORK);
                signal(Signal::STOP);
            }
        }
        if !goes_on(SLOW_REST) {
            return false;
        }
    }
}

/// What one case showed with one load.
struct Shown {
    load: Load,
    /// With what is wrong, and without.
    rounds: Vec<[Speed; 2]>,
}

impl Shown {
    fn line(&self) -> (String, bool) {
        let name = self.load.name;
        let rounds: Vec<_> = self.rounds.iter().map(compare).collect();
        let Some(compared) = Comparison::of(&rounds) else {
            return (format!("  {name:<16} not measured"), false);
        };
        let passed = (compared.ratio * 1000.0).round() >= (BOUND * 1000.0).round();
        let spread = format!("{:.3} to {:.3}", compared.ratio_min, compared.ratio_max);
        let word = if passed { "PASS" } else { "SHORT" };
        let (with, without) = (compared.ours, compared.theirs);
        let line = format!(
            "  {name:<16} {without:>11.0} {with:>11.0} {:>7.3} {spread:>16} {BOUND:>6.2} {word}",
            compared.ratio
        );
        (line, passed)
    }

    /// How long requests took.
    fn times(&self) -> String {
        let of = |side: usize, time: fn(&Speed) -> f64| {
            median(self.rounds.iter().map(|round| time(&round[side])).collect())
        };
        let half = |side| of(side, |speed| speed.p50_us);
        let all = |side| of(side, |speed| speed.p99_us);
        format!(
            "  {:<16} half took up to {:.0} us without, {:.0} us with; all but 1 % up to {:.0} us, {:.0} us",
            "",
            half(1),
            half(0),
            all(1),
            all(0)
        )
    }
}

/// Measures a case; what it showed, and what the neighbour was told.
fn case(
    case: Case,
    server: &mut Option<Server>,
    (rounds, seconds): (u32, u32),
) -> Result<(Vec<Shown>, Told), TargetError> {
    let cores = two_cores(None)?;
    let loads = &LOADS[..];
    let shown = loads.iter().map(|&load| Shown {
        load,
        rounds: Vec::new(),
    });
    let mut shown: Vec<_> = shown.collect();
    let mut told = Told::default();
    for round in 0..rounds {
        if case == Case::Failing {
            // What has failed stays so.
            *server = None;
        }
        if server.is_none() {
            *server = Some(Server::start(cores)?);
        }
        let server = server.as_mut().expect("it has just been started");
        let mut without = Vec::new();
        for &load in loads {
            let sides = case.sides(&server.served);
            let each = (round, seconds);
            let pace = match case.part() {
                Some(part) => Some(part * server.measure((load, None), None, each)?.0.per_second),
                None => None,
            };
            let load = (load, pace);
            without.push(server.measure(load, sides.without.as_ref(), each)?.0);
            if case == Case::Failing {
                continue;
            }
            let (with, also_told) = server.measure(load, Some(&sides.with), each)?;
            told.add(also_told);
            let at = without.len() - 1;
            shown[at].rounds.push([with, without[at]]);
        }
        if case == Case::Failing {
            server.fail()?;
            for (shown, without) in shown.iter_mut().zip(without) {
                let sides = case.sides(&server.served);
                let with = server.measure((shown.load, None), Some(&sides.with), (round, seconds));
                let (with, also_told) = with?;
                told.add(also_told);
                shown.rounds.push([with, without]);
            }
        }
    }
    if case == Case::Failing {
        *server = None;
    }
    Ok((shown, told))
}

/// A host that got nothing has kept as good as nothing, which is a figure like another.
fn compare([with, without]: &[Speed; 2]) -> Round {
    Round {
        ours: with.per_second_of_core().max(f64::MIN_POSITIVE),
        theirs: without.per_second_of_core(),
    }
}

impl Told {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.told = self.told.take().or(other.told);
    }

    fn line(&self) -> Option<String> {
        let told = self.told.as_ref()?;
        Some(format!(
            "  the neighbour was refused {} times, first by: {told}",
            self.refused
        ))
    }
}

fn cases(chosen: &[Case], each: (u32, u32)) -> Result<bool, TargetError> {
    let (rounds, seconds) = each;
    say!(
        "{rounds} rounds of {seconds} s without and with it, a second of the host's core, medians; ratio: with / without, of each round"
    );
    say!(
        "  {:<16} {:>11} {:>11} {:>7} {:>16} {:>6}",
        "",
        "without",
        "with",
        "ratio",
        "spread",
        "bound"
    );
    let mut server = None;
    let mut good = true;
    for &one in chosen {
        say!("{}", one.title());
        let (shown, told) = case(one, &mut server, each)?;
        for shown in shown {
            let (line, passed) = shown.line();
            say!("{line}");
            if one.part().is_some() {
                say!("{}", shown.times());
            }
            good &= passed;
        }
        if let Some(line) = told.line() {
            say!("{line}");
        }
    }
    Ok(good)
}

pub(crate) fn run(args: &NeighboursArgs) -> Result<(), TargetError> {
    let chosen = match &args.case[..] {
        [] => &Case::ALL[..],
        chosen => chosen,
    };
    cases(chosen, (args.rounds, args.time)).map(drop)
}

/// Prints a line for each promise, and says whether all are kept.
pub(crate) fn gate(rounds: u32, seconds: u32) -> Result<bool, TargetError> {
    cases(&Case::ALL, (rounds, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_gets_nothing_is_short_of_its_bound() {
        let of = |with: f64| Speed {
            per_second: with,
            ..Speed::default()
        };
        let shown = |with| Shown {
            load: LOADS[0],
            rounds: vec![[of(with), of(1000.0)]],
        };
        let (line, passed) = shown(0.0).line();
        assert!(!passed && line.ends_with("0.90 SHORT"), "{line}");
        let (line, passed) = shown(899.6).line();
        assert!(passed && line.ends_with("0.90 PASS"), "{line}");
        assert!(!shown(899.4).line().1);
    }

    #[test]
    fn a_host_is_compared_by_what_it_had_of_its_core() {
        let of = |per_second: f64, core| Speed {
            per_second,
            core,
            ..Speed::default()
        };
        let round = compare(&[of(400.0, Some(0.5)), of(1000.0, Some(1.0))]);
        assert_eq!((round.ours, round.theirs), (800.0, 1000.0));
        let round = compare(&[of(400.0, None), of(1000.0, None)]);
        assert_eq!((round.ours, round.theirs), (400.0, 1000.0));
    }

    #[test]
    fn the_first_refusal_is_told() {
        let told = |refused, text: Option<&str>| Told {
            done: 1,
            refused,
            told: text.map(Into::into),
        };
        let mut all = told(0, None);
        assert_eq!(all.line(), None);
        all.add(told(2, Some("full")));
        all.add(told(3, Some("still full")));
        assert_eq!(
            all.line().unwrap(),
            "  the neighbour was refused 5 times, first by: full"
        );
    }
}
