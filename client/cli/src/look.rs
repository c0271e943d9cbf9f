//! Looking at blobs and at the node, and deleting.

use std::time::Duration;

use oriel_client::blob::{BlobError, Transport};
use oriel_client::block_on;
use oriel_protocol::limits::BLOCK_BYTES;
use oriel_protocol::{Checksum, Chunk, Command, Location, Place, Prefix, Stat, result};
use serde::Serialize;

use crate::connect::Node;
use crate::crew;
use crate::error::{CliError, Exit};
use crate::keys::Wanted;
use crate::out::Out;

#[derive(Serialize)]
struct Removed {
    key: String,
    removed: bool,
}

pub(crate) fn remove(
    node: &Node,
    out: &Out,
    keys: &[Wanted],
    force: bool,
    jobs: u16,
) -> Result<Exit, CliError> {
    crew::each(out, jobs, keys, Wanted::shown, |wanted| {
        let removed = block_on(node.blobs.delete(&wanted.key))?;
        if out.is_json() {
            let key = wanted.key.to_string();
            out.line(format_args!(""), &Removed { key, removed })?;
        }
        match removed || force {
            true => Ok(()),
            false => Err(CliError::NoBlob),
        }
    })
}

#[derive(Serialize)]
struct Probed<'a> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    there: bool,
}

pub(crate) fn probe(node: &Node, out: &Out, keys: &[Wanted]) -> Result<Exit, CliError> {
    let all: Vec<_> = keys.iter().map(|wanted| wanted.key).collect();
    let there = block_on(node.blobs.probe(&all))?;
    let mut exit = Exit::Done;
    for (wanted, there) in keys.iter().zip(there) {
        let object = Probed {
            key: wanted.key.to_string(),
            path: wanted.label.as_deref(),
            there,
        };
        let word = if there { "there" } else { "absent" };
        out.line(format_args!("{word:6}  {}", wanted.shown()), &object)?;
        if !there {
            exit = Exit::NotFound;
        }
    }
    Ok(exit)
}

#[derive(Serialize)]
struct Pinned<'a> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    pinned: bool,
    there: bool,
}

pub(crate) fn pin(
    node: &Node,
    out: &Out,
    keys: &[Wanted],
    time: Duration,
) -> Result<Exit, CliError> {
    let all: Vec<_> = keys.iter().map(|wanted| wanted.key).collect();
    let ends = time.is_zero();
    let done = match ends {
        true => block_on(node.blobs.unpin(&all)),
        false => block_on(node.blobs.pin(&all, time)),
    };
    let done = match done.map_err(CliError::from) {
        Ok(done) => done,
        // Some of them may be: each is asked for.
        Err(error) if all.len() > 1 && !error.exit().is_fatal() => vec![false; all.len()],
        Err(error) => return Err(error),
    };
    // Why one is not pinned the answer does not say, apart from one that is asked for alone.
    let alone = |wanted: &Wanted| {
        let key = std::slice::from_ref(&wanted.key);
        match ends {
            true => block_on(node.blobs.unpin(key)),
            false => block_on(node.blobs.pin(key, time)),
        }
    };
    let there = match done.contains(&false) {
        true => block_on(node.blobs.probe(&all))?,
        false => vec![true; all.len()],
    };
    let mut exit = Exit::Done;
    for ((wanted, done), there) in keys.iter().zip(done).zip(there) {
        let mut failed = None;
        let done = match done || all.len() == 1 {
            true => done,
            false => match alone(wanted) {
                Ok(done) => done == [true],
                Err(error) => {
                    failed = Some(CliError::from(error));
                    false
                }
            },
        };
        if let Some(error) = failed {
            if error.exit().is_fatal() {
                return Err(error);
            }
            out.failed(&error, Some(&wanted.shown()));
            exit = exit.max(error.exit());
            continue;
        }
        let word = match (ends, done, there) {
            (true, true, _) => "let go",
            (false, true, _) => "pinned",
            (_, false, false) => "absent",
            (true, false, true) => "free",
            (false, false, true) => "no room",
        };
        let object = Pinned {
            key: wanted.key.to_string(),
            path: wanted.label.as_deref(),
            pinned: done && !ends,
            there,
        };
        out.line(format_args!("{word:7}  {}", wanted.shown()), &object)?;
        if !there {
            exit = match exit {
                Exit::Done | Exit::Refused => Exit::NotFound,
                worse => worse,
            };
        } else if !ends && !done && matches!(exit, Exit::Done) {
            exit = Exit::Refused;
        }
    }
    Ok(exit)
}

#[derive(Serialize)]
struct Located {
    key: String,
    position: u64,
    blocks: u64,
    bytes: u64,
    offset_bytes: u64,
    checksum: String,
    vector_position: Option<u64>,
    vector_blocks: Option<u32>,
    /// Of a blob in parts: which of them this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<u16>,
}

pub(crate) fn locate(node: &Node, out: &Out, keys: &[Wanted]) -> Result<Exit, CliError> {
    // One after the other, since the answers stand in the order of the questions.
    crew::each(out, 1, keys, Wanted::shown, |wanted| {
        let place = block_on(node.blobs.locate(&wanted.key))?.ok_or(CliError::NoBlob)?;
        let parts = match place {
            Place::Window(location) => return told(out, wanted, &location, None),
            Place::Parts(parts) => parts,
        };
        for piece in parts.pieces(0, u64::MAX) {
            let part = parts.part_key(&wanted.key, piece.number);
            match block_on(node.blobs.locate(&part))? {
                Some(Place::Window(location)) => {
                    told(out, wanted, &location, Some(piece.number))?;
                }
                _ => return Err(CliError::NoBlob),
            }
        }
        Ok(())
    })
}

