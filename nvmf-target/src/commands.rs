//! The blob protocol's commands, served.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use oriel_ec::Crc32c;
use oriel_engine::store::{
    self, BLOCK_BYTES, Commit, Described, Form, Found, NodeDrive, PartsPut, Put, SpdkDrive,
    window_blocks,
};
use oriel_protocol::limits::{COMMIT_RECORDS_MAX, PROBE_KEYS_MAX};
use oriel_protocol::{
    Arguments, Begun, Blob, Checksum, Chunk, Command, DecodeError, Epoch, InParts, Key, Length,
    ListRequest, Listed, Located, Location, Opcode, Page, Part, PartOf, Place, Position, PutId,
    Stat, Status, StoreId, Vector, Window, decode_commit, decode_keys, decode_put,
};
use oriel_spdk::device::{NvmeCommand, Request};

use crate::device::{Serves, Serving};
use crate::limits::{IO_BYTES_MAX, RESERVATIONS_MAX};
use crate::status::{Doing, io_error, status_of};

/// The version of the routing table that a node without one has.
const NO_EPOCH: Epoch = Epoch(0);

/// A command that is not done: its status, and dword 0 of its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Refusal {
    status: Status,
    dword0: u32,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, dword0: 0 }
    }
}

type Answer = Result<u32, Refusal>;

/// Serves a vendor command to its end.
pub(crate) async fn serve(serving: Rc<Serving>, mut request: Request) {
    let answer = match decode(&serving, &mut request) {
        Ok(command) => answer(&serving, &command, &mut request).await,
        Err(refusal) => Err(refusal),
    };
    end(request, answer);
}

/// Serves what needs no task: LOCATE of a blob that is found on this core. Anything else comes back.
pub(crate) fn serve_at_once(serving: &Serving, mut request: Request) -> Option<Request> {
    let is_locate = |nvme: &NvmeCommand<'_>| nvme.bytes[0] == Opcode::Locate as u8;
    if !request.nvme().as_ref().is_some_and(is_locate) {
        return Some(request);
    }
    let Serves { store, realm, .. } = &serving.serves;
    let Ok(Command::Locate { key }) = decode(serving, &mut request) else {
        return Some(request);
    };
    let Some(described) = store.describe_at_once(*realm, &key) else {
        return Some(request);
    };
    let located = location(described).and_then(|of| located(&mut request, Some(Place::Window(of))));
    end(request, located);
    None
}

fn located(request: &mut Request, blob: Option<Place>) -> Answer {
    let epoch = NO_EPOCH;
    write(request, &Located { blob, epoch }.encode())
}

fn end(request: Request, answer: Answer) {
    match answer {
        Ok(dword0) => request.complete_with_dword0(dword0),
        Err(Refusal { status, dword0 }) => request.complete_nvme(dword0, io_error(status)),
    }
}

fn decode(serving: &Serving, request: &mut Request) -> Result<Command, Refusal> {
    let nvme = request.nvme().ok_or(Status::Internal)?;
    let arguments = Arguments::from_command(nvme.bytes);
    let decoded = Command::decode(nvme.bytes[0], &arguments, nvme.data.len() as u64);
    decoded.map_err(|error| malformed(serving, &error))
}

/// What is wrong with a command is for its sender's author to know; a log that hosts can fill is no use to anybody.
fn malformed(serving: &Serving, error: &DecodeError) -> Refusal {
    let count = serving.malformed.get() + 1;
    serving.malformed.set(count);
    if count.is_power_of_two() {
        let realm = serving.serves.realm;
        tracing::warn!(%error, %realm, count, "a host's command is malformed");
    }
    error.status().into()
}

fn refused(error: &store::NodeError) -> Refusal {
    status_of(error, Doing::Command).into()
}

/// The command's data.
fn data(request: &mut Request) -> Result<&mut [u8], Refusal> {
    let nvme = request.nvme().ok_or(Status::Internal)?;
    Ok(nvme.data)
}

/// Writes an answer of a fixed length, which the command's transfer has.
fn write(request: &mut Request, bytes: &[u8]) -> Answer {
    let place = data(request)?.get_mut(..bytes.len());
    place.ok_or(Status::Internal)?.copy_from_slice(bytes);
    Ok(0)
}

