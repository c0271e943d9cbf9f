//! One connection without a network, against a controller that does everything the specification forbids.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod fake;

use std::io::{self, IoSliceMut};

use fake::rig::{ALL_DIGESTS, Rig};
use fake::{LAST, SUCCESS, data, ic_resp, r2t, response, term};
use oriel_client::Digests;
use oriel_client::connection::{ConnectionError, Token};
use oriel_client::nvme::Flow;
use oriel_client::pdu::PduError;
use proptest::prelude::*;

/// Each way in which a controller can be broken: the error, and what the host says to it ("FES").
#[test]
fn broken_controllers_are_told_what_they_did() {
    let none = Digests::NONE;
    let mut kinds = 0;
    let mut check = |name: &str,
                     digests: Digests,
                     make: &dyn Fn(u16, u16) -> Vec<u8>,
                     fes: Option<u16>,
                     is_it: &dyn Fn(&ConnectionError) -> bool| {
        for seed in 0..20 {
            let mut rig = Rig::ready(digests, seed, 0, 4096);
            rig.submit(1, 2, Flow::In, vec![0; 8192]);
            rig.submit(2, 1, Flow::Out, vec![0; 8192]);
            let (reads, writes) = (rig.next_capsule().cid(), rig.next_capsule().cid());
            let error = rig.feed(&make(reads, writes)).expect_err(name);
            assert!(is_it(&error), "{name}: {error}");
            assert!(!error.to_string().is_empty());
            assert_eq!(rig.parting_word(&error), fes, "{name}");
            let left: Vec<Token> = rig
                .connection
                .abandon()
                .iter()
                .map(|(token, _)| *token)
                .collect();
            assert_eq!(left, [1, 2], "{name}");
            assert!(rig.memory.bytes[&1].len() == 8192 && rig.memory.bytes[&2] == [0; 8192]);
        }
        kinds += 1;
    };
    let unknown = |error: &ConnectionError| matches!(error, ConnectionError::UnknownCommand { .. });
    let range = |error: &ConnectionError| matches!(error, ConnectionError::Range { .. });
    let direction =
        |error: &ConnectionError| matches!(error, ConnectionError::WrongDirection { .. });
    let field =
        |error: &ConnectionError| matches!(error, ConnectionError::Pdu(PduError::Field { .. }));
    let kind =
        |error: &ConnectionError| matches!(error, ConnectionError::Pdu(PduError::Type { .. }));

    check(
        "a response to nothing",
        none,
        &|_, _| response(0x3ff, 0, 0, none),
        Some(1),
        &unknown,
    );
    check(
        "a response to a slot that is free",
        none,
        &|_, _| response(0x405, 0, 0, none),
        Some(1),
        &unknown,
    );
    check(
        "data for nothing",
        none,
        &|_, _| data(0x400 | 9, 0, &[0; 8], 0, 0, none),
        Some(1),
        &unknown,
    );
    check(
        "an R2T for nothing",
        none,
        &|_, _| r2t(0x400 | 9, 0, 0, 8, none),
        Some(1),
        &unknown,
    );
    check(
        "data for a write",
        none,
        &|_, writes| data(writes, 0, &[0; 8], 0, 0, none),
        Some(1),
        &direction,
    );
    check(
        "an R2T for a read",
        none,
        &|reads, _| r2t(reads, 0, 0, 8, none),
        Some(1),
        &direction,
    );
    check(
        "data behind the end",
        none,
        &|reads, _| data(reads, 0, &[0; 8196], 0, 0, none),
        Some(4),
        &range,
    );
    check(
        "data that begin behind the end",
        none,
        &|reads, _| data(reads, 8192, &[0; 4], 0, 0, none),
        Some(4),
        &range,
    );
    check(
        "data with a hole",
        none,
        &|reads, _| data(reads, 4, &[0; 4], 0, 0, none),
        Some(4),
        &range,
    );
    check(
        "data at the end of numbers",
        none,
        &|reads, _| data(reads, u32::MAX - 3, &[0; 8], 0, 0, none),
        Some(4),
        &range,
    );
    check(
        "data twice",
        none,
        &|reads, _| {
            [
                data(reads, 0, &[0; 8], 0, 0, none),
                data(reads, 0, &[0; 8], 0, 0, none),
            ]
            .concat()
        },
        Some(4),
        &range,
    );
    check(
        "data after the last",
        none,
        &|reads, _| {
            [
                data(reads, 0, &[0; 8], LAST, 0, none),
                data(reads, 8, &[0; 8], 0, 0, none),
            ]
            .concat()
        },
        Some(4),
        &range,
    );
    check(
        "an R2T behind the end",
        none,
        &|_, writes| r2t(writes, 0, 0, 8193, none),
        Some(4),
        &range,
    );
    check(
        "an R2T for 4 GiB",
        none,
        &|_, writes| r2t(writes, 0, 0, u32::MAX, none),
        Some(4),
        &range,
    );
    check(
        "an R2T at the end of numbers",
        none,
        &|_, writes| r2t(writes, 0, u32::MAX, 2, none),
        Some(4),
        &range,
    );
    check(
        "an R2T with a hole",
        none,
        &|_, writes| r2t(writes, 0, 8, 8, none),
        Some(4),
        &range,
    );
    check(
        "an R2T for nothing at all",
        none,
        &|_, writes| r2t(writes, 0, 0, 0, none),
        Some(1),
        &field,
    );
    check(
        "no data at all",
        none,
        &|reads, _| data(reads, 0, &[], 0, 0, none),
        Some(1),
        &field,
    );
    check(
        "success before the last",
        none,
        &|reads, _| data(reads, 0, &[0; 8], SUCCESS, 0, none),
        Some(1),
        &field,
    );
    check(
        "three R2Ts where two are granted",
        none,
        &|_, writes| {
            [0, 8, 16]
                .iter()
                .flat_map(|offset| r2t(writes, 1, *offset, 8, none))
                .collect()
        },
        Some(5),
        &|error| matches!(error, ConnectionError::TooManyR2ts { granted: 2, .. }),
    );
    check("a PDU of a host", none, &|_, _| vec![4; 24], Some(2), &kind);
    check(
        "a second ICResp",
        none,
        &|_, _| ic_resp(none, 0, 4096),
        Some(2),
        &kind,
    );
    check(
        "another protocol",
        none,
        &|_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        Some(2),
        &kind,
    );
    let changed = |at: usize, byte: u8| {
        move |reads: u16, _: u16| {
            let mut bytes = data(reads, 0, &[0; 8], 0, 0, Digests::NONE);
            bytes[at] = byte;
            bytes
        }
    };
    check("HLEN too small", none, &changed(2, 8), Some(1), &field);
    check("HLEN too large", none, &changed(2, 255), Some(1), &field);
    check("PDO in the header", none, &changed(3, 20), Some(1), &field);
    check("PDO of 255", none, &changed(3, 255), Some(1), &field);
    check("PLEN too small", none, &changed(4, 1), Some(1), &field);
    check("PLEN of 2 GiB", none, &changed(7, 0x80), Some(1), &field);
    check(
        "a digest that nobody wanted",
        none,
        &changed(1, 1),
        Some(1),
        &field,
    );
    check(
        "a data digest that nobody wanted",
        none,
        &changed(1, 2),
        Some(1),
        &field,
    );
    check(
        "no digest",
        Digests::BOTH,
        &|reads, _| [response(reads, 0, 0, none), vec![0; 4]].concat(),
        Some(3),
        &|error| matches!(error, ConnectionError::Pdu(PduError::HeaderDigest { .. })),
    );
    check(
        "a damaged header",
        Digests::BOTH,
        &|reads, _| {
            let mut bytes = response(reads, 0, 0, Digests::BOTH);
            bytes[13] ^= 0x40;
            bytes
        },
        Some(3),
        &|error| matches!(error, ConnectionError::Pdu(PduError::HeaderDigest { .. })),
    );
    check(
        "the controller's own end",
        none,
        &|_, _| term(4, 0x1234, &[9; 128]),
        None,
        &|error| matches!(error, ConnectionError::Terminated(term) if term.status.0 == 4 && term.information == 0x1234),
    );
    check(
        "the controller's own end with digests",
        Digests::BOTH,
        &|_, _| term(6, 0, &[]),
        None,
        &|error| matches!(error, ConnectionError::Terminated(term) if term.status.0 == 6),
    );
    check(
        "an end of too many words",
        none,
        &|_, _| term(1, 0, &[9; 129]),
        Some(1),
        &field,
    );
    assert_eq!(kinds, 36);
}

