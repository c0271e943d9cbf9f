//! The inside of a simulated drive: the calls under way, what they do when they end, and what a crash leaves of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::task::Waker;

use oriel_engine::store::{BLOCK_BYTES, DriveError, ExtentName};

use super::faults::{Faults, Harm, Temper};
use super::image::{Blocks, Image};
use super::world::Rng;

#[derive(Clone)]
pub(super) struct Write {
    /// Its place in the order in which writes have ended.
    pub(super) number: u64,
    pub(super) name: ExtentName,
    pub(super) block: u64,
    pub(super) blocks: Blocks,
}

impl Write {
    /// Every part of it that may be there after a crash: nothing, all, and what lies on either side of each boundary.
    fn parts(&self) -> Vec<Range<usize>> {
        let blocks = self.blocks.len();
        let torn = (1..blocks).flat_map(|at| [0..at, at..blocks]);
        [0..0, 0..blocks].into_iter().chain(torn).collect()
    }

    fn carry_out(&self, image: &mut Image, part: Range<usize>) {
        let block = self.block + part.start as u64;
        image.write(self.name, block, &self.blocks[part]);
    }
}

pub(super) enum What {
    Extents,
    Create(ExtentName, u64),
    Delete(ExtentName),
    Read(ExtentName, u64, u64),
    Write(Write),
    /// Writes before this number become durable.
    Flush(u64),
}

impl What {
    fn changes(&self) -> bool {
        matches!(self, Self::Create(..) | Self::Delete(_) | Self::Write(_))
    }

    /// As of a drive that is worn out.
    fn refused(&self) -> DriveError {
        match self {
            Self::Write(write) => transfer_failed(write.name, write.block, "worn out"),
            _ => DriveError::Failed {
                reason: "it is worn out".into(),
            },
        }
    }
}

pub(super) enum Given {
    Nothing,
    Extents(Vec<(ExtentName, u64)>),
    Blocks(Blocks),
}

pub(super) struct Call {
    pub(super) what: What,
    pub(super) waker: Option<Waker>,
    /// Nobody waits for its end any more; it comes nevertheless.
    pub(super) is_given_up: bool,
}

impl Call {
    /// Whether it is a transfer of that extent.
    fn uses(&self, name: ExtentName) -> bool {
        match &self.what {
            What::Read(of, ..) => *of == name,
            What::Write(write) => write.name == name,
            _ => false,
        }
    }
}

/// A write to a journal: the last one there is what nothing that follows can vouch for.
#[derive(Clone)]
pub(super) struct Frame {
    number: u64,
    name: ExtentName,
    block: u64,
    blocks: u64,
}

/// What breaks the promise of [`Drive::flush`], to see whether a simulation notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    /// No flush does anything.
    AllFlushes,
    /// A flush does nothing where only slabs wait for it: it is the one that comes before a frame.
    BeforeFrames,
    /// A flush does nothing where a journal waits for it: it is the one that comes after a frame.
    AfterFrames,
    /// A flush does nothing where a checkpoint waits for it.
    OfCheckpoints,
}

impl Lie {
    fn is_told(self, waiting: &[Write]) -> bool {
        let any = |of: fn(ExtentName) -> bool| waiting.iter().any(|write| of(write.name));
        let of_journals = any(|name| matches!(name, ExtentName::Journal(_)));
        let of_checkpoints = any(|name| matches!(name, ExtentName::Checkpoint(_)));
        match self {
            Self::AllFlushes => true,
            Self::BeforeFrames => !of_journals && !of_checkpoints,
            Self::AfterFrames => of_journals,
            Self::OfCheckpoints => of_checkpoints,
        }
    }
}

/// The power of a whole node, which goes with a call of any of its drives.
#[derive(Default)]
pub(crate) struct Power {
    pub(crate) calls: Cell<u64>,
    pub(crate) goes_at: Cell<Option<u64>>,
}

impl Power {
    pub(crate) fn is_gone(&self) -> bool {
        self.goes_at.get().is_some_and(|at| self.calls.get() >= at)
    }
}

pub(crate) type Observer = Box<dyn FnMut(u64, Vec<Image>)>;

