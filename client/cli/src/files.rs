//! Which files are put.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use crate::error::{CliError, UsageError};

/// Where a blob's bytes come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    Input,
    File(PathBuf),
}

/// A file to put, or why it cannot be.
pub(crate) struct Item {
    pub(crate) source: Source,
    /// What it is called in lists and messages.
    pub(crate) label: String,
    /// Bytes, as far as they are known.
    pub(crate) bytes: u64,
    pub(crate) problem: Option<CliError>,
}

impl Item {
    fn new(path: &Path, bytes: Result<u64, CliError>) -> Self {
        let (bytes, mut problem) = match bytes {
            Ok(bytes) => (bytes, None),
            Err(problem) => (0, Some(problem)),
        };
        if path.to_str().is_none_or(|name| name.contains(['\n', '\r'])) {
            problem = Some(CliError::Name);
        }
        Self {
            source: Source::File(path.into()),
            label: path.to_string_lossy().replace(['\n', '\r'], "?"),
            bytes,
            problem,
        }
    }

    fn input() -> Self {
        Self {
            source: Source::Input,
            label: "-".into(),
            bytes: 0,
            problem: None,
        }
    }
}

/// All files that are named, and those in folders if these are wanted, in the order of their names.
pub(crate) fn items(paths: &[PathBuf], with_folders: bool) -> Result<Vec<Item>, UsageError> {
    let mut items = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            if items.iter().any(|item: &Item| item.source == Source::Input) {
                return Err(UsageError::InputTwice);
            }
            items.push(Item::input());
            continue;
        }
        match fs::metadata(path) {
            Ok(data) if data.is_dir() && with_folders => walk(path, &mut items),
            Ok(data) if data.is_dir() => return Err(UsageError::Folder { path: path.clone() }),
            found => items.push(Item::new(path, size(found))),
        }
    }
    Ok(items)
}

/// A pipe or a device has what it has; a socket nothing that could be read.
fn size(found: std::io::Result<Metadata>) -> Result<u64, CliError> {
    use std::os::unix::fs::FileTypeExt;
    let data = found.map_err(CliError::Unreadable)?;
    match data.file_type().is_socket() {
        true => Err(CliError::NoFile),
        false => Ok(data.len()),
    }
}

fn walk(folder: &Path, items: &mut Vec<Item>) {
    let read = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = match read {
        Ok(entries) => entries,
        Err(error) => {
            items.push(Item::new(folder, Err(CliError::Unreadable(error))));
            return;
        }
    };
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let is_link = path.is_symlink();
        match fs::metadata(&path) {
            // A link to a folder may lead round in circles.
            Ok(data) if data.is_dir() && is_link => {
                items.push(Item::new(&path, Err(CliError::NoFile)));
            }
            Ok(data) if data.is_dir() => walk(&path, items),
            // In a folder nobody has named it, and it may never end.
            Ok(data) if !data.is_file() => items.push(Item::new(&path, Err(CliError::NoFile))),
            found => items.push(Item::new(&path, size(found))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_are_walked_in_the_order_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("b/c")).unwrap();
        for (name, text) in [("z", "1"), ("b/y", "22"), ("b/c/x", "333")] {
            fs::write(path(name), text).unwrap();
        }
        symlink(path("z"), path("link")).unwrap();
        symlink(folder.path(), path("b/round")).unwrap();
        symlink(path("nowhere"), path("dead")).unwrap();
        let odd = folder.path().join(OsStr::from_bytes(b"o\xff"));
        fs::write(&odd, "4").unwrap();
        let items = items(&[folder.path().into()], true).unwrap();
        let found: Vec<_> = items
            .iter()
            .map(|item| {
                let name = item.label.strip_prefix(folder.path().to_str().unwrap());
                (name.unwrap(), item.bytes, item.problem.is_some())
            })
            .collect();
        let expected = [
            ("/b/c/x", 3, false),
            ("/b/round", 0, true),
            ("/b/y", 2, false),
            ("/dead", 0, true),
            ("/link", 1, false),
            ("/o\u{fffd}", 1, true),
            ("/z", 1, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn folders_are_put_only_if_that_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let error = items(&[folder.path().into()], false).map(drop).unwrap_err();
        assert!(error.to_string().contains("say -r"), "{error}");
        let twice = ["-".into(), "-".into()];
        assert!(items(&twice, false).is_err());
        let missing = items(&[folder.path().join("no")], false).unwrap();
        assert!(missing[0].problem.is_some());
    }
}