#[test]
fn first_answers_are_looked_at() {
    let asked = Digests::BOTH;
    let refused = |bytes: &[u8]| {
        let mut rig = Rig::new(asked, 8);
        rig.send();
        rig.take();
        rig.feed(bytes)
    };
    let changed = |at: usize, byte: u8| {
        let mut bytes = ic_resp(asked, 0, 4096);
        bytes[at] = byte;
        refused(&bytes)
    };
    changed(0, 1).unwrap();
    for (at, byte) in [(2, 24), (4, 0), (7, 1), (8, 1), (10, 32), (13, 0)] {
        let error = changed(at, byte).unwrap_err();
        assert!(
            matches!(error, ConnectionError::Pdu(PduError::Field { .. })),
            "{at}: {error}"
        );
    }
    let error = changed(11, 7).unwrap_err();
    assert!(
        matches!(
            error,
            ConnectionError::Pdu(PduError::Digests { asked: 3, found: 7 })
        ),
        "{error}"
    );
    let error = refused(b"SSH-2.0-x\r\n").unwrap_err();
    assert!(
        error.to_string().contains("does not speak NVMe/TCP"),
        "{error}"
    );
    let error = refused(&term(1, 2, &[0; 16])).unwrap_err();
    assert!(matches!(error, ConnectionError::Terminated(_)), "{error}");
}