pub(super) struct State {
    pub(super) now: Image,
    pub(super) durable: Image,
    /// Ended and not flushed, in the order of their numbers.
    pub(super) cached: Vec<Write>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) given: BTreeMap<u64, Result<Given, DriveError>>,
    pub(super) made_calls: u64,
    pub(super) ended_calls: u64,
    pub(super) ended_writes: u64,
    pub(super) flushed_frames: usize,
    pub(super) frames: Vec<Frame>,
    pub(super) blocks: u64,
    /// The least that was free when somebody asked.
    pub(super) least_free: Cell<u64>,
    pub(super) crash_at: Option<u64>,
    pub(super) has_crashed: bool,
    pub(super) remove_at: Option<u64>,
    pub(super) wear_out_at: Option<u64>,
    /// Waits for that.
    pub(super) removal_waker: Option<Waker>,
    /// What the drive has its power from, if others have theirs from it, too.
    pub(super) power: Option<Rc<Power>>,
    pub(super) lie: Option<Lie>,
    /// Bytes of the largest buffer that there is memory for.
    pub(super) buffer_max: usize,
    /// Reads until one that brings something else than what is there.
    pub(super) misread_after: Option<u64>,
    pub(super) temper: Option<Rc<Temper>>,
    pub(super) harm: Harm,
    /// Sees everything that may be left if the power goes at this call.
    pub(super) observer: Option<Observer>,
}

impl State {
    pub(super) fn new(image: Image, blocks: u64) -> Self {
        Self {
            now: image.clone(),
            durable: image,
            cached: Vec::new(),
            calls: BTreeMap::new(),
            given: BTreeMap::new(),
            made_calls: 0,
            ended_calls: 0,
            ended_writes: 0,
            flushed_frames: 0,
            frames: Vec::new(),
            blocks,
            least_free: Cell::new(u64::MAX),
            crash_at: None,
            has_crashed: false,
            remove_at: None,
            wear_out_at: None,
            removal_waker: None,
            power: None,
            lie: None,
            buffer_max: usize::MAX,
            misread_after: None,
            temper: None,
            harm: Harm::default(),
            observer: None,
        }
    }

    pub(super) fn images(&self) -> Vec<Image> {
        let mut images = vec![self.durable.clone()];
        let under_way = || self.calls.values().map(|call| &call.what);
        for what in under_way() {
            let mut change: Vec<Image> = images.clone();
            for image in &mut change {
                match what {
                    What::Create(name, blocks) => image.create(*name, *blocks),
                    What::Delete(name) => assert!(image.delete(*name)),
                    _ => {}
                }
            }
            if matches!(what, What::Create(..) | What::Delete(_)) {
                images.extend(change);
            }
        }
        let in_flight = under_way().filter_map(|what| match what {
            What::Write(write) => Some(write),
            _ => None,
        });
        for write in self.cached.iter().chain(in_flight) {
            let parts = write.parts();
            images = images
                .iter()
                .flat_map(|image| {
                    parts.iter().map(|part| {
                        let mut image = image.clone();
                        write.carry_out(&mut image, part.clone());
                        image
                    })
                })
                .collect();
        }
        images
    }

    /// The drive after its power went, by chance.
    pub(super) fn after_crash(&self, rng: &mut Rng) -> Self {
        let mut next = Self::new(self.durable.clone(), self.blocks);
        next.frames = self.frames.clone();
        for write in &self.cached {
            let part = rng.one_of_parts(&write.parts());
            write.carry_out(&mut next.now, part.clone());
            if part.len() < write.blocks.len() {
                next.frames.retain(|frame| frame.number != write.number);
            }
        }
        self.finish(&mut next, rng);
        next.cached.clear();
        next.durable = next.now.clone();
        next.flushed_frames = next.frames.len();
        next
    }

    /// The drive after its program was killed, by chance.
    pub(super) fn after_kill(&self, rng: &mut Rng) -> Self {
        let mut next = Self::new(self.now.clone(), self.blocks);
        next.durable = self.durable.clone();
        next.cached = self.cached.clone();
        next.frames = self.frames.clone();
        next.flushed_frames = self.flushed_frames;
        self.finish(&mut next, rng);
        next
    }

    /// What was under way ends, in part or not at all.
    fn finish(&self, next: &mut Self, rng: &mut Rng) {
        next.harm = self.harm.clone();
        next.ended_writes = self.ended_writes;
        for call in self.calls.values() {
            match &call.what {
                What::Create(name, blocks) if rng.in_thousand(500) => {
                    next.now.create(*name, *blocks);
                    next.durable.create(*name, *blocks);
                }
                What::Delete(name) if rng.in_thousand(500) => {
                    assert!(next.now.delete(*name) && next.durable.delete(*name));
                    next.cached.retain(|write| write.name != *name);
                    next.harm.forget(*name);
                }
                What::Write(write) => {
                    let part = rng.one_of_parts(&write.parts());
                    write.carry_out(&mut next.now, part.clone());
                    let mut part_of = write.clone();
                    part_of.number = next.ended_writes;
                    part_of.block += part.start as u64;
                    part_of.blocks = write.blocks[part].to_vec();
                    next.ended_writes += 1;
                    next.cached.push(part_of);
                }
                _ => {}
            }
        }
    }

