//! One queue's connection as a state machine without any I/O.
//!
//! ```text
//!   submit ──► slot ──► job ──► chunks ──► transmit(write)            receive(read) ──► staging ──► header
//!                ▲       ▲                                                  │                        │
//!                │       └── R2T asks for a piece ◄─────────────────────────┼────────────────────────┤
//!                │                                                          └──► the caller's memory ┤ C2HData
//!                └────────────────── done: token, completion ◄───────────────────────────────────────┘ CapsuleResp
//! ```
//!
//! - A command is in a slot from `submit` until it comes out of `next_done`. The slot's number and a count of its uses
//!   make the command's identifier, so that a late or repeated answer is not taken for that of the slot's next command.
//! - Long data go from the socket into the caller's memory and nowhere else: while they are expected, no more than the next
//!   header is read besides them. Short ones (by the mean of what is expected) are read many at a time, and copied.
//! - A command whose bytes are still being sent when its answer comes is done when they are sent: the memory is in use.
//! - Whatever is wrong is an error that ends the connection; every command then comes out of `abandon`. Only a wrong digest
//!   of data fails the command alone.
//!
//! Time, sockets and the callers' memory are given to it, so tests drive it byte by byte.

mod error;
mod receive;
mod transmit;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

pub use error::ConnectionError;
pub use receive::Received;
pub use transmit::Transmitted;

use crate::limits::{CHUNKS_MAX, QUEUE_ENTRIES_MAX, R2TS_MAX, SLOT_BITS};
use crate::nvme::{Command, Completion, Flow};
use crate::pdu::{Digests, ic_req};
use receive::Receiver;
use transmit::{Chunk, Job, Transmitter};

/// The caller's name for a command and its memory.
pub type Token = u64;

/// The memory of commands.
pub trait Buffers {
    /// The bytes that a command's data come from.
    fn bytes(&self, token: Token) -> Option<&[u8]>;
    /// The bytes that a command's data go to.
    fn bytes_mut(&mut self, token: Token) -> Option<&mut [u8]>;
    /// These of a command's data have come, and all before them.
    fn arrived(&mut self, _token: Token, _bytes: Range<usize>) {}
}

/// What a connection is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionOptions {
    /// Digests to ask for.
    pub digests: Digests,
    /// Commands under way at most; one less than the queue has entries.
    pub commands: u16,
    /// Bytes of data that may travel in a command's capsule.
    pub in_capsule_bytes: u32,
    /// R2Ts that the controller may have open for one command.
    pub r2ts: u32,
}

/// Data that changed on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataDigest {
    /// That of the bytes.
    pub found: u32,
    /// The one that came with them.
    pub expected: u32,
}

/// A command that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Which.
    pub token: Token,
    /// How.
    pub result: Result<Completion, DataDigest>,
    /// Bytes of its data that were transferred.
    pub transferred: u32,
}

/// A command that has taken too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Which.
    pub token: Token,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The answer to the ICReq has not come.
    Initializing,
    Ready,
}

/// A command under way.
struct Busy {
    token: Token,
    command: Command,
    /// Bytes of its data.
    bytes: u32,
    in_capsule: bool,
    /// Some of the capsule was sent: the controller may do it.
    is_begun: bool,
    /// All of it was.
    is_sent: bool,
    /// Bytes received, asked for by R2Ts, or sent along.
    transferred: u32,
    /// R2Ts whose data are not sent yet.
    r2ts: u32,
    /// The last of its data has come, or none is to come.
    has_all_data: bool,
    damage: Option<DataDigest>,
    /// Jobs and chunks that still need its memory.
    pending: u32,
    ended: Option<Completion>,
    expires: Option<Instant>,
}

#[derive(Default)]
struct Slot {
    uses: u16,
    busy: Option<Busy>,
}

/// One queue's connection.
pub struct Connection {
    options: ConnectionOptions,
    phase: Phase,
    digests: Digests,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Commands whose data are to come.
    data_expected: u32,
    /// All of the data of these.
    bytes_expected: u64,
    receiver: Receiver,
    transmitter: Transmitter,
    done: VecDeque<Done>,
}

const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;

impl Connection {
    /// A connection that begins with its ICReq.
    ///
    /// # Panics
    /// When more commands or R2Ts are wanted than `limits` allows, or none.
    pub fn new(options: ConnectionOptions) -> Self {
        assert!(
            (1..QUEUE_ENTRIES_MAX).contains(&options.commands),
            "a queue has room for commands"
        );
        assert!(
            (1..=R2TS_MAX).contains(&options.r2ts),
            "R2Ts have to be possible"
        );
        let mut transmitter = Transmitter::default();
        transmitter.chunks.reserve(CHUNKS_MAX);
        transmitter
            .chunks
            .push_back(Chunk::plain(ic_req(options.digests, options.r2ts)));
        Self {
            options,
            phase: Phase::Initializing,
            digests: Digests::NONE,
            slots: (0..options.commands).map(|_| Slot::default()).collect(),
            free: (0..options.commands).rev().collect(),
            data_expected: 0,
            bytes_expected: 0,
            receiver: Receiver::default(),
            transmitter,
            done: VecDeque::with_capacity(usize::from(options.commands)),
        }
    }