#[test]
fn the_end_of_a_connection_is_an_error() {
    let mut rig = Rig::ready(Digests::NONE, 9, 0, 4096);
    let closed = rig
        .connection
        .receive(&mut rig.memory, &mut |_| Ok(0))
        .unwrap_err();
    assert_eq!(closed, ConnectionError::Closed);
    let mut reset = |_: &mut [IoSliceMut<'_>]| Err(io::ErrorKind::ConnectionReset.into());
    let error = rig
        .connection
        .receive(&mut rig.memory, &mut reset)
        .unwrap_err();
    assert_eq!(
        error,
        ConnectionError::Network {
            kind: io::ErrorKind::ConnectionReset
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// A sane answer with some bytes changed, cut or repeated: whatever comes of it, no panic, nothing outside of the
    /// command's memory, and every command comes out once.
    #[test]
    fn changed_streams_are_no_trouble(
        seed in any::<u64>(),
        which in 0_usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        repeated in any::<bool>(),
    ) {
        let digests = ALL_DIGESTS[which];
        let mut rig = Rig::ready(digests, seed, 0, 4096);
        rig.submit(1, 2, Flow::In, vec![0; 8192]);
        rig.submit(2, 1, Flow::Out, vec![0; 8192]);
        rig.submit(3, 2, Flow::In, vec![0; 4096]);
        rig.memory.bytes.insert(9, vec![0x77; 8192]);
        let cids: Vec<u16> = (0..3).map(|_| rig.next_capsule().cid()).collect();
        let mut stream = data(cids[0], 0, &[1; 4096], 0, 4, digests);
        stream.extend(r2t(cids[1], 5, 0, 4096, digests));
        stream.extend(data(cids[2], 0, &[3; 4096], LAST | SUCCESS, 0, digests));
        stream.extend(data(cids[0], 4096, &[1; 4096], LAST, 0, digests));
        stream.extend(r2t(cids[1], 6, 4096, 4096, digests));
        stream.extend(response(cids[0], 0, 0, digests));
        stream.extend(response(cids[1], 0, 0, digests));
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        if let Some(cut) = cut {
            stream.truncate(cut.index(stream.len()));
        }
        if repeated {
            stream.extend_from_within(..);
        }
        let fed = rig.feed(&stream);
        match &fed {
            Ok(()) => rig.send(),
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                rig.connection.part(error);
            }
        }
        let mut ended = Vec::new();
        while let Some(done) = rig.connection.next_done() {
            ended.push(done.token);
        }
        ended.extend(rig.connection.abandon().iter().map(|(token, _)| *token));
        ended.sort_unstable();
        prop_assert_eq!(ended, [1, 2, 3]);
        prop_assert!(rig.memory.bytes[&9] == [0x77; 8192]);
        prop_assert!(rig.memory.bytes[&2] == [0; 8192]);
    }

    #[test]
    fn noise_is_no_trouble(seed in any::<u64>(), noise in proptest::collection::vec(any::<u8>(), 0..400), kind in 0_u8..12, is_ready in any::<bool>()) {
        let mut rig = match is_ready {
            true => Rig::ready(Digests::NONE, seed, 0, 4096),
            false => Rig::new(Digests::NONE, seed),
        };
        rig.submit(1, 2, Flow::In, vec![0; 4096]);
        rig.send();
        let mut noise = noise;
        // Half of the time, more than the first byte makes sense.
        if let Some(first) = noise.first_mut() {
            *first = kind;
        }
        if noise.len() > 8 && seed % 2 == 0 {
            noise[1..8].copy_from_slice(&[0, 24, 24, 24, 0, 0, 0]);
        }
        let _ = rig.feed(&noise);
        let done = rig.connection.next_done().is_some();
        let left = rig.connection.abandon().len();
        prop_assert_eq!(left + usize::from(done), 1);
    }
}
