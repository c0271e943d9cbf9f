//! The hosts of a realm, as text.
//!
//! ```toml
//! hosts = "any"
//! hosts = ["nqn.2014-08.org.nvmexpress:uuid:...", { nqn = "nqn...", key = "keys/gpu7", controller_key = "keys/node" }]
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use oriel_spdk::nvmf::Nqn;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::Around;
use super::text::{Wrong, check};
use crate::{Host, HostKeys, Hosts};

/// By hand, since what serde derives forgets where in the text the hosts of a list are.
pub(super) enum HostsText {
    Word(String),
    List(Vec<Spanned<HostText>>),
}

pub(super) enum HostText {
    Name(String),
    Keyed(KeyedText),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyedText {
    nqn: String,
    key: Option<Spanned<PathBuf>>,
    controller_key: Option<Spanned<PathBuf>>,
}

struct HostsVisitor;

impl<'de> Visitor<'de> for HostsVisitor {
    type Value = HostsText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"any\" or a list of hosts")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<HostsText, E> {
        Ok(HostsText::Word(word.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<HostsText, A::Error> {
        let mut hosts = Vec::new();
        while let Some(host) = list.next_element()? {
            hosts.push(host);
        }
        Ok(HostsText::List(hosts))
    }
}

impl<'de> Deserialize<'de> for HostsText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(HostsVisitor)
    }
}

struct HostVisitor;

impl<'de> Visitor<'de> for HostVisitor {
    type Value = HostText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an NQN, or { nqn = \"...\", key = \"...\" }")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<HostText, E> {
        Ok(HostText::Name(name.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HostText, A::Error> {
        KeyedText::deserialize(MapAccessDeserializer::new(map)).map(HostText::Keyed)
    }
}

impl<'de> Deserialize<'de> for HostText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(HostVisitor)
    }
}

pub(super) fn hosts(around: &Around<'_>, text: &Spanned<HostsText>) -> Result<Hosts, Wrong> {
    let list = match text.get_ref() {
        HostsText::Word(word) => {
            check(text, word == "any", || {
                format!("hosts are \"any\" or a list of NQNs, not \"{word}\"")
            })?;
            return Ok(Hosts::Any);
        }
        HostsText::List(list) => list,
    };
    let mut names = BTreeSet::new();
    let mut hosts = Vec::new();
    for spanned in list {
        let (name, keyed) = match spanned.get_ref() {
            HostText::Name(name) => (name, None),
            HostText::Keyed(keyed) => (&keyed.nqn, Some(keyed)),
        };
        let nqn: Nqn = name
            .parse()
            .map_err(|error| Wrong(spanned.span(), format!("'{name}' is no host: {error}")))?;
        check(spanned, names.insert(name), || {
            format!("the host {nqn} is there twice: leave one out")
        })?;
        let keys = match keyed {
            None => None,
            Some(keyed) => keys(around, spanned, keyed)?,
        };
        hosts.push(Host { nqn, keys });
    }
    Ok(Hosts::Only(hosts))
}

fn keys(
    around: &Around<'_>,
    host: &Spanned<HostText>,
    text: &KeyedText,
) -> Result<Option<HostKeys>, Wrong> {
    let Some(key) = &text.key else {
        check(host, text.controller_key.is_none(), || {
            "a controller_key is for hosts that have a key themselves: add one".into()
        })?;
        return Ok(None);
    };
    check(key, around.has_dh_chap, || {
        format!(
            "the SPDK that orield is linked with, v{}, has no DH-HMAC-CHAP: leave the key out, or build orield with SPDK v24.05 or newer (SPDK_DIR)",
            around.release
        )
    })?;
    let file = |key: &Spanned<PathBuf>| {
        let path = around.directory.join(key.get_ref());
        match (around.check_secret)(&path) {
            Ok(()) => Ok(path),
            Err(why) => {
                let what = format!("the key {} {why}", path.display());
                Err(Wrong(key.span(), what))
            }
        }
    };
    Ok(Some(HostKeys {
        host: file(key)?,
        controller: text.controller_key.as_ref().map(file).transpose()?,
    }))
}
