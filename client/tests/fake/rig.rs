//! One connection without a network.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

use oriel_client::Digests;
use oriel_client::connection::{
    Buffers, Connection, ConnectionError, ConnectionOptions, Done, Token,
};
use oriel_client::nvme::{Command, Flow};

use super::{Capsule, Chance, FromHost, ic_resp, take};

pub(crate) struct Memory {
    pub(crate) bytes: HashMap<Token, Vec<u8>>,
    /// What has arrived, as it was told.
    pub(crate) told: HashMap<Token, Vec<u8>>,
}

impl Buffers for Memory {
    fn bytes(&self, token: Token) -> Option<&[u8]> {
        self.bytes.get(&token).map(Vec::as_slice)
    }

    fn bytes_mut(&mut self, token: Token) -> Option<&mut [u8]> {
        self.bytes.get_mut(&token).map(Vec::as_mut_slice)
    }

    fn arrived(&mut self, token: Token, bytes: Range<usize>) {
        let told = self.told.entry(token).or_default();
        assert!(!bytes.is_empty() && told.len() == bytes.start);
        told.extend(&self.bytes[&token][bytes]);
    }
}

/// A connection with the network cut into pieces of all sizes.
pub(crate) struct Rig {
    pub(crate) connection: Connection,
    pub(crate) memory: Memory,
    chance: Chance,
    digests: Digests,
    cpda: u8,
    /// What the host has sent.
    output: Vec<u8>,
}

fn options(digests: Digests) -> ConnectionOptions {
    ConnectionOptions {
        digests,
        commands: 15,
        in_capsule_bytes: 4096,
        r2ts: 2,
    }
}

impl Rig {
    pub(crate) fn new(digests: Digests, seed: u64) -> Self {
        Self {
            connection: Connection::new(options(digests)),
            memory: Memory {
                bytes: HashMap::new(),
                told: HashMap::new(),
            },
            chance: Chance::new(seed),
            digests,
            cpda: 0,
            output: Vec::new(),
        }
    }

    /// One that is past its first exchange.
    pub(crate) fn ready(digests: Digests, seed: u64, cpda: u8, h2c_max: u32) -> Self {
        let mut rig = Self::new(digests, seed);
        rig.cpda = cpda;
        rig.send();
        assert!(matches!(rig.take(), Some(FromHost::IcReq { r2ts: 2 })));
        rig.feed(&ic_resp(digests, cpda, h2c_max)).unwrap();
        assert!(rig.connection.is_ready());
        rig
    }

    pub(crate) fn send(&mut self) {
        let (connection, memory, chance) = (&mut self.connection, &self.memory, &mut self.chance);
        let output = &mut self.output;
        let mut write = |slices: &[IoSlice<'_>]| {
            if chance.below(4) == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let most = [30, 20_000][chance.below(2)];
            let mut left = 1 + chance.below(most);
            let mut count = 0;
            for slice in slices {
                assert!(!slice.is_empty());
                let part = &slice[..slice.len().min(left)];
                output.extend(part);
                left -= part.len();
                count += part.len();
            }
            Ok(count)
        };
        while connection.has_output() {
            connection.transmit(memory, &mut write).unwrap();
        }
    }

    pub(crate) fn take(&mut self) -> Option<FromHost> {
        take(&mut self.output, self.digests, self.cpda)
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let (connection, memory, chance) =
            (&mut self.connection, &mut self.memory, &mut self.chance);
        let mut left = bytes;
        // A read that brings less than there is room for ends a turn, so there are as many turns as it takes.
        let is_dry = Cell::new(false);
        let mut read = |slices: &mut [IoSliceMut<'_>]| {
            let most = [40, 20_000][chance.below(2)];
            let mut most = 1 + chance.below(most);
            let mut count = 0;
            for slice in slices {
                let part = slice.len().min(most).min(left.len());
                slice[..part].copy_from_slice(&left[..part]);
                left = &left[part..];
                most -= part;
                count += part;
            }
            match count {
                0 => {
                    is_dry.set(true);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                count => Ok(count),
            }
        };
        while !is_dry.get() {
            connection.receive(memory, &mut read)?;
        }
        assert!(left.is_empty(), "what is read is what came");
        Ok(())
    }

    pub(crate) fn submit(&mut self, token: Token, opcode: u8, flow: Flow, memory: Vec<u8>) {
        let bytes = memory.len() as u32;
        self.memory.bytes.insert(token, memory);
        assert!(
            self.connection
                .submit(token, Command::new(opcode, 1, flow), bytes, None)
        );
    }

    pub(crate) fn next_capsule(&mut self) -> Capsule {
        self.send();
        match self.take() {
            Some(FromHost::Capsule(capsule)) => capsule,
            other => panic!("no capsule but {other:?}"),
        }
    }

    pub(crate) fn done(&mut self) -> Done {
        self.connection.next_done().expect("a command has ended")
    }

    /// The host's last word.
    pub(crate) fn parting_word(&mut self, error: &ConnectionError) -> Option<u16> {
        self.connection.part(error);
        self.send();
        match self.take() {
            Some(FromHost::Term { status, .. }) => Some(status),
            None => None,
            other => panic!("after an error came {other:?}"),
        }
    }
}

pub(crate) const ALL_DIGESTS: [Digests; 4] = [
    Digests::NONE,
    Digests {
        header: true,
        data: false,
    },
    Digests {
        header: false,
        data: true,
    },
    Digests::BOTH,
];
