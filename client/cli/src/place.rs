//! Where a blob is written to: a file that is there when it is whole, or not at all.

use std::fs::{self, File};
use std::io::{self, Stdout, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::NamedTempFile;

use crate::error::CliError;

/// Where a blob goes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Output,
    File(PathBuf),
}

/// A file that nobody sees.
enum Hidden {
    /// Without a name: gone with the process, whatever ends it.
    Nameless(File),
    /// Where a file system has no such files.
    Named(NamedTempFile),
}

enum Kind {
    Output(Stdout),
    /// A pipe or a device, which cannot be replaced.
    Straight(File),
    Hidden(Hidden, PathBuf),
}

/// A place that is being written to.
pub(crate) struct Writing {
    kind: Kind,
    path: PathBuf,
}

impl Writing {
    /// Begins to write; folders on the way to a file are made if that is wanted.
    pub(crate) fn begin(place: &Place, makes_folders: bool) -> Result<Self, CliError> {
        let path = match place {
            Place::Output => {
                let kind = Kind::Output(io::stdout());
                let path = "-".into();
                return Ok(Self { kind, path });
            }
            Place::File(path) => path.clone(),
        };
        let kind = open(&path, makes_folders).map_err(|source| CliError::Unwritable {
            path: path.clone(),
            source,
        })?;
        Ok(Self { kind, path })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = match &mut self.kind {
            Kind::Output(stdout) => return stdout.write_all(bytes).map_err(CliError::Output),
            Kind::Straight(file) | Kind::Hidden(Hidden::Nameless(file), _) => file.write_all(bytes),
            Kind::Hidden(Hidden::Named(file), _) => file.write_all(bytes),
        };
        written.map_err(|source| self.unwritable(source))
    }

    /// Whether what was written can be taken back.
    pub(crate) fn can_begin_again(&self) -> bool {
        matches!(self.kind, Kind::Hidden(..))
    }

    /// All is written: the file gets its name, and takes the place of one that had it.
    pub(crate) fn finish(self) -> Result<(), CliError> {
        let Self { kind, path } = self;
        let finished = match kind {
            Kind::Output(mut stdout) => return stdout.flush().map_err(CliError::Output),
            Kind::Straight(_) => Ok(()),
            Kind::Hidden(Hidden::Named(file), to) => {
                file.persist(to).map(drop).map_err(io::Error::from)
            }
            Kind::Hidden(Hidden::Nameless(file), to) => name(&file, &to),
        };
        finished.map_err(|source| CliError::Unwritable { path, source })
    }

    fn unwritable(&self, source: io::Error) -> CliError {
        let path = self.path.clone();
        CliError::Unwritable { path, source }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn open(path: &Path, makes_folders: bool) -> io::Result<Kind> {
    match fs::metadata(path) {
        Ok(data) if data.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(data) if !data.is_file() => {
            return fs::OpenOptions::new()
                .write(true)
                .open(path)
                .map(Kind::Straight);
        }
        _ => {}
    }
    if makes_folders {
        fs::create_dir_all(folder_of(path))?;
    }
    // A link stays one, and leads to the new file.
    let to = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    Ok(Kind::Hidden(hidden(folder_of(&to))?, to))
}

fn hidden(folder: &Path) -> io::Result<Hidden> {
    let mode = Mode::from_raw_mode(0o666);
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    if Path::new("/proc/self/fd").is_dir()
        && let Ok(file) = rustix::fs::open(folder, flags, mode)
    {
        return Ok(Hidden::Nameless(file.into()));
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o666);
    let file = tempfile::Builder::new()
        .prefix(".oriel.")
        .permissions(mode)
        .tempfile_in(folder)?;
    Ok(Hidden::Named(file))
}

/// Gives a file its name. A link cannot take the place of another, so it is one under a name of its own first.
fn name(file: &File, to: &Path) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let from = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!(".oriel.{}.{number}", std::process::id());
        let between = folder_of(to).join(name);
        match rustix::fs::linkat(CWD, &from, CWD, &between, AtFlags::SYMLINK_FOLLOW) {
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => {
                let renamed = fs::rename(&between, to);
                if renamed.is_err() {
                    // Best effort: what is told is why it has no name.
                    let _ = fs::remove_file(&between);
                }
                return renamed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a");
        let place = Place::File(path.clone());
        let missing = Writing::begin(&place, false).map(drop).unwrap_err();
        assert!(
            missing.to_string().contains("cannot be written"),
            "{missing}"
        );
        for text in ["one", "other"] {
            let mut writing = Writing::begin(&place, true).unwrap();
            assert!(writing.can_begin_again());
            writing.write(text.as_bytes()).unwrap();
            let before = fs::read_to_string(&path).ok();
            assert_ne!(before.as_deref(), Some(text));
            writing.finish().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(entries(&folder.path().join("deep")), ["a"]);
        }
        let mut writing = Writing::begin(&place, true).unwrap();
        writing.write(b"given up").unwrap();
        drop(writing);
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        assert_eq!(entries(&folder.path().join("deep")), ["a"]);
    }

    #[test]
    fn links_lead_to_the_new_file_and_devices_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut writing = Writing::begin(&Place::File(link.clone()), false).unwrap();
        writing.write(b"new").unwrap();
        writing.finish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        let mut device = Writing::begin(&Place::File("/dev/null".into()), false).unwrap();
        assert!(!device.can_begin_again());
        device.write(b"gone").unwrap();
        device.finish().unwrap();
        let folder = Place::File(folder.path().into());
        assert!(Writing::begin(&folder, false).is_err());
    }
}
