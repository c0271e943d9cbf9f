//! Reading blobs.
//!
//! ```text
//!   locate ──► a thread reads part after part, each checked ──► channel ──► written ──► all there: the file gets its name
//!                                                                             │
//!               the bytes have the key for their BLAKE3, or the blob is still where it was ──► it was one blob
//! ```

use std::sync::mpsc::sync_channel;

use oriel_client::block_on;
use oriel_protocol::Place as Whereabouts;
use serde::Serialize;

use crate::connect::Node;
use crate::crew;
use crate::error::{CliError, Exit};
use crate::keys::Wanted;
use crate::limits::{PART_BYTES, PARTS_AHEAD, TRIES};
use crate::out::Out;
use crate::place::{Place, Writing};

/// A blob to read, and where to.
pub(crate) struct Get {
    pub(crate) wanted: Wanted,
    pub(crate) place: Place,
    pub(crate) makes_folders: bool,
}

#[derive(Serialize)]
struct Got<'a> {
    key: String,
    path: std::borrow::Cow<'a, str>,
    bytes: u64,
}

pub(crate) fn run(node: &Node, out: &Out, gets: &[Get], jobs: u16) -> Result<Exit, CliError> {
    out.begin(0);
    let label = |get: &Get| get.wanted.shown();
    crew::each(out, jobs, gets, label, |get| fetch(node, out, get))
}

fn fetch(node: &Node, out: &Out, get: &Get) -> Result<(), CliError> {
    let key = &get.wanted.key;
    let mut tries = 1;
    let bytes = loop {
        let location = block_on(node.blobs.locate(key))?.ok_or(CliError::NoBlob)?;
        let mut writing = Writing::begin(&get.place, get.makes_folders)?;
        if copy(node, out, get, &location, &mut writing)? {
            writing.finish()?;
            break location.length().get();
        }
        if !writing.can_begin_again() || tries == TRIES {
            return Err(CliError::Changed);
        }
        tries += 1;
    };
    match &get.place {
        // The blob itself is all that goes there.
        Place::Output => Ok(()),
        Place::File(path) if out.is_json() => {
            let path = path.to_string_lossy();
            let key = key.to_string();
            out.line(format_args!(""), &Got { key, path, bytes })
        }
        Place::File(_) => Ok(()),
    }
}

/// Writes a blob out; whether it was one and the same from its beginning to its end.
fn copy(
    node: &Node,
    out: &Out,
    get: &Get,
    location: &Whereabouts,
    writing: &mut Writing,
) -> Result<bool, CliError> {
    let key = &get.wanted.key;
    let length = location.length().get();
    out.expect(length);
    let read = |offset: u64| {
        let bytes = PART_BYTES.min(length - offset);
        let part = block_on(node.blobs.get_range(key, offset, bytes))?;
        let part = part.ok_or(CliError::NoBlob)?;
        Ok::<_, CliError>((part.len() as u64 == bytes).then_some(part))
    };
    if length <= PART_BYTES {
        // It may have become another by now, which may be longer.
        let part = block_on(node.blobs.get(key))?.ok_or(CliError::NoBlob)?;
        if part.len() as u64 != length {
            return Ok(false);
        }
        writing.write(&part)?;
        out.advance(length);
        return Ok(true);
    }
    let mut hash = blake3::Hasher::new();
    let is_whole = std::thread::scope(|scope| {
        let (send, parts) = sync_channel(PARTS_AHEAD);
        let reader = std::thread::Builder::new().name("reads".into());
        let reads = move || {
            for offset in (0..length).step_by(PART_BYTES as usize) {
                let part = read(offset);
                let ends = !matches!(part, Ok(Some(_)));
                // Nobody takes it when it cannot be written.
                if send.send(part).is_err() || ends {
                    return;
                }
            }
        };
        reader
            .spawn_scoped(scope, reads)
            .map_err(CliError::Thread)?;
        for part in parts {
            let Some(part) = part? else {
                return Ok::<_, CliError>(false);
            };
            writing.write(&part)?;
            hash.update(&part);
            out.advance(part.len() as u64);
        }
        Ok(true)
    })?;
    if !is_whole {
        return Ok(false);
    }
    if hash.finalize().as_bytes() == key.bytes() {
        return Ok(true);
    }
    // A blob goes from place to place and never back, so one that is still there was read from there alone; and what another
    // put has stored in parts are other parts.
    let now = block_on(node.blobs.locate(key))?;
    Ok(now.as_ref() == Some(location))
}
