//! Storing blobs.

use std::fs::File;
use std::io::{self, Read, stdin};
use std::time::Duration;

use oriel_client::blob::Put as Outcome;
use oriel_client::block_on;
use oriel_protocol::limits::BLOCK_BYTES;
use oriel_protocol::{Key, KeyKind};
use serde::Serialize;

use crate::connect::Node;
use crate::crew::{self, Budget};
use crate::error::{CliError, Exit, wants_another_try};
use crate::files::{Item, Source};
use crate::keys::of_content;
use crate::limits::{BYTES_UNDER_WAY, TRIES};
use crate::out::Out;

/// Before a blob is put once more: a node that has just begun anew may not be ready.
const PAUSE: Duration = Duration::from_millis(100);

/// A file to store.
pub(crate) struct Put {
    pub(crate) item: Item,
    /// That of its content if `None`.
    pub(crate) key: Option<Key>,
}

#[derive(Serialize)]
struct Stored<'a> {
    key: String,
    path: &'a str,
    bytes: u64,
    created: bool,
}

pub(crate) fn run(node: &Node, out: &Out, puts: &mut [Put], jobs: u16) -> Result<Exit, CliError> {
    out.begin(puts.iter().map(|put| put.item.bytes).sum());
    let budget = Budget::new(BYTES_UNDER_WAY);
    // Why something cannot be put is told in its turn.
    let puts: Vec<_> = puts
        .iter_mut()
        .map(|put| (std::sync::Mutex::new(put.item.problem.take()), &*put))
        .collect();
    crew::each(
        out,
        jobs,
        &puts,
        |(_, put)| put.item.label.clone(),
        |(problem, put)| {
            let problem = problem.lock().map_or(None, |mut problem| problem.take());
            match problem {
                Some(problem) => Err(problem),
                None => store(node, out, &budget, put),
            }
        },
    )
}

fn store(node: &Node, out: &Out, budget: &Budget, put: &Put) -> Result<(), CliError> {
    let Put { item, key } = put;
    let max = node.stat.length_max.get();
    if item.bytes > max {
        let bytes = item.bytes;
        return Err(CliError::TooLong { bytes, max });
    }
    let known = match item.bytes {
        // A pipe's length shows at its end.
        0 => max,
        bytes => bytes,
    };
    let _share = budget.take(known);
    let mut tries = 1;
    loop {
        let bytes = read(&item.source, item.bytes, max)?;
        let length = bytes.len() as u64;
        let (key, kind) = match key {
            Some(key) => (*key, KeyKind::Name),
            None => (of_content(&bytes), KeyKind::Content),
        };
        let stored = block_on(node.blobs.put(key, kind, bytes)).map_err(CliError::from);
        let created = match stored {
            Ok(outcome) => outcome == Outcome::Created,
            // It may have been stored: then it is there already. What came by a pipe is not to be had again.
            Err(error)
                if wants_another_try(&error) && item.source != Source::Input && tries < TRIES =>
            {
                tries += 1;
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        out.advance(length);
        if !created && kind == KeyKind::Name {
            out.note(format_args!(
                "{}: there was a blob of that name or key, and it stays as it was",
                item.label
            ));
        }
        let object = Stored {
            key: key.to_string(),
            path: &item.label,
            bytes: length,
            created,
        };
        return out.line(format_args!("{key}  {}", item.label), &object);
    }
}

/// All bytes, with room for the rest of the last block; no more than one more than there may be.
fn read(source: &Source, expected: u64, max: u64) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::with_capacity(expected.next_multiple_of(BLOCK_BYTES) as usize);
    let taken = match source {
        Source::Input => take(stdin().lock(), max, &mut bytes),
        Source::File(path) => File::open(path).and_then(|file| take(file, max, &mut bytes)),
    };
    taken.map_err(CliError::Unreadable)?;
    match bytes.len() as u64 {
        0 => Err(CliError::Empty),
        bytes if bytes > max => Err(CliError::TooLong { bytes, max }),
        _ => Ok(bytes),
    }
}

fn take(from: impl Read, max: u64, bytes: &mut Vec<u8>) -> io::Result<usize> {
    from.take(max + 1).read_to_end(bytes)
}
