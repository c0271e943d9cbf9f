//! Asking a discovery service what there is.

use std::sync::Arc;

use crate::association::{AdminOnly, Dialler};
use crate::error::{ConnectError, Peer};
use crate::limits::DISCOVERY_ENTRIES_MAX;
use crate::nvme::discovery::{DiscoveryEntry, ENTRY_BYTES, LogHeader, get_log};
use crate::nvme::fabrics::DISCOVERY_NQN;
use crate::options::Options;

/// Entries that are fetched by one command.
const ENTRIES_AT_ONCE: u64 = 4;

/// How often a log that changes while it is read is read again.
const READINGS_MAX: u32 = 8;

/// The subsystems that a discovery service knows of. Blocks this thread.
///
/// Address, host, digests and times are those of the options; all else there is not used.
pub fn discover(options: &Options) -> Result<Vec<DiscoveryEntry>, ConnectError> {
    let options = Options {
        subsystem: DISCOVERY_NQN.into(),
        queues: 0,
        keep_alive: None,
        ..options.clone()
    };
    options.check()?;
    let peer = Arc::new(Peer {
        address: options.address,
        subsystem: options.subsystem.clone(),
    });
    let dialler = Dialler {
        options: &options,
        peer: &peer,
        goes_on: &|| true,
    };
    let association = dialler.associate()?;
    let mut service = AdminOnly {
        dialler,
        association,
    };
    let entries = read_log(&mut service, &peer);
    service.end();
    entries
}

fn read_log(
    service: &mut AdminOnly<'_>,
    peer: &Arc<Peer>,
) -> Result<Vec<DiscoveryEntry>, ConnectError> {
    let mut header = read_header(service, peer)?;
    for _ in 0..READINGS_MAX {
        let mut entries = Vec::new();
        while (entries.len() as u64) < header.entries {
            let left = header.entries - entries.len() as u64;
            let count = left.min(ENTRIES_AT_ONCE);
            let mut bytes = vec![0; count as usize * ENTRY_BYTES];
            let offset = (entries.len() as u64 + 1) * ENTRY_BYTES as u64;
            service.done(get_log(offset, bytes.len() as u32), &mut bytes)?;
            let (records, _) = bytes.as_chunks::<ENTRY_BYTES>();
            entries.extend(records.iter().map(DiscoveryEntry::decode));
        }
        let after = read_header(service, peer)?;
        if after == header {
            return Ok(entries);
        }
        header = after;
    }
    let LogHeader {
        entries, format, ..
    } = header;
    let (peer, most) = (Arc::clone(peer), DISCOVERY_ENTRIES_MAX);
    Err(ConnectError::DiscoveryLog {
        peer,
        entries,
        format,
        most,
    })
}

fn read_header(service: &mut AdminOnly<'_>, peer: &Arc<Peer>) -> Result<LogHeader, ConnectError> {
    let mut bytes = [0; ENTRY_BYTES];
    service.done(get_log(0, ENTRY_BYTES as u32), &mut bytes)?;
    let header = LogHeader::decode(&bytes);
    let LogHeader {
        entries, format, ..
    } = header;
    let most = DISCOVERY_ENTRIES_MAX;
    if entries > most || format != 0 {
        let peer = Arc::clone(peer);
        return Err(ConnectError::DiscoveryLog {
            peer,
            entries,
            format,
            most,
        });
    }
    Ok(header)
}