/// Says where a blob is, or a part of it.
fn told(
    out: &Out,
    wanted: &Wanted,
    location: &Location,
    part: Option<u16>,
) -> Result<(), CliError> {
    let (position, length) = (location.position.0, location.length);
    let (checksum, vector) = match location.checksum {
        Checksum::Blocks(checksum) => (checksum, None),
        Checksum::Vector(vector) => (vector.checksum, Some(vector)),
    };
    let object = Located {
        key: wanted.key.to_string(),
        position,
        blocks: length.blocks(),
        bytes: length.get(),
        offset_bytes: position * BLOCK_BYTES,
        checksum: format!("{checksum:08x}"),
        vector_position: vector.map(|vector| vector.position.0),
        vector_blocks: vector.map(|vector| vector.blocks),
        part,
    };
    let which = part.map_or(String::new(), |part| format!("part {part}: "));
    let text = format_args!(
        "{which}block {position}, {} blocks, {} bytes  {}",
        length.blocks(),
        length.get(),
        wanted.shown()
    );
    out.line(text, &object)
}

#[derive(Serialize)]
struct Listed {
    key: String,
    bytes: u64,
    position: u64,
}

pub(crate) fn list(node: &Node, out: &Out, prefix: Prefix, long: bool) -> Result<Exit, CliError> {
    let mut lister = node.blobs.list(prefix);
    while let Some(page) = block_on(lister.page())? {
        for blob in page {
            let (key, bytes) = (blob.key, blob.length.get());
            let object = Listed {
                key: key.to_string(),
                bytes,
                position: blob.position.0,
            };
            match long {
                true => out.line(format_args!("{bytes:>12}  {key}"), &object)?,
                false => out.line(format_args!("{key}"), &object)?,
            }
        }
    }
    Ok(Exit::Done)
}

/// The figures of a node, all in bytes.
#[derive(Serialize)]
pub(crate) struct Figures<'a> {
    subsystem: &'a str,
    address: String,
    store: String,
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    quota_bytes: Option<u64>,
    pub(crate) realm_used_bytes: u64,
    pub(crate) realm_blobs: u64,
    pub(crate) reservations: u64,
    is_cache: bool,
    blob_bytes_max: u64,
    window_bytes_max: u64,
    part_bytes: u64,
    transfer_bytes_max: u32,
    probe_keys_max: u16,
    commit_records_max: u16,
    epoch: u32,
}

impl<'a> Figures<'a> {
    pub(crate) fn new(node: &'a Node, stat: &Stat) -> Self {
        Self {
            subsystem: &node.subsystem,
            address: node.address.clone(),
            store: stat.store.to_string(),
            capacity_bytes: stat.capacity_blocks * BLOCK_BYTES,
            used_bytes: stat.used_blocks * BLOCK_BYTES,
            quota_bytes: stat.quota_blocks.map(|blocks| blocks * BLOCK_BYTES),
            realm_used_bytes: stat.realm_used_blocks * BLOCK_BYTES,
            realm_blobs: stat.realm_blobs,
            reservations: stat.reservations,
            is_cache: stat.is_cache,
            blob_bytes_max: stat.longest(),
            window_bytes_max: stat.length_max.get(),
            part_bytes: stat.part_bytes,
            transfer_bytes_max: stat.transfer_bytes_max,
            probe_keys_max: stat.probe_keys_max,
            commit_records_max: stat.commit_records_max,
            epoch: stat.epoch.0,
        }
    }

    /// Of what the realm may have, or of what there is.
    pub(crate) fn room_of_realm(&self) -> u64 {
        let quota = self.quota_bytes.unwrap_or(u64::MAX);
        quota.min(self.capacity_bytes)
    }
}

/// Bytes in units that a person can read.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

pub(crate) fn stat(node: &Node, out: &Out) -> Result<Exit, CliError> {
    let stat = block_on(node.blobs.stat())?;
    let figures = Figures::new(node, &stat);
    let Figures {
        subsystem, address, ..
    } = &figures;
    let quota = figures.quota_bytes.map_or("none".into(), size);
    let kind = match figures.is_cache {
        true => "a cache: its blobs make room for others",
        false => "durable: its blobs stay until they are deleted",
    };
    let text = format_args!(
        "node       {subsystem} at {address}, store {}\n\
         drives     {} of {} used\n\
         realm      {}, {kind}\n\
         blobs      {}, {} with their checksums\n\
         quota      {quota}\n\
         reserved   {} windows\n\
         blob       up to {}, in one window up to {}",
        figures.store,
        size(figures.used_bytes),
        size(figures.capacity_bytes),
        node.realm(),
        figures.realm_blobs,
        size(figures.realm_used_bytes),
        figures.reservations,
        size(figures.blob_bytes_max),
        size(figures.window_bytes_max),
    );
    out.line(text, &figures)?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Map {
    bytes: u64,
    epoch: u32,
}

/// What the node says of its routing table.
pub(crate) fn map(node: &Node, out: &Out) -> Result<Exit, CliError> {
    let command = Command::Map { offset: 0 };
    let room = vec![0; node.stat.transfer_bytes_max as usize];
    let (answer, done) = block_on(node.link.command(&command, room));
    let done = done.map_err(BlobError::Transport)?;
    result::nothing(done).map_err(BlobError::Answer)?;
    let chunk = Chunk::decode(0, &answer).map_err(BlobError::Answer)?;
    let (bytes, epoch) = (chunk.total, chunk.epoch.0);
    if bytes == 0 && !out.is_json() {
        return Err(CliError::NoTable);
    }
    let text = format_args!("a routing table of {bytes} bytes, epoch {epoch}");
    out.line(text, &Map { bytes, epoch })?;
    Ok(match bytes {
        0 => Exit::NotFound,
        _ => Exit::Done,
    })
}