async fn answer(serving: &Serving, command: &Command, request: &mut Request) -> Answer {
    let serves = &serving.serves;
    let Serves { store, realm, .. } = serves;
    match command {
        Command::Locate { key } => {
            let found = store.find(*realm, key).await;
            let found = found.map_err(|error| refused(&error))?;
            located(request, found.map(place).transpose()?)
        }
        Command::Delete { key } => {
            let deleted = Box::pin(store.delete(*realm, *key)).await;
            deleted.map(u32::from).map_err(|error| refused(&error))
        }
        Command::Probe { keys } => {
            let keys = decode_keys(*keys, data(request)?);
            let keys = keys.map_err(|error| malformed(serving, &error))?;
            let keys: Vec<Key> = keys.collect();
            let there = Box::pin(store.probe(*realm, &keys)).await;
            there
                .map(|bits| bits as u32)
                .map_err(|error| refused(&error))
        }
        Command::Pin { keys, time_ms } => {
            let keys = decode_keys(*keys, data(request)?);
            let keys = keys.map_err(|error| malformed(serving, &error))?;
            let keys: Vec<Key> = keys.collect();
            Box::pin(pin(serves, &keys, *time_ms)).await
        }
        Command::Reserve { length, part } => {
            let of_realm = store.realm_stat(*realm).await.unwrap_or_default();
            if of_realm.reservations >= RESERVATIONS_MAX {
                return Err(Status::Busy.into());
            }
            let reserved = match part {
                None => Box::pin(store.reserve_anywhere(*realm, length.get())).await,
                Some(PartOf { put, number }) => {
                    let put = serves.put(*put)?;
                    Box::pin(store.reserve_part(&put, *number, length.get())).await
                }
            };
            let reserved = reserved.map_err(|error| refused(&error))?;
            let left = reserved.deadline.since(serves.clock.now());
            let window = Window {
                position: reserved.position,
                blocks: reserved.blocks,
                time_left_ms: whole_ms(left),
            };
            write(request, &window.encode())
        }
        Command::Commit { records } => Box::pin(commit(serving, *records, request)).await,
        Command::Put => Box::pin(put(serving, request)).await,
        Command::List(list_request) => Box::pin(list(serving, list_request, request)).await,
        Command::Map { offset } => {
            Chunk::encode(&[], *offset, NO_EPOCH, data(request)?);
            Ok(0)
        }
        Command::Begin { key } => {
            let put = store.begin_put(*realm, *key);
            let put = put.map_err(|error| refused(&error))?;
            let part_bytes = put.part_bytes();
            let begun = Begun {
                put: serves.puts.add(*realm, put, serves.clock.now())?,
                part_bytes,
                time_left_ms: whole_ms(serves.puts.time()),
            };
            write(request, &begun.encode())
        }
        Command::Part(part) => Box::pin(commit_part(serves, part)).await,
        Command::Finish { put, length, kind } => {
            let of = serves.put(*put)?;
            let finished = Box::pin(store.finish_put(&of, *kind, length.get())).await;
            serves.end(*put, &of);
            finished.map(created).map_err(|error| refused(&error))
        }
        Command::Hold { put, is_over } => {
            let of = serves.put(*put)?;
            if *is_over {
                let given_up = Box::pin(store.give_up_put(&of)).await;
                serves.end(*put, &of);
                given_up.map_err(|error| refused(&error))?;
            }
            Ok(0)
        }
        Command::Stat => {
            let stat = Box::pin(stat(serves)).await?;
            write(request, &stat.encode())
        }
    }
}

/// Pins what is there, as long as there may be more pins, or ends the pins. Fails where each of the keys does; of several,
/// one that fails is not pinned, and says why when it is asked for alone.
async fn pin(serves: &Serves, keys: &[Key], time_ms: u32) -> Answer {
    let Serves { store, realm, .. } = serves;
    let mut bits = 0;
    let (mut is_answered, mut failed) = (false, None);
    for (at, key) in keys.iter().enumerate() {
        // A key that comes again is pinned once, and its answer is the same.
        if let Some(before) = keys[..at].iter().position(|other| other == key) {
            bits |= (bits >> before & 1) << at;
            continue;
        }
        let is_done = match time_ms {
            0 => store.unpin(*realm, key).await,
            _ => {
                let time = Duration::from_millis(time_ms.into());
                store.pin(*realm, key, time).await.map(|end| end.is_some())
            }
        };
        match is_done {
            Ok(is_done) => {
                is_answered = true;
                bits |= u32::from(is_done) << at;
            }
            Err(error) if error.is_of_pins() => is_answered = true,
            Err(error) => {
                let refusal = refused(&error);
                failed.get_or_insert(refusal);
            }
        }
    }
    match failed {
        Some(refusal) if !is_answered => Err(refusal),
        _ => Ok(bits),
    }
}

fn whole_ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn created(put: Put) -> u32 {
    match put {
        Put::Created => 1,
        Put::AlreadyThere => 0,
    }
}

impl Serves {
    /// A put by parts, which goes on by that.
    fn put(&self, put: PutId) -> Result<Arc<PartsPut<SpdkDrive>>, Status> {
        self.puts.of(self.realm, put, self.clock.now())
    }

    fn end(&self, id: PutId, put: &PartsPut<SpdkDrive>) {
        if put.is_over() {
            self.puts.forget(self.realm, id);
        }
    }
}

async fn commit_part(serves: &Serves, part: &Part) -> Answer {
    let put = serves.put(part.of.put)?;
    let commit = Commit {
        // Which is the part's is the store's business.
        key: put.key(),
        kind: part.kind,
        position: part.position,
        length: part.length.into(),
        checksum: part.checksum,
    };
    let number = part.of.number;
    let committed = serves.store.commit_part(&put, number, &commit).await;
    committed.map(created).map_err(|error| refused(&error))
}

