//! Storing blobs.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use oriel_client::blob::Put as Outcome;
use oriel_client::block_on;
use oriel_client::limits::PARTS_AT_ONCE;
use oriel_protocol::limits::BLOCK_BYTES;
use oriel_protocol::{Key, KeyKind};
use serde::Serialize;

use crate::connect::Node;
use crate::crew::{self, Budget};
use crate::error::{CliError, Exit, wants_another_try};
use crate::files::{Item, Source};
use crate::limits::{BYTES_UNDER_WAY, PART_BYTES, PARTS_AHEAD, TRIES};
use crate::out::Out;
use crate::stream::{self, Input, Stored};

/// Before a blob is put once more: a node that has just begun anew may not be ready.
const PAUSE: Duration = Duration::from_millis(100);

/// A file to store.
pub(crate) struct Put {
    pub(crate) item: Item,
    /// That of its content if `None`.
    pub(crate) key: Option<Key>,
}

#[derive(Serialize)]
struct Line<'a> {
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
    let max = node.stat.longest();
    if item.bytes > max {
        let bytes = item.bytes;
        return Err(CliError::TooLong { bytes, max });
    }
    let _share = budget.take(match is_taken_whole(node, item.bytes) {
        true => item.bytes,
        false => memory_of_stream(node),
    });
    let mut tries = 1;
    let stored = loop {
        match store_once(node, out, item, *key) {
            Ok(stored) => break stored,
            // It may have been stored: then it is there already. What came by a pipe is not to be had again.
            Err(error) if wants_another_try(&error) && item.bytes > 0 && tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    };
    let Stored {
        key, kind, bytes, ..
    } = stored;
    if !stored.is_new && kind == KeyKind::Name {
        out.note(format_args!(
            "{}: there was a blob of that name or key, and it stays as it was",
            item.label
        ));
    }
    let object = Line {
        key: key.to_string(),
        path: &item.label,
        bytes,
        created: stored.is_new,
    };
    out.line(format_args!("{key}  {}", item.label), &object)
}

/// Whether a file of so many bytes goes through memory as a whole, into one window.
fn is_taken_whole(node: &Node, bytes: u64) -> bool {
    (1..=whole_max(node)).contains(&bytes)
}

fn whole_max(node: &Node) -> u64 {
    node.stat.length_max.get().min(BYTES_UNDER_WAY)
}

/// What is in memory of one that does not: parts that are sent, one that is filled, and what is read ahead.
fn memory_of_stream(node: &Node) -> u64 {
    (PARTS_AT_ONCE as u64 + 1) * node.stat.part_bytes + (PARTS_AHEAD as u64 + 2) * PART_BYTES
}

fn store_once(node: &Node, out: &Out, item: &Item, key: Option<Key>) -> Result<Stored, CliError> {
    let named = key.map(|key| (key, KeyKind::Name));
    let content = |key| (key, KeyKind::Content);
    // A pipe's length shows at its end.
    if item.bytes == 0 {
        return match stream::of_pipe(&item.source, node.stat.part_bytes)? {
            Input::Memory(bytes) => put_whole(node, out, named, bytes),
            Input::Stream(input) => match named {
                Some(named) => stream::put(node, out, named, input),
                None => {
                    let (key, file) = stream::spool(input, node.stat.longest())?;
                    stream::put(node, out, content(key), file)
                }
            },
        };
    }
    let Source::File(path) = &item.source else {
        return Err(CliError::NoFile);
    };
    let mut file = File::open(path).map_err(CliError::Unreadable)?;
    if is_taken_whole(node, item.bytes) {
        let mut bytes = Vec::with_capacity(item.bytes.next_multiple_of(BLOCK_BYTES) as usize);
        let most = whole_max(node);
        let taken = file.take(most + 1).read_to_end(&mut bytes);
        return match taken.map_err(CliError::Unreadable)? as u64 {
            0 => Err(CliError::Empty),
            bytes if bytes > most => Err(CliError::Grows),
            _ => put_whole(node, out, named, bytes),
        };
    }
    let key = match named {
        Some(named) => named,
        None => content(stream::key_of(&mut file).map_err(CliError::Unreadable)?),
    };
    stream::put(node, out, key, file)
}

fn put_whole(
    node: &Node,
    out: &Out,
    key: Option<(Key, KeyKind)>,
    bytes: Vec<u8>,
) -> Result<Stored, CliError> {
    let length = bytes.len() as u64;
    let (key, kind) = key.unwrap_or_else(|| (Key::of_content(&bytes), KeyKind::Content));
    let outcome = block_on(node.blobs.put(key, kind, bytes))?;
    out.advance(length);
    Ok(Stored {
        key,
        kind,
        bytes: length,
        is_new: outcome == Outcome::Created,
    })
}
