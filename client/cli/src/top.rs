//! A live picture of a node.
//!
//! A thread asks; this one draws what has come, and looks whether it is to end. So a node that does not answer keeps neither
//! the picture nor its end waiting.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use oriel_client::block_on;
use oriel_protocol::Stat;
use serde::Serialize;

use crate::connect::Node;
use crate::error::{CliError, Exit};
use crate::look::{Figures, size};
use crate::out::Out;

const BAR: usize = 40;
/// How soon a signal shows.
const STEP: Duration = Duration::from_millis(50);

/// The figures of one moment, and when.
struct Moment {
    at: Instant,
    took: Duration,
    stat: Stat,
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    figures: Figures<'a>,
    answer_microseconds: f64,
    realm_blobs_per_second: Option<f64>,
    realm_bytes_per_second: Option<f64>,
    used_bytes_per_second: Option<f64>,
}

/// Changes a second.
struct Rates {
    blobs: f64,
    realm_bytes: f64,
    used_bytes: f64,
}

impl Rates {
    fn of(before: &Figures<'_>, now: &Figures<'_>, time: Duration) -> Option<Self> {
        let seconds = time.as_secs_f64();
        let rate = |before: u64, now: u64| (now as f64 - before as f64) / seconds;
        (seconds > 0.0).then(|| Self {
            blobs: rate(before.realm_blobs, now.realm_blobs),
            realm_bytes: rate(before.realm_used_bytes, now.realm_used_bytes),
            used_bytes: rate(before.used_bytes, now.used_bytes),
        })
    }
}

/// The whole terminal, until it is dropped: what was there before comes back.
struct Screen;

impl Screen {
    fn begin() -> Result<Self, CliError> {
        // The other screen, no cursor.
        show("\x1b[?1049h\x1b[?25l")?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = show("\x1b[?25h\x1b[?1049l");
    }
}

fn show(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let shown = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    shown.map_err(CliError::Output)
}

pub(crate) fn run(
    node: &Node,
    out: &Out,
    once: bool,
    interval: Duration,
) -> Result<Exit, CliError> {
    if once {
        let moment = ask(node)?;
        return draw_once(node, out, &moment);
    }
    let ends = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&ends)).map_err(CliError::Signals)?;
    }
    let screen = (!out.is_json()).then(Screen::begin).transpose()?;
    let (send, moments) = channel();
    std::thread::scope(|scope| {
        let asks = || ask_again(node, interval, &ends, &send);
        let thread = std::thread::Builder::new().name("asks".into());
        thread.spawn_scoped(scope, asks).map_err(CliError::Thread)?;
        let ended = watch(node, out, &moments, &ends);
        // Where a node does not answer, its thread waits for as long as was allowed; nobody else has to.
        if ends.load(Ordering::Relaxed) || ended.is_err() {
            drop(screen);
            if let Err(error) = &ended {
                out.failed(error, None);
            }
            let exit = ended.as_ref().map_or_else(CliError::exit, |exit| *exit);
            std::process::exit(exit.status().into());
        }
        ended
    })
}

fn ask(node: &Node) -> Result<Moment, CliError> {
    let at = Instant::now();
    let stat = block_on(node.blobs.stat())?;
    let took = at.elapsed();
    Ok(Moment { at, took, stat })
}

fn ask_again(
    node: &Node,
    interval: Duration,
    ends: &AtomicBool,
    send: &Sender<Result<Moment, CliError>>,
) {
    while !ends.load(Ordering::Relaxed) {
        let moment = ask(node);
        let is_last = moment.is_err();
        if send.send(moment).is_err() || is_last {
            return;
        }
        let next = Instant::now() + interval;
        while Instant::now() < next && !ends.load(Ordering::Relaxed) {
            std::thread::sleep(STEP.min(next.saturating_duration_since(Instant::now())));
        }
    }
}

fn watch(
    node: &Node,
    out: &Out,
    moments: &Receiver<Result<Moment, CliError>>,
    ends: &AtomicBool,
) -> Result<Exit, CliError> {
    let mut before: Option<Moment> = None;
    loop {
        if ends.load(Ordering::Relaxed) {
            return Ok(Exit::Done);
        }
        let moment = match moments.recv_timeout(STEP) {
            Ok(moment) => moment?,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(last) = &before
                    && !out.is_json()
                    && last.at.elapsed() > Duration::from_secs(5)
                {
                    let seconds = last.at.elapsed().as_secs();
                    show(&format!("\x1b[12;1H\x1b[2Kno answer for {seconds} s"))?;
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Done),
        };
        draw(node, out, before.as_ref(), &moment)?;
        before = Some(moment);
    }
}

