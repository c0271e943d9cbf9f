//! A region with an index on a DAX device of CXL memory: made, adopted by a later process or after a reboot, left
//! without being closed.
//!
//! usage: lab-cxl create|adopt|leave|unclean DEVICE volatile|persistent
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use oriel_dht::index::{
    AdoptError, Entry, Fingerprint, Flags, Index, IndexSize, Length, Position, Verification, Writer,
};
use oriel_dht::region::{
    CreateError, Existing, History, OpenError, Persistence, Place, Region, SectionKind, SectionSpec,
};
use oriel_tests::ensure;
use oriel_tests::lab::{self, Failure};

/// Emulated memory is slow.
const ENTRIES: u64 = 10_000;
const SIZE: IndexSize = IndexSize {
    partitions: 2,
    entries: 2000,
    entries_max: ENTRIES,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    lab::main("lab-cxl", || {
        let [what, device, memory] = &arguments[..] else {
            return Err(
                "usage: lab-cxl create|adopt|leave|unclean DEVICE volatile|persistent".into(),
            );
        };
        let place = Place::Path(device.into());
        let (region, history) = match what.as_str() {
            "create" => (create(&place)?, History::Fresh),
            "unclean" => (Region::open(&place)?, History::Unclean),
            _ => (Region::open(&place)?, History::Clean),
        };
        ensure!(
            region.history() == history,
            "{device} is {:?}, not {history:?}",
            region.history()
        );
        let persistent = matches!(region.persistence(), Persistence::Lines(_));
        ensure!(
            persistent == (memory == "persistent"),
            "{device} is taken for {:?}, and is {memory}",
            region.persistence()
        );
        println!(
            "{what} {device}: {:?}, {}",
            region.persistence(),
            region.latency()
        );
        let second = Region::open(&place);
        ensure!(
            matches!(second, Err(OpenError::InUse { .. })),
            "two users of {device}: {second:?}"
        );
        match what.as_str() {
            "create" => fill(region),
            "adopt" => adopt(region, true),
            "leave" => adopt(region, false),
            "unclean" => refuse(&region),
            other => Err(format!("unknown: {other}").into()),
        }
    })
}

/// A new device is blank, and what is on it is not taken for a region.
fn create(place: &Place) -> Result<Region, Failure> {
    let blank = Region::open(place);
    ensure!(
        matches!(blank, Err(OpenError::Blank { .. })),
        "a new device: {blank:?}"
    );
    let huge = SectionSpec {
        kind: SectionKind::INDEX,
        version: 1,
        bytes: 1 << 40,
    };
    let refused = Region::create(place, &[huge], Existing::Keep);
    ensure!(
        matches!(refused, Err(CreateError::TooSmall { .. })),
        "1 TiB: {refused:?}"
    );
    let spec = SectionSpec {
        bytes: SIZE.section_bytes()?,
        ..huge
    };
    let region = Region::create(place, &[spec], Existing::Keep)?;
    drop(region);
    let refused = Region::create(place, &[spec], Existing::Keep);
    ensure!(
        matches!(refused, Err(CreateError::NotBlank { .. })),
        "over another: {refused:?}"
    );
    Ok(Region::create(place, &[spec], Existing::Replace)?)
}

fn key(number: u64) -> Fingerprint {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Fingerprint::from_bytes((u128::from(mixed) << 64 | u128::from(number)).to_le_bytes())
}

fn entry(number: u64) -> Result<Entry, Failure> {
    Ok(Entry {
        position: Position::new(number * 77).ok_or("a position below 2^50")?,
        length: Length::new(number * 1000).ok_or("a length below 64 GiB")?,
        flags: Flags(number as u8),
    })
}

fn fill(region: Region) -> Result<(), Failure> {
    let (index, mut writers) = Index::create(region.section(SectionKind::INDEX, 1)?, &SIZE)?;
    for number in 0..ENTRIES {
        let partition = index.partition_of(key(number)) as usize;
        writers[partition].insert(key(number), entry(number)?)?;
    }
    index.close(writers)?;
    Ok(region.close()?)
}

fn adopt(region: Region, close: bool) -> Result<(), Failure> {
    let start = Instant::now();
    let (index, mut writers) = Index::adopt(region.section(SectionKind::INDEX, 1)?)?;
    println!("adopted in {:?}", start.elapsed());
    ensure!(index.entries() == ENTRIES, "{} entries", index.entries());
    for number in (0..ENTRIES).step_by(50) {
        let found = index.get(key(number));
        ensure!(
            found == Some(entry(number)?),
            "before verification, key {number}: {found:?}"
        );
    }
    verify(&mut writers)?;
    for number in 0..ENTRIES {
        let found = index.get(key(number));
        ensure!(found == Some(entry(number)?), "key {number}: {found:?}");
    }
    ensure!(index.get(key(ENTRIES)).is_none(), "a key that never was");
    index.close(writers)?;
    if close {
        region.close()?;
    }
    Ok(())
}

fn verify(writers: &mut [Writer]) -> Result<(), Failure> {
    for writer in writers {
        let verified = writer.verify_step(u64::MAX);
        ensure!(
            verified == Verification::Sound,
            "verification: {verified:?}"
        );
    }
    Ok(())
}

fn refuse(region: &Region) -> Result<(), Failure> {
    let adopted = Index::adopt(region.section(SectionKind::INDEX, 1)?);
    ensure!(
        matches!(adopted, Err(AdoptError::NotClean)),
        "an index was adopted from a region that was not closed"
    );
    Ok(())
}
