//! Any header: it is read, or refused, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oriel_client::Digests;
use oriel_client::pdu::{IcResp, Incoming};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (which, has_right_digest, bytes) = input;
    let digests = Digests {
        header: which & 1 != 0,
        data: which & 2 != 0,
    };
    if let Some(first) = bytes.first_chunk::<128>() {
        let _ = IcResp::decode(first, digests);
    }
    if let Some(header) = bytes.first_chunk::<24>() {
        let digest = bytes[24..].first_chunk::<4>().copied();
        let digest = digest.filter(|_| digests.header && !has_right_digest);
        let _ = Incoming::decode(header, digest, digests);
    }
});
