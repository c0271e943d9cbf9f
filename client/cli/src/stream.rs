//! Storing what is not taken into memory as a whole: long files, and pipes whose length shows at their end.
//!
//! ```text
//!   a thread reads ──► channel ──► put by parts, several at once
//!
//!   without a name the key is the hash of the bytes, and has to be known first:
//!     a file is read twice; a pipe goes through a file without a name in the folder for temporary files
//! ```

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write, stdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Instant;

use oriel_client::blob::{Put, StreamPut};
use oriel_client::block_on;
use oriel_protocol::{Key, KeyKind};

use crate::connect::Node;
use crate::error::CliError;
use crate::files::Source;
use crate::limits::{KEEP_PART, PART_BYTES, PARTS_AHEAD, QUIET_TIME};
use crate::link::Link;
use crate::out::Out;

/// What came of a put.
pub(crate) struct Stored {
    pub(crate) key: Key,
    pub(crate) kind: KeyKind,
    pub(crate) bytes: u64,
    pub(crate) is_new: bool,
}

/// What a blob's bytes are read from.
pub(crate) enum Input {
    /// All of them.
    Memory(Vec<u8>),
    /// More than are taken into memory.
    Stream(Box<dyn Read + Send>),
}

/// The beginning of a pipe says whether it is longer than one part.
pub(crate) fn of_pipe(source: &Source, part_bytes: u64) -> Result<Input, CliError> {
    let mut input: Box<dyn Read + Send> = match source {
        Source::Input => Box::new(stdin()),
        Source::File(path) => Box::new(File::open(path).map_err(CliError::Unreadable)?),
    };
    let mut head = Vec::new();
    let taken = (&mut input).take(part_bytes + 1).read_to_end(&mut head);
    match taken.map_err(CliError::Unreadable)? as u64 {
        0 => Err(CliError::Empty),
        bytes if bytes <= part_bytes => Ok(Input::Memory(head)),
        _ => Ok(Input::Stream(Box::new(Cursor::new(head).chain(input)))),
    }
}

/// The key of a file's content. The file is at its beginning again after that.
pub(crate) fn key_of(file: &mut File) -> io::Result<Key> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut *file)?;
    file.rewind()?;
    Ok(Key::new(*hasher.finalize().as_bytes()))
}

/// The rest of a pipe in a file that nobody sees and that is gone with this process, and the key of its content.
pub(crate) fn spool(mut input: impl Read, longest: u64) -> Result<(Key, File), CliError> {
    let mut file = tempfile::tempfile().map_err(CliError::Spool)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PART_BYTES as usize];
    let mut all = 0;
    loop {
        let count = match input.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CliError::Unreadable(error)),
        };
        all += count as u64;
        if all > longest {
            let (bytes, max) = (all, longest);
            return Err(CliError::TooLong { bytes, max });
        }
        hasher.update(&piece[..count]);
        file.write_all(&piece[..count]).map_err(CliError::Spool)?;
    }
    file.rewind().map_err(CliError::Spool)?;
    Ok((Key::new(*hasher.finalize().as_bytes()), file))
}

type Pieces = Receiver<io::Result<Vec<u8>>>;

/// A thread reads ahead, which nobody waits for: what it reads from may never end.
fn read_ahead(mut input: impl Read + Send + 'static) -> Result<Pieces, CliError> {
    let (send, pieces) = sync_channel(PARTS_AHEAD);
    let reader = std::thread::Builder::new().name("reads".into());
    let reads = move || {
        loop {
            let mut piece = Vec::with_capacity(PART_BYTES as usize);
            let read = (&mut input).take(PART_BYTES).read_to_end(&mut piece);
            let ends = !matches!(read, Ok(count) if count > 0);
            let piece = read.map(|_| piece);
            if send.send(piece).is_err() || ends {
                return;
            }
        }
    };
    reader.spawn(reads).map_err(CliError::Thread)?;
    Ok(pieces)
}

/// Puts all that comes.
pub(crate) fn put(
    node: &Node,
    out: &Out,
    (key, kind): (Key, KeyKind),
    input: impl Read + Send + 'static,
) -> Result<Stored, CliError> {
    let pieces = read_ahead(input)?;
    let mut put = node.blobs.put_stream(key, kind);
    let sent = send(out, &mut put, &pieces);
    if let Err(error) = sent {
        block_on(put.give_up());
        return Err(error);
    }
    let bytes = put.length();
    if bytes == 0 {
        return Err(CliError::Empty);
    }
    let outcome = block_on(put.finish())?;
    Ok(Stored {
        key,
        kind,
        bytes,
        is_new: outcome == Put::Created,
    })
}

fn send(out: &Out, put: &mut StreamPut<'_, Link>, pieces: &Pieces) -> Result<(), CliError> {
    let mut heard = Instant::now();
    loop {
        match pieces.recv_timeout(QUIET_TIME) {
            Ok(piece) => {
                let piece = piece.map_err(CliError::Unreadable)?;
                if piece.is_empty() {
                    return Ok(());
                }
                block_on(put.write(&piece))?;
                out.advance(piece.len() as u64);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                block_on(put.settle())?;
                let is_due = |left| heard.elapsed() > left / KEEP_PART;
                if put.time_left().is_some_and(is_due) {
                    block_on(put.keep())?;
                    heard = Instant::now();
                }
            }
        }
    }
}