    pub(super) fn end_of_journal_is_harmed(&self) -> bool {
        let harmed = |frame: &Frame| self.harm.within(frame.name, frame.block, frame.blocks);
        let (certain, uncertain) = self.frames.split_at(self.flushed_frames);
        certain.last().is_some_and(harmed) || uncertain.iter().any(harmed)
    }

    /// The call ends, unless there is no power any more.
    pub(super) fn end(&mut self, id: u64) {
        if self.has_crashed {
            return;
        }
        if let Some(power) = &self.power {
            power.calls.set(power.calls.get() + 1);
            if power.is_gone() {
                self.has_crashed = true;
                return;
            }
        }
        if let Some(mut observer) = self.observer.take() {
            observer(self.ended_calls, self.images());
            self.observer = Some(observer);
        }
        self.ended_calls += 1;
        if self.crash_at == Some(self.ended_calls) {
            self.has_crashed = true;
            return;
        }
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        let is_removed = self.remove_at.is_some_and(|at| self.ended_calls >= at);
        if is_removed && let Some(waker) = self.removal_waker.take() {
            waker.wake();
        }
        let given = match is_removed {
            true => Err(DriveError::Failed {
                reason: "it was removed".into(),
            }),
            false if self.is_worn_out() && call.what.changes() => Err(call.what.refused()),
            false => self.carry_out(call.what),
        };
        self.given.insert(id, given);
        if let Some(waker) = call.waker {
            waker.wake();
        }
    }

    /// It can be read and flushed, and takes nothing new.
    pub(super) fn is_worn_out(&self) -> bool {
        self.wear_out_at.is_some_and(|at| self.ended_calls >= at)
    }

    /// The deletion of an extent comes after the transfers that nobody waits for.
    fn wait_for_given_up(&mut self, name: ExtentName) {
        let calls = self.calls.iter();
        let given_up = calls.filter(|(_, call)| call.is_given_up && call.uses(name));
        let given_up: Vec<u64> = given_up.map(|(id, _)| *id).collect();
        for id in given_up {
            if let Some(call) = self.calls.remove(&id) {
                // Whether it failed, nobody asks.
                drop(self.carry_out(call.what));
            }
        }
    }

    /// A frame is flushed before the next one is written: what is not is a part of the same one.
    fn note_frame(&mut self, mut frame: Frame) {
        while let [.., part] = &self.frames[self.flushed_frames..]
            && (part.name, part.block + part.blocks) == (frame.name, frame.block)
        {
            frame.block = part.block;
            frame.blocks += part.blocks;
            self.frames.pop();
        }
        self.frames.push(frame);
    }

