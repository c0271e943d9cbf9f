//! Keys as people write them.

use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use oriel_protocol::limits::{KEY_BYTES, PREFIX_BYTES_MAX};
use oriel_protocol::{Key, Prefix};

/// Keeps keys of names apart from those of contents, and from other programs' keys.
const NAME_CONTEXT: &str = "oriel 2026-11 name of a blob";

/// Why a text is no key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(
        "'{text}' is no key: a key has 64 hexadecimal digits, as put prints it; for a blob that was put under a name say --name"
    )]
    NoKey { text: String },
    #[error("'{text}' is no beginning of a key: give up to {} hexadecimal digits, an even number of them", 2 * PREFIX_BYTES_MAX)]
    NoPrefix { text: String },
}

/// The key of a name.
pub(crate) fn of_name(name: &str) -> Key {
    Key::new(blake3::derive_key(NAME_CONTEXT, name.as_bytes()))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    let pairs = digits.chunks_exact(2);
    Some(pairs.map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// Reads 64 hexadecimal digits.
pub(crate) fn parse_key(text: &str) -> Result<Key, KeyError> {
    let bytes: Option<[u8; KEY_BYTES]> = from_hex(text).and_then(|bytes| bytes.try_into().ok());
    let key = bytes.map(Key::new);
    key.ok_or_else(|| KeyError::NoKey { text: text.into() })
}

/// Reads what keys begin with.
pub(crate) fn parse_prefix(text: &str) -> Result<Prefix, KeyError> {
    let prefix = from_hex(text).and_then(|bytes| Prefix::new(&bytes));
    prefix.ok_or_else(|| KeyError::NoPrefix { text: text.into() })
}

/// A blob that is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: Key,
    /// What its user calls it: a name, or a path of a list.
    pub(crate) label: Option<String>,
}

impl Wanted {
    pub(crate) fn of_key(key: Key) -> Self {
        Self { key, label: None }
    }

    pub(crate) fn of_name(name: &str) -> Self {
        Self {
            key: of_name(name),
            label: Some(name.into()),
        }
    }

    /// What messages call it.
    pub(crate) fn shown(&self) -> String {
        let mut shown = self.key.to_string();
        if let Some(label) = &self.label {
            // Writing into a string does not fail.
            let _ = write!(shown, " ({label})");
        }
        shown
    }
}

/// Where a label leads below a folder: nowhere else, as `tar` has it. `None` if it does not lead to a file.
pub(crate) fn below(folder: &Path, label: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    let mut is_named = false;
    for component in Path::new(label).components() {
        match component {
            Component::Normal(name) => {
                path.push(name);
                is_named = true;
            }
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (is_named && !label.ends_with('/') && !label.contains('\0')).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key = Key::of_content(b"abc");
        assert_eq!(parse_key(&key.to_string()), Ok(key));
        assert_eq!(parse_key(&key.to_string().to_uppercase()), Ok(key));
        let text = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(key.to_string(), text, "BLAKE3's own test vector");
        let longer = format!("{text}00");
        let sign = format!("+{}", &text[1..]);
        for wrong in ["", "abc", &text[1..], &text[2..], &longer, &sign, "ä"] {
            let error = parse_key(wrong).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{wrong}: {error}");
        }
    }

    #[test]
    fn names_have_keys_of_their_own() {
        let key = of_name("llama/7b").to_string();
        // What is stored under names would be lost with another key.
        assert_eq!(
            key,
            "0ffd2154419479fefc779d694611591f6cb62e3e9346c057ecd60ec36d7156b7"
        );
        assert_ne!(of_name("abc"), Key::of_content(b"abc"));
    }

    #[test]
    fn prefixes_have_up_to_eight_whole_bytes() {
        assert_eq!(parse_prefix("").unwrap(), Prefix::ANY);
        assert_eq!(parse_prefix("0aFF").unwrap().bytes(), [0x0a, 0xff]);
        for wrong in ["a", "0g", "000000000000000000", "é"] {
            assert!(parse_prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_stay_below_their_folder() {
        let folder = Path::new("out");
        let path = |label: &str| below(folder, label);
        assert_eq!(path("a/b"), Some("out/a/b".into()));
        assert_eq!(path("/a/./b"), Some("out/a/b".into()));
        for wrong in ["", "/", ".", "..", "a/../../b", "a/..", "a/", "a\0b"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}
