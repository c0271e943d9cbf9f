//! Any answers to a connection with commands under way, in pieces of any length: no panic, nothing written outside of the
//! commands' memory, and each command comes out once.
#![no_main]

use std::io::{self, IoSlice, IoSliceMut};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use oriel_client::Digests;
use oriel_client::connection::{Buffers, Connection, ConnectionOptions, Received};
use oriel_client::nvme::{Command, Flow};

#[derive(Arbitrary, Debug)]
enum Pdu {
    Data {
        cid: u16,
        offset: u16,
        bytes: u16,
        flags: u8,
        pad: u8,
    },
    R2t {
        cid: u16,
        tag: u16,
        offset: u32,
        bytes: u32,
    },
    Response {
        cid: u16,
        status: u16,
    },
    Term {
        status: u16,
        bytes: u8,
    },
    Noise(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Input {
    header_digests_of_host: bool,
    is_initialized: bool,
    steps: Vec<u16>,
    pdus: Vec<Pdu>,
}

struct Memory([Vec<u8>; 4]);

impl Buffers for Memory {
    fn bytes(&self, token: u64) -> Option<&[u8]> {
        self.0.get(token as usize).map(Vec::as_slice)
    }

    fn bytes_mut(&mut self, token: u64) -> Option<&mut [u8]> {
        self.0.get_mut(token as usize).map(Vec::as_mut_slice)
    }
}

fn encode(pdu: &Pdu, out: &mut Vec<u8>) {
    let header = |out: &mut Vec<u8>, kind: u8, flags: u8, begin: u8, whole: u32| {
        out.extend([kind, flags, 24, begin]);
        out.extend(whole.to_le_bytes());
    };
    // The identifiers of the first commands: slot, and 1 as the count of its uses.
    let known = |cid: u16| if cid < 0xf000 { 0x400 | cid & 3 } else { cid };
    match pdu {
        Pdu::Data {
            cid,
            offset,
            bytes,
            flags,
            pad,
        } => {
            let begin = 24 + (pad & 3) * 4;
            let bytes = bytes & 0x1fff;
            header(
                out,
                7,
                flags & 0xc,
                begin,
                u32::from(begin) + u32::from(bytes),
            );
            out.extend(known(*cid).to_le_bytes());
            out.extend([0; 2]);
            out.extend(u32::from(*offset).to_le_bytes());
            out.extend(u32::from(bytes).to_le_bytes());
            out.extend([0; 4]);
            out.resize(
                out.len() + usize::from(begin - 24) + usize::from(bytes),
                0x5a,
            );
        }
        Pdu::R2t {
            cid,
            tag,
            offset,
            bytes,
        } => {
            header(out, 9, 0, 0, 24);
            out.extend(known(*cid).to_le_bytes());
            out.extend(tag.to_le_bytes());
            out.extend((offset & 0x3fff).to_le_bytes());
            out.extend((bytes & 0x3fff).to_le_bytes());
            out.extend([0; 4]);
        }
        Pdu::Response { cid, status } => {
            header(out, 5, 0, 0, 24);
            out.extend([0; 12]);
            out.extend(known(*cid).to_le_bytes());
            out.extend(status.to_le_bytes());
        }
        Pdu::Term { status, bytes } => {
            header(out, 3, 0, 0, 24 + u32::from(*bytes));
            out.extend(status.to_le_bytes());
            out.extend([0; 14]);
            out.resize(out.len() + usize::from(*bytes), 1);
        }
        Pdu::Noise(noise) => out.extend(noise),
    }
}

fuzz_target!(|input: Input| {
    let digests = Digests {
        header: input.header_digests_of_host,
        data: false,
    };
    let options = ConnectionOptions {
        digests,
        commands: 7,
        in_capsule_bytes: 1024,
        r2ts: 2,
    };
    let mut connection = Connection::new(options);
    let mut memory = Memory([vec![0; 4096], vec![1; 8192], vec![0; 4096], vec![2; 512]]);
    let flows = [Flow::In, Flow::Out, Flow::In, Flow::Out];
    for (token, flow) in (0..).zip(flows) {
        let bytes = memory.0[token as usize].len() as u32;
        assert!(connection.submit(token, Command::new(2, 1, flow), bytes, None));
    }
    let mut stream = Vec::new();
    if input.is_initialized {
        // No digests are granted, whatever was asked for.
        stream.extend([1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
        stream.resize(128, 0);
    }
    let mut steps = input.steps.iter().cycle();
    let mut pdus = input.pdus.iter();
    let mut is_broken = false;
    loop {
        let mut left = &stream[..];
        let mut read = |slices: &mut [IoSliceMut<'_>]| {
            let mut most = usize::from(steps.next().copied().unwrap_or(9000)).max(1);
            let mut count = 0;
            for slice in slices {
                let part = slice.len().min(most).min(left.len());
                slice[..part].copy_from_slice(&left[..part]);
                left = &left[part..];
                most -= part;
                count += part;
            }
            if count == 0 {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(count)
            }
        };
        loop {
            match connection.receive(&mut memory, &mut read) {
                Ok(Received::Enough) => {}
                Ok(Received::Blocked) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    connection.part(&error);
                    is_broken = true;
                    break;
                }
            }
        }
        let mut write = |slices: &[IoSlice<'_>]| Ok(slices.iter().map(|slice| slice.len()).sum());
        connection
            .transmit(&memory, &mut write)
            .expect("memory is there, and the network takes all");
        stream.clear();
        match pdus.next() {
            Some(pdu) if !is_broken => encode(pdu, &mut stream),
            _ => break,
        }
    }
    let mut ended = Vec::new();
    while let Some(done) = connection.next_done() {
        ended.push(done.token);
    }
    ended.extend(connection.abandon().iter().map(|(token, _)| *token));
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2, 3]);
    assert!(memory.0[1] == [1; 8192] && memory.0[3] == [2; 512]);
});
