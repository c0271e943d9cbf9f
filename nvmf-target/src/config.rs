//! What a node is to be, from a TOML file, checked as a whole before anything is touched.
//!
//! ```toml
//! node = "n1"                                  # in the names of its subsystems
//! store = "00112233445566778899aabbccddeeff"   # whose blobs its drives hold
//!
//! [[device]]
//! path = "drives/0"                            # a file or a block device; from where this file is
//!
//! [[listener]]
//! address = "127.0.0.1:4420"
//!
//! [[realm]]
//! name = "models"
//! id = 1
//! hosts = "any"                                # or ["nqn....", ...]
//! ```

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use oriel_engine::store::{FormatOptions, Policy, RealmId, RealmOptions, StoreId};
use oriel_spdk::CoreSet;
use oriel_spdk::nvmf::Nqn;
use serde::Deserialize;
use toml::Spanned;

use crate::limits::{BLOBS_DEFAULT, MEMORY_MIB_DEFAULT};
use crate::{Hosts, Realm};

const MIB_BLOCKS: u64 = (1 << 20) / oriel_protocol::limits::BLOCK_BYTES;

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{} cannot be read ({source}): name a file that this user may read", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}, line {line}: {what}", file.display())]
    Wrong {
        /// Which.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What is wrong, and what to do.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    node: Spanned<String>,
    store: Spanned<String>,
    cores: Option<Spanned<String>>,
    memory_mib: Option<Spanned<u32>>,
    blobs_max: Option<Spanned<u64>>,
    #[serde(default)]
    format: FormatText,
    device: Spanned<Vec<DeviceText>>,
    listener: Spanned<Vec<ListenerText>>,
    realm: Spanned<Vec<RealmText>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FormatText {
    slab_mib: Option<Spanned<u64>>,
    journal_mib: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceText {
    path: Spanned<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerText {
    address: Spanned<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RealmText {
    name: Spanned<String>,
    id: Spanned<u16>,
    hosts: Spanned<HostsText>,
    quota_mib: Option<Spanned<u64>>,
    cache: Option<Spanned<CacheText>>,
    #[serde(default)]
    verify: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HostsText {
    Word(String),
    List(Vec<String>),
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum CacheText {
    Lru,
    S3Fifo,
}

/// A node's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Whose blobs its drives hold.
    pub store: StoreId,
    /// The cores that it runs on.
    pub cores: CoreSet,
    /// Its memory, without hugepages.
    pub memory_mib: u32,
    /// The most blobs of a drive.
    pub blobs_max: u64,
    /// How drives are made.
    pub format: FormatOptions,
    /// Files or block devices.
    pub devices: Vec<PathBuf>,
    /// Where it listens, by TCP.
    pub listeners: Vec<SocketAddr>,
    /// The realms.
    pub realms: Vec<Realm>,
}

/// A place in the text, and what is wrong there.
struct Wrong(Range<usize>, String);

fn check<T>(at: &Spanned<T>, holds: bool, what: impl FnOnce() -> String) -> Result<(), Wrong> {
    match holds {
        true => Ok(()),
        false => Err(Wrong(at.span(), what())),
    }
}

impl Config {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// Reads the text of a file.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let parsed: Result<Text, _> = toml::from_str(text);
        let parsed = parsed.map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            Wrong(span, error.message().trim().replace('\n', "; "))
        });
        let directory = file.parent().unwrap_or(Path::new("."));
        let checked = parsed.and_then(|parsed| effective(directory, &parsed));
        checked.map_err(|Wrong(at, what)| ConfigError::Wrong {
            file: file.to_owned(),
            line: 1 + text[..at.start.min(text.len())].matches('\n').count(),
            what,
        })
    }

    /// The same as text, with all that was left out.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            // To a string it cannot fail.
            let _ = writeln!(text, "{line}");
        };
        let quoted = |text: &str| toml::Value::from(text).to_string();
        line(format!("node = {}", quoted(&self.node)));
        line(format!("store = \"{}\"", self.store));
        line(format!("cores = \"{}\"", self.cores));
        line(format!("memory_mib = {}", self.memory_mib));
        line(format!("blobs_max = {}", self.blobs_max));
        line("\n[format]".into());
        line(format!(
            "slab_mib = {}",
            self.format.slab_blocks / MIB_BLOCKS
        ));
        line(format!(
            "journal_mib = {}",
            self.format.journal_blocks / MIB_BLOCKS
        ));
        for device in &self.devices {
            line(format!(
                "\n[[device]]\npath = {}",
                quoted(&device.to_string_lossy())
            ));
        }
        for listener in &self.listeners {
            line(format!("\n[[listener]]\naddress = \"{listener}\""));
        }
        for Realm {
            name,
            options,
            hosts,
        } in &self.realms
        {
            line(format!("\n[[realm]]\nname = {}", quoted(name)));
            line(format!("id = {}", options.id.0));
            line(match hosts {
                Hosts::Any => "hosts = \"any\"".into(),
                Hosts::Only(hosts) => {
                    let hosts: Vec<String> =
                        hosts.iter().map(|host| quoted(&host.to_string())).collect();
                    format!("hosts = [{}]", hosts.join(", "))
                }
            });
            if let Some(blocks) = options.quota_blocks {
                line(format!("quota_mib = {}", blocks / MIB_BLOCKS));
            }
            match options.cache {
                Some(Policy::Lru) => line("cache = \"lru\"".into()),
                Some(Policy::S3Fifo) => line("cache = \"s3-fifo\"".into()),
                None => {}
            }
            line(format!("verify = {}", options.verify));
        }
        text
    }
}

