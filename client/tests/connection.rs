//! One connection without a network, against an honest controller that does everything the specification allows.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod fake;

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::time::{Duration, Instant};

use fake::rig::{ALL_DIGESTS, Rig};
use fake::{Chance, FromHost, LAST, SUCCESS, data, r2t, response};
use oriel_client::Digests;
use oriel_client::connection::{ConnectionError, Received, Token};
use oriel_client::nvme::{Command, Flow};

/// What the model controller has to do for a command.
enum Step {
    Data {
        cid: u16,
        offset: usize,
        content: Vec<u8>,
    },
    Ask {
        cid: u16,
        offset: u32,
        whole: u32,
    },
    End {
        cid: u16,
    },
}

/// Random commands in random order, whose data go in random pieces; what is written and read is compared.
fn honest_exchange(seed: u64, digests: Digests) {
    let mut chance = Chance::new(seed ^ 0x55);
    let cpda = chance.below(32) as u8;
    let h2c_max = 4096 + chance.below(20_000) as u32;
    let mut rig = Rig::ready(digests, seed, cpda, h2c_max);
    let mut steps: VecDeque<Step> = VecDeque::new();
    let mut expected: HashMap<Token, Vec<u8>> = HashMap::new();
    let mut written: HashMap<u16, (Token, Vec<u8>)> = HashMap::new();
    let (mut next, mut ended, mut read, mut told_of) = (0, 0, 0, 0);
    let total = 60;
    while ended < total {
        while next < total && rig.connection.room() > 0 && chance.below(3) > 0 {
            let bytes = [0, 4, 512, 4096, 4100, 20_000, 131_072][chance.below(7)];
            let content = chance.bytes(bytes);
            if chance.below(2) == 0 {
                read += content.len();
                expected.insert(next, content.clone());
                rig.submit(next, 2, Flow::In, vec![0; bytes]);
            } else {
                expected.insert(next, content.clone());
                rig.submit(next, 1, Flow::Out, content);
            }
            next += 1;
        }
        rig.send();
        while let Some(pdu) = rig.take() {
            match pdu {
                FromHost::Capsule(capsule) => {
                    let cid = capsule.cid();
                    let (bytes, in_capsule) = capsule.sgl();
                    // Tokens are given out in order, and so are capsules.
                    let token = (0..next).find(|token| {
                        expected.contains_key(token)
                            && !written.values().any(|(known, _)| known == token)
                    });
                    let token = token.unwrap();
                    let content = if in_capsule {
                        capsule.content.clone()
                    } else {
                        Vec::new()
                    };
                    written.insert(cid, (token, content));
                    if bytes == 0 || in_capsule {
                        steps.push_back(Step::End { cid });
                    } else if capsule.opcode() == 2 {
                        let content = expected[&token].clone();
                        steps.push_back(Step::Data {
                            cid,
                            offset: 0,
                            content,
                        });
                    } else {
                        steps.push_back(Step::Ask {
                            cid,
                            offset: 0,
                            whole: bytes,
                        });
                    }
                }
                FromHost::Data {
                    cid,
                    tag,
                    offset,
                    content,
                    is_last,
                } => {
                    assert_eq!(tag, cid ^ 0x1234);
                    let (token, so_far) = written.get_mut(&cid).unwrap();
                    assert_eq!(so_far.len(), offset as usize);
                    assert!(content.len() as u32 <= h2c_max);
                    so_far.extend(content);
                    let whole = expected[token].len();
                    if is_last {
                        let offset = so_far.len() as u32;
                        if so_far.len() == whole {
                            steps.push_back(Step::End { cid });
                        } else {
                            steps.push_back(Step::Ask {
                                cid,
                                offset,
                                whole: whole as u32,
                            });
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        if steps.is_empty() {
            continue;
        }
        let step = steps.remove(chance.below(steps.len())).unwrap();
        match step {
            Step::Data {
                cid,
                offset,
                content,
            } => {
                let left = content.len() - offset;
                let piece = if chance.below(3) == 0 {
                    left
                } else {
                    1 + chance.below(left)
                };
                let part = content[offset..offset + piece].to_vec();
                let is_last = piece == left;
                let is_success = is_last && chance.below(2) == 0;
                let flags = (u8::from(is_last) * LAST) | (u8::from(is_success) * SUCCESS);
                let pad = chance.below(5) * 4;
                rig.feed(&data(cid, offset as u32, &part, flags, pad, digests))
                    .unwrap();
                if !is_last {
                    steps.push_back(Step::Data {
                        cid,
                        offset: offset + piece,
                        content,
                    });
                } else if !is_success {
                    steps.push_back(Step::End { cid });
                } else {
                    written.get_mut(&cid).unwrap().1 = content;
                }
            }
            Step::Ask { cid, offset, whole } => {
                let left = whole - offset;
                let piece = if chance.below(3) == 0 {
                    left
                } else {
                    1 + chance.below(left as usize) as u32
                };
                rig.feed(&r2t(cid, cid ^ 0x1234, offset, piece, digests))
                    .unwrap();
            }
            Step::End { cid } => rig.feed(&response(cid, 0, 7, digests)).unwrap(),
        }
        while let Some(done) = rig.connection.next_done() {
            done.result.unwrap();
            let content = expected.remove(&done.token).unwrap();
            assert_eq!(done.transferred as usize, content.len());
            assert!(
                rig.memory.bytes[&done.token] == content,
                "seed {seed}: {}",
                done.token
            );
            // All that a read has brought was told, in order, when it was there.
            let told = rig.memory.told.remove(&done.token).unwrap_or_default();
            assert!(told.is_empty() || told == content, "seed {seed}");
            told_of += told.len();
            let (cid, (_, sent)) = written
                .iter()
                .find(|(_, (token, _))| *token == done.token)
                .unwrap();
            // Those that were written, and those whose SUCCESS came with the data.
            assert!(sent.is_empty() || *sent == content, "seed {seed}");
            let cid = *cid;
            written.remove(&cid);
            ended += 1;
        }
    }
    assert_eq!(told_of, read, "seed {seed}");
    assert_eq!(rig.connection.under_way(), 0);
    assert!(rig.connection.abandon().is_empty());
}

#[test]
fn honest_controllers_get_along_however_they_cut_data() {
    for seed in 0..40 {
        for digests in ALL_DIGESTS {
            honest_exchange(seed, digests);
        }
    }
}

/// Data go from the network into the caller's memory: what is read besides is never more than a digest and a header.
#[test]
fn read_data_are_not_copied() {
    for digests in ALL_DIGESTS {
        let mut rig = Rig::ready(digests, 1, 0, 131_072);
        for token in 0..4 {
            rig.submit(token, 2, Flow::In, vec![0; 65_536]);
        }
        let cids: Vec<u16> = (0..4).map(|_| rig.next_capsule().cid()).collect();
        let mut input = Vec::new();
        for offset in [0, 32_768] {
            for cid in &cids {
                let flags = if offset == 0 { 0 } else { LAST | SUCCESS };
                input.extend(data(*cid, offset, &[*cid as u8; 32_768], flags, 0, digests));
            }
        }
        // A network that has all of it at once.
        let (mut left, mut direct, mut staged) = (&input[..], 0, 0);
        let mut read = |slices: &mut [IoSliceMut<'_>]| {
            let count = slices.len();
            let mut read = 0;
            for (place, slice) in slices.iter_mut().enumerate() {
                let part = slice.len().min(left.len());
                slice[..part].copy_from_slice(&left[..part]);
                left = &left[part..];
                read += part;
                match place + 1 == count {
                    true => staged += part,
                    false => direct += part,
                }
            }
            match read {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                read => Ok(read),
            }
        };
        while rig.connection.receive(&mut rig.memory, &mut read).unwrap() == Received::Enough {}
        assert_eq!(direct, 4 * 65_536, "{digests:?}");
        assert_eq!(staged, input.len() - direct);
        for (token, cid) in (0..4).zip(cids) {
            assert_eq!(rig.done().token, token);
            assert!(rig.memory.bytes[&token] == [cid as u8; 65_536]);
        }
    }
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_commands() {
    let mut rig = Rig::ready(Digests::NONE, 3, 0, 4096);
    rig.submit(1, 0, Flow::None, Vec::new());
    let first = rig.next_capsule().cid();
    rig.feed(&response(first, 0, 0, Digests::NONE)).unwrap();
    assert_eq!(rig.done().token, 1);
    rig.submit(2, 0, Flow::None, Vec::new());
    let second = rig.next_capsule().cid();
    assert_ne!(first, second);
    let error = rig.feed(&response(first, 0, 0, Digests::NONE)).unwrap_err();
    assert_eq!(
        error,
        ConnectionError::UnknownCommand {
            pdu: "CapsuleResp",
            cid: first
        }
    );
    assert_eq!(rig.connection.abandon(), [(2, true)]);
}

/// An answer that comes while the command's own bytes are still being sent: its memory is in use until they are.
#[test]
fn memory_is_kept_until_it_is_sent() {
    let mut rig = Rig::ready(Digests::NONE, 4, 0, 4096);
    rig.submit(5, 1, Flow::Out, vec![7; 16_384]);
    let cid = rig.next_capsule().cid();
    rig.feed(&r2t(cid, 9, 0, 16_384, Digests::NONE)).unwrap();
    rig.feed(&response(cid, 0x80, 0, Digests::NONE)).unwrap();
    assert_eq!(rig.connection.next_done(), None);
    rig.send();
    let done = rig.done();
    assert_eq!((done.token, done.result.unwrap().status.code), (5, 0x80));
}

#[test]
fn what_was_not_sent_was_not_done() {
    let mut rig = Rig::ready(Digests::NONE, 5, 0, 4096);
    let soon = Instant::now() + Duration::from_secs(1);
    rig.memory.bytes.insert(1, Vec::new());
    let command = Command::new(0, 1, Flow::None);
    assert!(rig.connection.submit(1, command, 0, Some(soon)));
    assert!(rig.connection.expired(Instant::now()).is_none());
    assert_eq!(rig.connection.expired(soon).unwrap().token, 1);
    rig.next_capsule();
    assert!(rig.connection.submit(2, command, 0, None));
    assert_eq!(rig.connection.abandon(), [(1, true), (2, false)]);
    assert_eq!(rig.connection.room(), 15);
}

/// Damaged data fail their command alone.
#[test]
fn a_wrong_data_digest_fails_one_command() {
    let digests = Digests::BOTH;
    let mut rig = Rig::ready(digests, 6, 0, 4096);
    for token in [1, 2] {
        rig.submit(token, 2, Flow::In, vec![0; 4096]);
    }
    let (first, second) = (rig.next_capsule().cid(), rig.next_capsule().cid());
    let mut bad = data(first, 0, &[1; 4096], LAST | SUCCESS, 0, digests);
    bad[2000] ^= 1;
    rig.feed(&bad).unwrap();
    rig.feed(&data(second, 0, &[2; 4096], LAST | SUCCESS, 0, digests))
        .unwrap();
    let damaged = rig.done();
    assert_eq!(damaged.token, 1);
    let digest = damaged.result.unwrap_err();
    assert_eq!(digest.expected, crc32c::crc32c(&[1; 4096]));
    assert_ne!(digest.found, digest.expected);
    assert!(rig.done().result.is_ok());
}