fn place(found: Found) -> Result<Place, Refusal> {
    match found {
        Found::Window(described) => Ok(Place::Window(location(described)?)),
        Found::Parts(manifest) => Ok(Place::Parts(InParts {
            put: PutId(manifest.generation),
            length: Length::new(manifest.length).ok_or(Status::Internal)?,
            part_bytes: manifest.part_bytes,
        })),
    }
}

fn location(described: Described) -> Result<Location, Refusal> {
    let store::Location {
        position, length, ..
    } = described.location;
    let length = Length::new(length).ok_or(Status::Internal)?;
    let checksum = match length.vector_blocks() {
        0 => Checksum::Blocks(described.checksum),
        blocks => Checksum::Vector(Vector {
            position: Position(position.0 + length.blocks()),
            blocks: u32::try_from(blocks).map_err(|_| Status::Internal)?,
            checksum: described.checksum,
        }),
    };
    Ok(Location {
        position,
        length,
        checksum,
    })
}

async fn commit(serving: &Serving, records: u8, request: &mut Request) -> Answer {
    let Serves { store, realm, .. } = &serving.serves;
    let mut created = 0;
    for at in 0..records {
        let failed = |refusal: Refusal| Refusal {
            dword0: at.into(),
            ..refusal
        };
        let (blob, position) = decode_commit(records, data(request)?, at)
            .map_err(|error| failed(malformed(serving, &error)))?;
        let commit = Commit {
            key: blob.key,
            kind: blob.kind,
            position,
            length: blob.length.get(),
            checksum: blob.checksum,
        };
        let committed = store.commit_anywhere(*realm, &commit).await;
        match committed.map_err(|error| failed(refused(&error)))? {
            Put::Created => created |= 1 << at,
            Put::AlreadyThere => {}
        }
    }
    Ok(created)
}

async fn put(serving: &Serving, request: &mut Request) -> Answer {
    let Serves { store, realm, .. } = &serving.serves;
    let (blob, payload) = {
        let (blob, bytes) =
            decode_put(data(request)?).map_err(|error| malformed(serving, &error))?;
        // The blob begins in the middle of a block of the transfer, so it has to be copied for the drive.
        let window = window_blocks(blob.length.get()) as usize * BLOCK_BYTES;
        let mut payload = SpdkDrive::payload(window).map_err(|_| Status::Busy)?;
        payload.as_mut()[..bytes.len()].copy_from_slice(bytes);
        (blob, payload)
    };
    let Blob {
        key,
        kind,
        length,
        checksum,
    } = blob;
    if let Some(expected) = checksum {
        let bytes = length.blocks() as usize * BLOCK_BYTES;
        if Crc32c::of(&payload.as_ref()[..bytes]).value() != expected {
            return Err(Status::OtherChecksum.into());
        }
    }
    let put = store.put_payload(*realm, key, kind, payload, length.get());
    put.await.1.map(created).map_err(|error| refused(&error))
}

/// A page of what lies behind the cursor, less what the prefix leaves out.
async fn list(serving: &Serving, list: &ListRequest, request: &mut Request) -> Answer {
    let Serves { store, realm, .. } = &serving.serves;
    let most = Page::capacity(data(request)?.len());
    let page = store.list(*realm, list.cursor, most).await;
    let page = page.map_err(|error| refused(&error))?;
    let mut blobs = Vec::with_capacity(page.blobs.len());
    for blob in &page.blobs {
        let key = blob.key;
        if blob.location.form != Form::Part && list.prefix.is_of(&key) {
            blobs.push(Listed {
                key,
                position: blob.location.position,
                length: Length::new(blob.location.length).ok_or(Status::Internal)?,
            });
        }
    }
    Page::encode(&blobs, page.next, data(request)?).ok_or(Status::Internal)?;
    Ok(0)
}

async fn stat(serves: &Serves) -> Result<Stat, Refusal> {
    let Serves { store, realm, .. } = serves;
    // Of drives that take changes, of which there may be none: what is on the others can still be read.
    let of_realm = store.realm_stat(*realm).await.unwrap_or_default();
    let mut used_blocks = 0;
    for realm in store.realms().iter() {
        let stat = store.realm_stat(realm.id).await;
        used_blocks += stat.map_or(0, |stat| stat.used_blocks);
    }
    let whole = store.stat().await;
    let here = whole.drives.iter().filter(|drive| drive.loss.is_none());
    let length_max = Length::new(store.length_max().await).ok_or(Status::NotReady)?;
    Ok(Stat {
        store: StoreId(serves.store_id.0),
        transfer_bytes_max: IO_BYTES_MAX,
        probe_keys_max: PROBE_KEYS_MAX as u16,
        commit_records_max: COMMIT_RECORDS_MAX as u16,
        length_max,
        part_bytes: store.part_bytes(),
        capacity_blocks: here.map(|drive| drive.capacity_blocks).sum(),
        used_blocks,
        quota_blocks: of_realm.quota_blocks,
        realm_used_blocks: of_realm.used_blocks,
        realm_blobs: of_realm.blobs,
        reservations: of_realm.reservations,
        epoch: NO_EPOCH,
        is_cache: serves.is_cache,
    })
}