fn effective(directory: &Path, text: &Text) -> Result<Config, Wrong> {
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
    let memory_mib = match &text.memory_mib {
        None => MEMORY_MIB_DEFAULT,
        Some(mib) => {
            let least = MEMORY_MIB_DEFAULT;
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
    Ok(Config {
        store: store(&text.store)?,
        cores,
        memory_mib,
        blobs_max,
        format: format(&text.format)?,
        devices: devices(directory, &text.device)?,
        listeners: listeners(&text.listener)?,
        realms: realms(&text.node, &text.realm)?,
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

fn devices(directory: &Path, text: &Spanned<Vec<DeviceText>>) -> Result<Vec<PathBuf>, Wrong> {
    check(text, !text.get_ref().is_empty(), || {
        "a node needs a device: add [[device]]".into()
    })?;
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for DeviceText { path } in text.get_ref() {
        let whole = directory.join(path.get_ref());
        check(path, seen.insert(whole.clone()), || {
            format!(
                "the device {} is there twice: leave one out",
                whole.display()
            )
        })?;
        all.push(whole);
    }
    Ok(all)
}

fn listeners(text: &Spanned<Vec<ListenerText>>) -> Result<Vec<SocketAddr>, Wrong> {
    check(text, !text.get_ref().is_empty(), || {
        "nobody could reach the node: add [[listener]] with an address".into()
    })?;
    let mut all = Vec::new();
    for ListenerText { address } in text.get_ref() {
        let found = *address.get_ref();
        check(
            address,
            found.port() != 0 && !found.ip().is_unspecified(),
            || {
                format!(
                    "{found} is no address that hosts can be told: name one of this machine's, and a port (4420)"
                )
            },
        )?;
        check(address, !all.contains(&found), || {
            format!("the listener {found} is there twice: leave one out")
        })?;
        all.push(found);
    }
    Ok(all)
}

fn realms(node: &Spanned<String>, text: &Spanned<Vec<RealmText>>) -> Result<Vec<Realm>, Wrong> {
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
        all.push(Realm {
            name: name.clone(),
            options: RealmOptions {
                quota_blocks,
                verify: realm.verify,
                cache: realm.cache.as_ref().map(|cache| match cache.get_ref() {
                    CacheText::Lru => Policy::Lru,
                    CacheText::S3Fifo => Policy::S3Fifo,
                }),
                ..RealmOptions::new(RealmId(id))
            },
            hosts: hosts(&realm.hosts)?,
        });
    }
    Ok(all)
}

fn hosts(text: &Spanned<HostsText>) -> Result<Hosts, Wrong> {
    match text.get_ref() {
        HostsText::Word(word) => {
            check(text, word == "any", || {
                format!("hosts are \"any\" or a list of NQNs, not \"{word}\"")
            })?;
            Ok(Hosts::Any)
        }
        HostsText::List(list) => {
            let hosts = list.iter().map(|host| {
                host.parse::<Nqn>()
                    .map_err(|error| Wrong(text.span(), error.to_string()))
            });
            Ok(Hosts::Only(hosts.collect::<Result<_, _>>()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"node = "n1"
store = "00112233445566778899aabbccddeeff"

[[device]]
path = "drive"

[[listener]]
address = "127.0.0.1:4420"

[[realm]]
name = "models"
id = 1
hosts = "any"

[[realm]]
name = "cache"
id = 2
hosts = ["nqn.2016-06.io.oriel:gpu7"]
quota_mib = 64
cache = "s3-fifo"
verify = true
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("etc/node.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_read_is_printed_with_all_that_was_left_out() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.devices, [PathBuf::from("etc/drive")]);
        assert_eq!(config.realms[1].options.quota_blocks, Some(64 * 256));
        assert!(!config.realms[0].options.verify && config.realms[1].options.verify);
        let text = config.text();
        let again = Config::parse(Path::new("node.toml"), &text).unwrap();
        assert_eq!((again.text(), &again), (text, &config));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("node = \"n1\"", "node = n1", 1, ""),
            ("node =", "nodes =", 1, "nodes"),
            ("\"n1\"", "\"n 1\"", 11, "n 1"),
            ("00112233", "0011223", 2, "32 hexadecimal digits"),
            ("path = \"drive\"", "path = 7", 5, "string"),
            (
                "127.0.0.1:4420",
                "0.0.0.0:4420",
                8,
                "name one of this machine's",
            ),
            ("127.0.0.1:4420", "127.0.0.1", 8, ""),
            ("id = 2", "id = 1", 17, "two realms of number 1"),
            ("\"cache\"", "\"models\"", 16, "two realms 'models'"),
            ("\"any\"", "\"all\"", 13, "not \"all\""),
            ("nqn.2016-06", "nqn.16-06", 18, "NVMe qualified name"),
            ("quota_mib = 64", "quota_mib = 0", 19, "at least 1"),
            ("quota_mib = 64\n", "", 19, "give it a quota_mib"),
            ("s3-fifo", "fifo", 20, "fifo"),
        ];
        for (good, bad, line, word) in cases {
            let text = GOOD.replacen(good, bad, 1);
            assert_ne!(text, GOOD, "{good}");
            let error = parse(&text).unwrap_err();
            let place = format!("etc/node.toml, line {line}: ");
            assert!(
                error.starts_with(&place) && error.contains(word),
                "{bad}: {error}"
            );
        }
        let none = parse("").unwrap_err();
        assert!(none.contains("node"), "{none}");
    }
}