    fn carry_out(&mut self, what: What) -> Result<Given, DriveError> {
        self.rot();
        let temper = self.temper.clone();
        let strikes = |chances: fn(&Faults) -> u64| {
            temper
                .as_ref()
                .is_some_and(|temper| temper.strikes(chances(&temper.faults)))
        };
        match what {
            What::Extents => Ok(Given::Extents(self.now.extents().collect())),
            What::Create(name, blocks) => {
                if strikes(|faults| faults.no_room) {
                    return Err(DriveError::NoRoom { blocks });
                }
                if strikes(|faults| faults.write_errors) {
                    return Err(DriveError::Failed {
                        reason: format!("no {name} today"),
                    });
                }
                self.now.create(name, blocks);
                self.durable.create(name, blocks);
                Ok(Given::Nothing)
            }
            What::Delete(name) => {
                self.wait_for_given_up(name);
                assert!(self.now.delete(name), "{name} was deleted twice");
                self.durable.delete(name);
                self.cached.retain(|write| write.name != name);
                self.harm.forget(name);
                let in_use = self.calls.values().any(|call| call.uses(name));
                assert!(!in_use, "{name} was deleted while somebody used it");
                Ok(Given::Nothing)
            }
            What::Read(name, block, blocks) => {
                if strikes(|faults| faults.read_errors) {
                    return Err(transfer_failed(name, block, "not readable"));
                }
                let read = self.now.read(name, block, blocks);
                let read = read.unwrap_or_else(|| panic!("a read of {name}, which is not there"));
                Ok(Given::Blocks(read.to_vec()))
            }
            What::Write(mut write) => {
                let (name, block) = (write.name, write.block);
                let count = write.blocks.len() as u64;
                assert!(
                    self.now.read(name, block, count).is_some(),
                    "a write to {name}, which is not there"
                );
                write.number = self.ended_writes;
                self.ended_writes += 1;
                if strikes(|faults| faults.write_errors) {
                    let part = self.random(|rng| rng.one_of_parts(&write.parts()));
                    write.carry_out(&mut self.now, part.clone());
                    write.block += part.start as u64;
                    write.blocks = write.blocks[part].to_vec();
                    self.cached.push(write);
                    return Err(transfer_failed(name, block, "not writable"));
                }
                // One whose write failed may be there in part, and vouches for nothing.
                if matches!(name, ExtentName::Journal(_)) {
                    self.note_frame(Frame {
                        number: write.number,
                        name,
                        block,
                        blocks: count,
                    });
                }
                if strikes(|faults| faults.lost) {
                    self.harm.add(name, block, count);
                    return Ok(Given::Nothing);
                }
                self.harm.heal(name, block, count);
                if strikes(|faults| faults.misdirected) && self.misdirect(&mut write) {
                    self.harm.add(name, block, count);
                }
                write.carry_out(&mut self.now, 0..write.blocks.len());
                self.cached.push(write);
                Ok(Given::Nothing)
            }
            What::Flush(begun) => {
                let fails = strikes(|faults| faults.flush_errors);
                let frames = self.frames.iter().take_while(|frame| frame.number < begun);
                let flushed_frames = frames.count();
                if !fails {
                    self.flushed_frames = flushed_frames;
                }
                let flushed = self.cached.iter().take_while(|write| write.number < begun);
                let flushed = flushed.count();
                if self
                    .lie
                    .is_some_and(|lie| lie.is_told(&self.cached[..flushed]))
                {
                    return Ok(Given::Nothing);
                }
                if fails {
                    // A later flush that succeeds makes all of it durable.
                    for write in self.cached[..flushed].iter() {
                        let part = self.random(|rng| rng.one_of_parts(&write.parts()));
                        write.carry_out(&mut self.durable, part);
                    }
                } else {
                    for write in self.cached.drain(..flushed) {
                        write.carry_out(&mut self.durable, 0..write.blocks.len());
                    }
                }
                match fails {
                    true => Err(DriveError::Failed {
                        reason: "its cache could not be written".into(),
                    }),
                    false => Ok(Given::Nothing),
                }
            }
        }
    }

    fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        let temper = self.temper.as_ref().expect("only a temper makes faults");
        temper.random(choose)
    }

    /// Some block of what is on the drive.
    fn somewhere(&self, rng: &mut Rng, blocks: u64) -> Option<(ExtentName, u64)> {
        let fits = self.now.extents().filter(|(_, all)| *all >= blocks);
        let fits: Vec<_> = fits.collect();
        if fits.is_empty() {
            return None;
        }
        let (name, all) = rng.one_of(&fits);
        Some((name, rng.between(0, all - blocks)))
    }

    fn rot(&mut self) {
        let Some(temper) = self.temper.clone() else {
            return;
        };
        if !temper.strikes(temper.faults.rot) {
            return;
        }
        let Some((name, block)) = temper.random(|rng| self.somewhere(rng, 1)) else {
            return;
        };
        let (byte, bit) = temper.random(|rng| (rng.below(BLOCK_BYTES as u64), rng.below(8)));
        let byte = block * BLOCK_BYTES as u64 + byte;
        self.now.flip(name, byte, 1 << bit);
        self.durable.flip(name, byte, 1 << bit);
        self.harm.add(name, block, 1);
    }

    /// Turns a write to another place; `false` if there is none.
    fn misdirect(&mut self, write: &mut Write) -> bool {
        let count = write.blocks.len() as u64;
        let temper = self.temper.clone().expect("only a temper makes faults");
        let Some((name, block)) = temper.random(|rng| self.somewhere(rng, count)) else {
            return false;
        };
        (write.name, write.block) = (name, block);
        self.harm.add(name, block, count);
        true
    }
}

fn transfer_failed(extent: ExtentName, block: u64, reason: &str) -> DriveError {
    DriveError::Io {
        extent,
        block,
        reason: reason.into(),
    }
}

impl Rng {
    fn one_of_parts(&mut self, parts: &[Range<usize>]) -> Range<usize> {
        parts[self.below(parts.len() as u64) as usize].clone()
    }
}
