//! The text of a configuration, and what follows from it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oriel_engine::store::{
    Background, DriveNumber, FormatOptions, Policy, RealmId, RealmOptions, StoreId,
};
use oriel_spdk::nvmf::{Address, TransportKind};
use oriel_spdk::{CoreSet, PciAddress};
use serde::Deserialize;
use toml::Spanned;

use super::hosts::{HostsText, hosts};
use super::{Around, Config, Device, MIB_BLOCKS};
use crate::Realm;
use crate::limits::{
    BLOBS_DEFAULT, CONNECTIONS_LEAST, MEMORY_MIB_DEFAULT, MEMORY_MIB_LEAST, MEMORY_MIB_LEAST_HUGE,
    RATE_MIB_MOST, ROUND_HOURS_MOST,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Text {
    node: Spanned<String>,
    store: Spanned<String>,
    cores: Option<Spanned<String>>,
    memory_mib: Option<Spanned<u32>>,
    hugepages: Option<Spanned<bool>>,
    blobs_max: Option<Spanned<u64>>,
    index: Option<Spanned<PathBuf>>,
    connections_max: Option<Spanned<u32>>,
    #[serde(default)]
    gone: BTreeSet<u16>,
    #[serde(default)]
    format: FormatText,
    #[serde(default)]
    background: BackgroundText,
    device: Spanned<Vec<Spanned<DeviceText>>>,
    listener: Spanned<Vec<ListenerText>>,
    status: Option<StatusText>,
    realm: Spanned<Vec<RealmText>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FormatText {
    slab_mib: Option<Spanned<u64>>,
    journal_mib: Option<Spanned<u64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct BackgroundText {
    scrub_mib_per_second: Option<Spanned<u64>>,
    scrub_round_hours: Option<Spanned<u64>>,
    compaction_mib_per_second: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceText {
    path: Option<PathBuf>,
    pci: Option<Spanned<String>>,
    #[serde(default)]
    drain: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerText {
    address: Spanned<SocketAddr>,
    #[serde(default)]
    transport: TransportText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusText {
    address: Spanned<SocketAddr>,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "kebab-case")]
enum TransportText {
    #[default]
    Tcp,
    Rdma,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RealmText {
    name: Spanned<String>,
    id: Spanned<u16>,
    hosts: Spanned<HostsText>,
    quota_mib: Option<Spanned<u64>>,
    cache: Option<Spanned<CacheText>>,
    was: Option<Spanned<String>>,
    was_durable: Option<Spanned<bool>>,
    #[serde(default)]
    verify: bool,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum CacheText {
    Lru,
    S3Fifo,
}

/// A place in the text, and what is wrong there.
pub(super) struct Wrong(pub(super) Range<usize>, pub(super) String);

pub(super) fn check<T>(
    at: &Spanned<T>,
    holds: bool,
    what: impl FnOnce() -> String,
) -> Result<(), Wrong> {
    match holds {
        true => Ok(()),
        false => Err(Wrong(at.span(), what())),
    }
}

pub(super) fn effective(around: &Around<'_>, text: &Text) -> Result<Config, Wrong> {
    let node = text.node.get_ref().clone();
    let cores = match &text.cores {
        None => CoreSet::allowed().first(1),
        Some(cores) => {
            let wrong = |why: String| Wrong(cores.span(), why);
            cores
                .get_ref()
                .parse::<CoreSet>()
                .map_err(|error| wrong(error.to_string()))?
        }
    };
    if let Some(spanned) = &text.cores {
        let missing = cores
            .iter()
            .find(|core| !CoreSet::allowed().contains(*core));
        check(spanned, missing.is_none(), || {
            format!(
                "core {} is not this program's: it may use {}",
                missing.unwrap_or_default(),
                CoreSet::allowed()
            )
        })?;
    }
    let (devices, drains) = devices(around.directory, &text.device)?;
    let has_pci = devices
        .iter()
        .any(|device| matches!(device, Device::Pci(_)));
    let listeners = listeners(&text.listener)?;
    let has_rdma = listeners
        .iter()
        .any(|listener| listener.transport == TransportKind::Rdma);
    let hugepages = text
        .hugepages
        .as_ref()
        .map_or(has_pci || has_rdma, |wanted| *wanted.get_ref());
    if let Some(spanned) = &text.hugepages {
        check(spanned, hugepages || !has_pci, || {
            "drives given by pci need memory from hugepages: leave this out, or give paths".into()
        })?;
        check(spanned, hugepages || !has_rdma, || {
            "listeners by rdma need memory from hugepages: leave this out, or listen by tcp".into()
        })?;
    }
    let least = match hugepages {
        true => MEMORY_MIB_LEAST_HUGE,
        false => MEMORY_MIB_LEAST,
    };
    let memory_mib = match &text.memory_mib {
        None => MEMORY_MIB_DEFAULT,
        Some(mib) => {
            check(mib, *mib.get_ref() >= least, || {
                format!(
                    "{} MiB of memory are too few: give at least {least}",
                    mib.get_ref()
                )
            })?;
            *mib.get_ref()
        }
    };
    let blobs_max = text
        .blobs_max
        .as_ref()
        .map_or(BLOBS_DEFAULT, |blobs| *blobs.get_ref());
    if let Some(blobs) = &text.blobs_max {
        check(blobs, blobs_max > 0, || {
            "a store takes at least one blob".into()
        })?;
    }
    let connections_max = text.connections_max.as_ref().map(|most| *most.get_ref());
    if let Some(most) = &text.connections_max {
        check(most, *most.get_ref() >= CONNECTIONS_LEAST, || {
            format!(
                "a host takes {CONNECTIONS_LEAST} connections at least, one for its admin queue: give {CONNECTIONS_LEAST} or more, or leave it out for no limit"
            )
        })?;
    }
    let status = status(text.status.as_ref(), &listeners)?;
    Ok(Config {
        store: store(&text.store)?,
        cores,
        memory_mib,
        hugepages,
        blobs_max,
        index: index(around.directory, text.index.as_ref(), &devices)?,
        connections_max,
        format: format(&text.format)?,
        background: background(&text.background)?,
        devices,
        drains,
        gone: text.gone.iter().copied().map(DriveNumber).collect(),
        listeners,
        status,
        realms: realms(around, &text.node, &text.realm)?,
        node,
    })
}

fn store(text: &Spanned<String>) -> Result<StoreId, Wrong> {
    let digits = text.get_ref();
    let is_hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    check(text, is_hex, || {
        "a store is named by 32 hexadecimal digits, drawn by chance: openssl rand -hex 16".into()
    })?;
    let mut id = [0; 16];
    for (byte, at) in id.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).unwrap_or(0);
    }
    Ok(StoreId(id))
}

fn index(
    directory: &Path,
    text: Option<&Spanned<PathBuf>>,
    devices: &[Device],
) -> Result<Option<PathBuf>, Wrong> {
    let Some(text) = text else {
        return Ok(None);
    };
    let folder = directory.join(text.get_ref());
    let is_named = text.get_ref().file_name().is_some();
    check(text, is_named, || {
        "the indexes lie in a folder: name one (/run/oriel/index), or leave it out for memory"
            .into()
    })?;
    let is_device = devices.contains(&Device::Path(folder.clone()));
    check(text, !is_device, || {
        format!(
            "{} is a device of the node: name a folder for the indexes",
            folder.display()
        )
    })?;
    Ok(Some(folder))
}

fn format(text: &FormatText) -> Result<FormatOptions, Wrong> {
    let mut options = FormatOptions::default();
    if let Some(slab) = &text.slab_mib {
        let mib = *slab.get_ref();
        check(
            slab,
            mib.is_power_of_two() && (1..=1 << 16).contains(&mib),
            || format!("a slab of {mib} MiB cannot be: choose a power of two from 1 to 65536"),
        )?;
        options.slab_blocks = mib * MIB_BLOCKS;
    }
    if let Some(journal) = &text.journal_mib {
        let mib = *journal.get_ref();
        check(journal, (1..=1 << 16).contains(&mib), || {
            format!("a journal of {mib} MiB cannot be: choose from 1 to 65536")
        })?;
        options.journal_blocks = mib * MIB_BLOCKS;
    }
    Ok(options)
}

/// A rate in bytes a second, if one is given.
fn rate(mib: Option<&Spanned<u64>>, at_zero: &str) -> Result<Option<u64>, Wrong> {
    let Some(mib) = mib else {
        return Ok(None);
    };
    let found = *mib.get_ref();
    check(mib, found <= RATE_MIB_MOST, || {
        format!(
            "a rate of {found} MiB a second is more than a drive does: give {RATE_MIB_MOST} at most, or 0, by which {at_zero}"
        )
    })?;
    Ok(Some(found << 20))
}

fn background(text: &BackgroundText) -> Result<Background, Wrong> {
    let mut background = Background::default();
    let scrub = rate(text.scrub_mib_per_second.as_ref(), "nothing is scrubbed")?;
    let at_zero = "slabs are compacted only where somebody waits for room";
    let compaction = rate(text.compaction_mib_per_second.as_ref(), at_zero)?;
    background.scrub_bytes_per_second = scrub.unwrap_or(background.scrub_bytes_per_second);
    background.compaction_bytes_per_second =
        compaction.unwrap_or(background.compaction_bytes_per_second);
    if let Some(hours) = &text.scrub_round_hours {
        let found = *hours.get_ref();
        check(hours, (1..=ROUND_HOURS_MOST).contains(&found), || {
            format!(
                "a round of scrubs begins every 1 to {ROUND_HOURS_MOST} hours, not every {found}: for no scrubs at all, give scrub_mib_per_second = 0"
            )
        })?;
        background.scrub_round = Duration::from_secs(found * 3600);
    }
    Ok(background)
}

fn devices(
    directory: &Path,
    text: &Spanned<Vec<Spanned<DeviceText>>>,
) -> Result<(Vec<Device>, BTreeSet<Device>), Wrong> {
    check(text, !text.get_ref().is_empty(), || {
        "a node needs a device: add [[device]]".into()
    })?;
    let (mut all, mut drains) = (Vec::new(), BTreeSet::new());
    for spanned in text.get_ref() {
        let device = match spanned.get_ref() {
            DeviceText {
                path: Some(path),
                pci: None,
                ..
            } => Device::Path(directory.join(path)),
            DeviceText {
                path: None,
                pci: Some(pci),
                ..
            } => {
                let address = pci.get_ref().parse::<PciAddress>();
                Device::Pci(address.map_err(|error| Wrong(pci.span(), error.to_string()))?)
            }
            _ => {
                let what = "a device has either a path or a pci address";
                return Err(Wrong(spanned.span(), what.into()));
            }
        };
        check(spanned, !all.contains(&device), || {
            format!("the device {device} is there twice: leave one out")
        })?;
        if spanned.get_ref().drain {
            drains.insert(device.clone());
        }
        all.push(device);
    }
    check(text, drains.len() < all.len(), || {
        "no device would take blobs: leave drain out at one, or add another".into()
    })?;
    Ok((all, drains))
}

fn listeners(text: &Spanned<Vec<ListenerText>>) -> Result<Vec<Address>, Wrong> {
    check(text, !text.get_ref().is_empty(), || {
        "nobody could reach the node: add [[listener]] with an address".into()
    })?;
    let mut all = Vec::new();
    for ListenerText { address, transport } in text.get_ref() {
        let found = *address.get_ref();
        let is_good = found.port() != 0 && !found.ip().is_unspecified();
        check(address, is_good, || {
            format!(
                "{found} is no address that hosts can be told: name one of this machine's, and a port (4420)"
            )
        })?;
        let listener = match transport {
            TransportText::Tcp => Address::tcp(found),
            TransportText::Rdma => Address::rdma(found),
        };
        check(address, !all.contains(&listener), || {
            format!("the listener {listener} is there twice: leave one out")
        })?;
        all.push(listener);
    }
    Ok(all)
}

fn status(text: Option<&StatusText>, listeners: &[Address]) -> Result<Option<SocketAddr>, Wrong> {
    let Some(StatusText { address }) = text else {
        return Ok(None);
    };
    let found = *address.get_ref();
    let is_taken = listeners.contains(&Address::tcp(found));
    check(address, !is_taken, || {
        format!("hosts connect to {found}: give the status a port of its own")
    })?;
    Ok(Some(found))
}

fn realms(
    around: &Around<'_>,
    node: &Spanned<String>,
    text: &Spanned<Vec<RealmText>>,
) -> Result<Vec<Realm>, Wrong> {
    check(text, !text.get_ref().is_empty(), || {
        "a node needs a realm: add [[realm]]".into()
    })?;
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut all = Vec::new();
    for realm in text.get_ref() {
        let (name, id) = (realm.name.get_ref(), *realm.id.get_ref());
        let nqn = crate::node::nqn(node.get_ref(), name);
        if let Err(error) = nqn {
            // Which of the two it is about, it says itself.
            return Err(Wrong(realm.name.span(), error.to_string()));
        }
        check(&realm.name, names.insert(name.clone()), || {
            format!("there are two realms '{name}': give each its own name")
        })?;
        check(&realm.id, ids.insert(id), || {
            format!("there are two realms of number {id}: give each its own")
        })?;
        let quota_blocks = match &realm.quota_mib {
            None => None,
            Some(quota) => {
                let blocks = quota.get_ref().checked_mul(MIB_BLOCKS);
                check(quota, blocks.is_some_and(|blocks| blocks > 0), || {
                    "a quota is a number of MiB, at least 1: leave it out for none".into()
                })?;
                blocks
            }
        };
        if let Some(cache) = &realm.cache {
            check(cache, quota_blocks.is_some(), || {
                format!("the cache '{name}' would push all others out: give it a quota_mib")
            })?;
        }
        if let Some(was) = &realm.was {
            check(was, was.get_ref() != name, || {
                format!("the realm '{name}' is called so already: leave out what it was")
            })?;
        }
        let was_durable = realm.was_durable.as_ref();
        let was_durable = was_durable.filter(|was_durable| *was_durable.get_ref());
        if let Some(was_durable) = was_durable {
            check(was_durable, realm.cache.is_some(), || {
                format!("'{name}' is durable: was_durable is for a realm that became a cache")
            })?;
        }
        all.push(Realm {
            name: name.clone(),
            options: RealmOptions {
                quota_blocks,
                verify: realm.verify,
                cache: realm.cache.as_ref().map(|cache| match cache.get_ref() {
                    CacheText::Lru => Policy::Lru,
                    CacheText::S3Fifo => Policy::S3Fifo,
                }),
                name: Some(name.as_str().into()),
                was: realm.was.as_ref().map(|was| was.get_ref().as_str().into()),
                was_durable: was_durable.is_some(),
                ..RealmOptions::new(RealmId(id))
            },
            hosts: hosts(around, &realm.hosts)?,
        });
    }
    Ok(all)
}
