//! A process is killed at random points of its work on a region: the next one always tells a clean region from an
//! unclean one, and a clean one has all entries.

#![allow(clippy::unwrap_used)]

mod index_support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use index_support::{entry, key, mix, spec};
use oriel_dht::index::{Index, IndexSize, InsertError, Verification, Writer};
use oriel_dht::region::{Existing, History, Place, Region, SectionKind};

const KILLS: u64 = 500;
const REGION: &str = "ORIEL_TEST_REGION";
const SIZE: IndexSize = IndexSize {
    partitions: 2,
    entries: 0,
    entries_max: 3000,
};

/// Opens the region as a store does: adopts a clean index, makes any other anew.
fn open(path: &Path) -> (Region, Index, Vec<Writer>, bool) {
    let place = Place::Path(path.to_path_buf());
    let region = Region::open(&place).unwrap();
    let section = region.section(SectionKind::INDEX, 1).unwrap();
    let clean = region.history() == History::Clean;
    let (index, writers) = match Index::adopt(section.clone()) {
        Ok(adopted) => {
            assert!(clean, "an unclean index was adopted");
            adopted
        }
        Err(error) => {
            assert!(!clean, "a clean index was refused: {error}");
            Index::create(section, &SIZE).unwrap()
        }
    };
    (region, index, writers, clean)
}

/// Puts keys 0 to n in, takes some out again: what a clean region has to hold follows from `n` alone.
fn work(index: &Index, writers: &mut [Writer], n: u64) {
    for number in 0..n {
        let key = key(number);
        let writer = &mut writers[index.partition_of(key) as usize];
        match writer.insert(key, entry(number)) {
            Ok(()) | Err(InsertError::Present { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for number in n..1500 {
        let key = key(number);
        writers[index.partition_of(key) as usize].remove(key);
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

/// The child: opens, works and closes, again and again, saying each step before and after it is done.
#[test]
fn child() {
    let Some(path) = std::env::var_os(REGION) else {
        return;
    };
    for turn in 0.. {
        let (region, index, mut writers, _) = open(Path::new(&path));
        say("open");
        let n = mix(turn + std::process::id() as u64) % 1500;
        work(&index, &mut writers, n);
        say(&format!("closing {n}"));
        index.close(writers).unwrap();
        region.close().unwrap();
        say(&format!("closed {n}"));
    }
}

/// What the child's last words allow.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    /// Before it said anything, the region is as the kill before left it, or in use.
    Unknown,
    Unclean,
    Either(u64),
    /// It was closing the next one's opening that was cut, so it may be in use again.
    CleanUnlessOpened(u64),
}

fn allowed(words: &[String]) -> Allowed {
    let number = |line: &str| line.split(' ').nth(1).unwrap().parse().unwrap();
    match words.last().map(String::as_str) {
        None => Allowed::Unknown,
        Some("open") => Allowed::Unclean,
        Some(line) if line.starts_with("closing") => Allowed::Either(number(line)),
        Some(line) => Allowed::CleanUnlessOpened(number(line)),
    }
}

#[test]
fn five_hundred_kills_are_told_from_clean_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("region");
    let create = || {
        let place = Place::Path(path.clone());
        let region = Region::create(&place, &[spec(&SIZE)], Existing::Replace).unwrap();
        let section = region.section(SectionKind::INDEX, 1).unwrap();
        let (index, writers) = Index::create(section, &SIZE).unwrap();
        index.close(writers).unwrap();
        region.close().unwrap();
    };
    create();
    let (mut clean_seen, mut unclean_seen) = (0, 0);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(REGION, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed some time after one of its first words, so that every step is met whatever the machine's speed.
        let wanted = mix(kill) % 7;
        let mut words = Vec::new();
        let mut lines = lines.map_while(Result::ok);
        let mine = |line: String| line.find('@').map(|at| line[at + 1..].to_owned());
        while (words.len() as u64) < wanted {
            match lines.next() {
                Some(line) => words.extend(mine(line)),
                None => panic!("the child ended by itself: {words:?}"),
            }
        }
        std::thread::sleep(Duration::from_micros(mix(kill ^ 0xffff) % 4000));
        child.kill().unwrap();
        child.wait().unwrap();
        words.extend(lines.filter_map(mine));
        let allowed = allowed(&words);
        let (region, index, mut writers, clean) = open(&path);
        let closed = match allowed {
            Allowed::Unknown => None,
            Allowed::Unclean => {
                assert!(!clean, "kill {kill}: clean after {words:?}");
                None
            }
            Allowed::Either(n) | Allowed::CleanUnlessOpened(n) => Some(n),
        };
        if clean {
            clean_seen += 1;
            for writer in &mut writers {
                assert_eq!(
                    writer.verify_step(u64::MAX),
                    Verification::Sound,
                    "kill {kill}"
                );
            }
            if let Some(n) = closed {
                assert_eq!(index.entries(), n, "kill {kill}");
                for number in 0..1500 {
                    let expected = (number < n).then(|| entry(number));
                    assert_eq!(
                        index.get(key(number)),
                        expected,
                        "kill {kill}, key {number}"
                    );
                }
            }
        } else {
            unclean_seen += 1;
            assert_eq!(index.entries(), 0, "an unclean index was believed");
        }
        index.close(writers).unwrap();
        region.close().unwrap();
    }
    assert!(
        clean_seen > 20 && unclean_seen > 100,
        "{clean_seen} clean and {unclean_seen} unclean: the kills prove little"
    );
}