    /// Whether the controller has answered the ICReq.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// The digests that both sides have agreed on.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// From now on capsules may carry so many bytes.
    pub fn set_in_capsule_bytes(&mut self, bytes: u32) {
        self.options.in_capsule_bytes = bytes;
    }

    /// Commands that can be submitted now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Commands under way.
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a command with so many bytes of data; whether there was a slot for it.
    pub fn submit(
        &mut self,
        token: Token,
        command: Command,
        bytes: u32,
        expires: Option<Instant>,
    ) -> bool {
        let Some(slot) = self.free.pop() else {
            return false;
        };
        let flow = if bytes == 0 {
            Flow::None
        } else {
            command.flow()
        };
        let has_all_data = flow != Flow::In;
        if !has_all_data {
            self.data_expected += 1;
            self.bytes_expected += u64::from(bytes);
        }
        let place = &mut self.slots[usize::from(slot)];
        let in_capsule = flow == Flow::Out && bytes <= self.options.in_capsule_bytes;
        place.uses = place.uses.wrapping_add(1);
        place.busy = Some(Busy {
            token,
            command,
            bytes: if flow == Flow::None { 0 } else { bytes },
            in_capsule,
            is_begun: false,
            is_sent: false,
            transferred: if in_capsule { bytes } else { 0 },
            r2ts: 0,
            has_all_data,
            damage: None,
            pending: 1,
            ended: None,
            expires,
        });
        self.transmitter.jobs.push_back(Job::Capsule { slot });
        true
    }

    /// The next command that has ended.
    pub fn next_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// A command that should have ended by now.
    pub fn expired(&self, now: Instant) -> Option<Expired> {
        let busy = self.slots.iter().filter_map(|slot| slot.busy.as_ref());
        let late = busy.filter(|busy| busy.expires.is_some_and(|expires| expires <= now));
        late.map(|busy| Expired { token: busy.token }).next()
    }

    /// Gives up what is under way: each command, and whether the controller may have done it.
    pub fn abandon(&mut self) -> Vec<(Token, bool)> {
        let busy = self.slots.iter_mut().filter_map(|slot| slot.busy.take());
        let all = busy.map(|busy| (busy.token, busy.is_begun)).collect();
        self.transmitter = Transmitter::default();
        self.free = (0..self.options.commands).rev().collect();
        self.data_expected = 0;
        self.bytes_expected = 0;
        all
    }

    /// A slot's identifier for the wire.
    fn cid(&self, slot: u16) -> u16 {
        slot | self.slots[usize::from(slot)].uses << SLOT_BITS
    }

    /// The command that a PDU is about, all of which was sent.
    fn find(&mut self, pdu: &'static str, cid: u16) -> Result<(u16, &mut Busy), ConnectionError> {
        let unknown = ConnectionError::UnknownCommand { pdu, cid };
        let slot = cid & SLOT_MASK;
        if usize::from(slot) >= self.slots.len() || self.cid(slot) != cid {
            return Err(unknown);
        }
        let busy = self.slots[usize::from(slot)].busy.as_mut();
        let busy = busy.filter(|busy| busy.is_sent && busy.ended.is_none());
        busy.map(|busy| (slot, busy)).ok_or(unknown)
    }

    /// The command in a slot has ended, or will have when its bytes are sent.
    fn end(&mut self, slot: u16, completion: Completion) {
        let place = &mut self.slots[usize::from(slot)];
        let Some(busy) = &mut place.busy else { return };
        busy.ended = Some(completion);
        if !busy.has_all_data {
            busy.has_all_data = true;
            self.data_expected -= 1;
            self.bytes_expected -= u64::from(busy.bytes);
        }
        self.retire(slot);
    }

    /// Frees a slot whose command has ended and whose memory nobody needs.
    fn retire(&mut self, slot: u16) {
        let place = &mut self.slots[usize::from(slot)];
        let is_over = |busy: &mut Busy| busy.pending == 0 && busy.ended.is_some();
        let Some(busy) = place.busy.take_if(is_over) else {
            return;
        };
        self.free.push(slot);
        let completion = busy.ended.unwrap_or(Completion::SUCCESS);
        self.done.push_back(Done {
            token: busy.token,
            result: busy.damage.map_or(Ok(completion), Err),
            transferred: busy.transferred,
        });
    }
}
