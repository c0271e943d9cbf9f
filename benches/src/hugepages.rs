//! Hugepages: whether there are enough, and, for a comparison run by root,
//! making them for as long as it lasts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
const MOUNT_POINT: &str = "/dev/hugepages";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HugepageError {
    #[error(
        "this comparison needs {needed_mib} MiB of hugepages and there are {free_mib}: run it as root, or have root write {pages} to {COUNT} and run `mount -t hugetlbfs nodev {MOUNT_POINT}`"
    )]
    NotRoot {
        needed_mib: u64,
        free_mib: u64,
        pages: u64,
    },
    #[error(
        "cannot write {COUNT} ({source}): this kernel or container gives no hugepages, run without them"
    )]
    NotWritable { source: std::io::Error },
    #[error(
        "the kernel gave {got_mib} of {needed_mib} MiB of hugepages: free some memory and try again, or give less with -s"
    )]
    TooFew { needed_mib: u64, got_mib: u64 },
    #[error("cannot mount hugetlbfs on {MOUNT_POINT}: {reason}")]
    Mount { reason: MountFailure },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MountFailure {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("mount ended with {0}")]
    Status(std::process::ExitStatus),
}

/// Free hugepages of the default size, as /proc/meminfo tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Free {
    pages: u64,
    page_kib: u64,
}

impl Free {
    fn now() -> Self {
        fs::read_to_string("/proc/meminfo")
            .map(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    fn parse(meminfo: &str) -> Self {
        let value = |key: &str| {
            let line = meminfo
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        Self {
            pages: value("HugePages_Free"),
            page_kib: value("Hugepagesize"),
        }
    }

    fn mib(self) -> u64 {
        self.pages * self.page_kib / 1024
    }
}

/// A mounted hugetlbfs that this user may write to, if there is one.
fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let point = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let point = words.next()?;
        (words.next()? == "hugetlbfs").then(|| PathBuf::from(point))
    })?;
    writable(&point).then_some(point)
}

/// Whether files can be made there, found out by making one.
fn writable(directory: &Path) -> bool {
    let probe = directory.join(format!("oriel-perf-{}", std::process::id()));
    let made = fs::File::create_new(&probe).is_ok();
    if made {
        // A probe that cannot be removed again takes no memory: it is empty.
        let _ = fs::remove_file(&probe);
    }
    made
}

/// Whether a program that asks for `needed_mib` can start with hugepages.
pub(crate) fn available(needed_mib: u64) -> bool {
    Free::now().mib() >= needed_mib && mount_point().is_some()
}

/// Hugepages made for this program, given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Borrowed {
    /// How many pages were added to the system's count.
    added_pages: u64,
    mounted: bool,
    made_directory: bool,
}

impl Borrowed {
    /// Sees to `needed_mib` of free hugepages; does nothing where they are there.
    pub(crate) fn take(needed_mib: u64) -> Result<Self, HugepageError> {
        let free = Free::now();
        if available(needed_mib) {
            return Ok(Self::default());
        }
        let missing_kib = (needed_mib * 1024).saturating_sub(free.pages * free.page_kib);
        let pages = missing_kib.div_ceil(free.page_kib.max(1));
        let count = read_count();
        let mut borrowed = Self::default();
        if pages > 0 {
            match fs::write(COUNT, (count + pages).to_string()) {
                Ok(()) => borrowed.added_pages = read_count().saturating_sub(count),
                Err(source) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(HugepageError::NotRoot {
                        needed_mib,
                        free_mib: free.mib(),
                        pages: count + pages,
                    });
                }
                Err(source) => return Err(HugepageError::NotWritable { source }),
            }
            let got_mib = Free::now().mib();
            if got_mib < needed_mib {
                return Err(HugepageError::TooFew {
                    needed_mib,
                    got_mib,
                });
            }
        }
        if mount_point().is_none() {
            borrowed
                .mount()
                .map_err(|reason| HugepageError::Mount { reason })?;
        }
        Ok(borrowed)
    }

    fn mount(&mut self) -> Result<(), MountFailure> {
        let point = Path::new(MOUNT_POINT);
        if !point.is_dir() {
            fs::create_dir(point)?;
            self.made_directory = true;
        }
        let status = Command::new("mount")
            .args(["-t", "hugetlbfs", "nodev", MOUNT_POINT])
            .status()?;
        if !status.success() {
            return Err(MountFailure::Status(status));
        }
        self.mounted = true;
        Ok(())
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        // Each of these undoes what `take` did; where one fails there is
        // nothing better to do than to go on with the next.
        if self.mounted {
            let _ = Command::new("umount").arg(MOUNT_POINT).status();
        }
        if self.made_directory {
            let _ = fs::remove_dir(MOUNT_POINT);
        }
        if self.added_pages > 0 {
            // Relative to what the count is now: another program may have
            // changed it in the meantime.
            let _ = fs::write(
                COUNT,
                read_count().saturating_sub(self.added_pages).to_string(),
            );
        }
    }
}

fn read_count() -> u64 {
    fs::read_to_string(COUNT)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_and_a_kernel_without_hugepages_has_none() {
        let text = "MemTotal: 1 kB\nHugePages_Total:     512\nHugePages_Free:      384\nHugepagesize:       2048 kB\n";
        let free = Free::parse(text);
        assert_eq!(
            free,
            Free {
                pages: 384,
                page_kib: 2048
            }
        );
        assert_eq!(free.mib(), 768);
        assert_eq!(Free::parse("MemTotal: 1 kB\n").mib(), 0);
    }

    #[test]
    fn a_directory_is_writable_only_if_files_can_be_made_in_it() {
        let directory = tempfile::tempdir().unwrap();
        assert!(writable(directory.path()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(!writable(Path::new("/nonexistent")));
    }
}