fn draw_once(node: &Node, out: &Out, moment: &Moment) -> Result<Exit, CliError> {
    let figures = Figures::new(node, &moment.stat);
    let text = picture(node, &figures, None, moment.took);
    let object = object(figures, None, moment.took);
    out.line(format_args!("{}", text.trim_end()), &object)?;
    Ok(Exit::Done)
}

fn draw(node: &Node, out: &Out, before: Option<&Moment>, moment: &Moment) -> Result<(), CliError> {
    let figures = Figures::new(node, &moment.stat);
    let rates = before.and_then(|before| {
        let of_before = Figures::new(node, &before.stat);
        Rates::of(&of_before, &figures, moment.at - before.at)
    });
    if out.is_json() {
        let object = object(figures, rates, moment.took);
        return out.line(format_args!(""), &object);
    }
    let picture = picture(node, &figures, rates.as_ref(), moment.took);
    // From the top left corner, clearing what each line and the picture before leave.
    let lines: String = picture
        .lines()
        .map(|line| format!("{line}\x1b[K\r\n"))
        .collect();
    show(&format!("\x1b[H{lines}\x1b[J\r\nCtrl-C ends."))
}

fn object(figures: Figures<'_>, rates: Option<Rates>, took: Duration) -> Object<'_> {
    Object {
        figures,
        answer_microseconds: (took.as_secs_f64() * 1e7).round() / 10.0,
        realm_blobs_per_second: rates.as_ref().map(|rates| rates.blobs),
        realm_bytes_per_second: rates.as_ref().map(|rates| rates.realm_bytes),
        used_bytes_per_second: rates.as_ref().map(|rates| rates.used_bytes),
    }
}

fn picture(node: &Node, figures: &Figures<'_>, rates: Option<&Rates>, took: Duration) -> String {
    let mut text = String::new();
    let (used, capacity) = (figures.used_bytes, figures.capacity_bytes);
    let (of_realm, room) = (figures.realm_used_bytes, figures.room_of_realm());
    // Writing into a string does not fail.
    let _ = writeln!(
        text,
        "{} at {}   answered in {:.0} us",
        node.subsystem,
        node.address,
        took.as_secs_f64() * 1e6
    );
    let _ = writeln!(text);
    let _ = writeln!(text, "{:<8} {}", "drives", filled(used, capacity));
    let _ = writeln!(text, "{:<8} {}", node.realm(), filled(of_realm, room));
    let _ = writeln!(text);
    let _ = writeln!(text, "{:<10}{:>14}{:>18}", "", "now", "a second");
    let rate = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:+.1}"));
    let speed = |value: Option<f64>| {
        value.map_or("-".into(), |value| {
            let sign = if value < 0.0 { '-' } else { '+' };
            format!("{sign}{}", size(value.abs() as u64))
        })
    };
    let rows = [
        (
            "blobs",
            figures.realm_blobs.to_string(),
            rate(rates.map(|rates| rates.blobs)),
        ),
        (
            "bytes",
            size(of_realm),
            speed(rates.map(|rates| rates.realm_bytes)),
        ),
        (
            "drives",
            size(used),
            speed(rates.map(|rates| rates.used_bytes)),
        ),
        ("reserved", figures.reservations.to_string(), String::new()),
    ];
    for (what, now, a_second) in rows {
        let _ = writeln!(text, "{what:<10}{now:>14}{a_second:>18}");
    }
    text
}

/// A bar, and what it shows.
fn filled(part: u64, whole: u64) -> String {
    let share = if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    };
    let share = share.clamp(0.0, 1.0);
    let full = (share * BAR as f64).round() as usize;
    format!(
        "[{}{}] {:>5.1} %  {} of {}",
        "#".repeat(full),
        ".".repeat(BAR - full),
        share * 100.0,
        size(part),
        size(whole)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_what_they_show() {
        let bar = |part, whole| {
            let text = filled(part, whole);
            assert_eq!(text.find(']'), Some(BAR + 1), "{text}");
            text.matches('#').count()
        };
        assert_eq!(bar(0, 0), 0);
        assert_eq!(bar(1, 2), BAR / 2);
        assert_eq!(bar(3, 2), BAR);
        assert!(filled(1 << 20, 4 << 20).ends_with(" 25.0 %  1.00 MiB of 4.00 MiB"));
    }
}
