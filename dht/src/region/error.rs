//! What can be wrong with a region, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::header::SectionKind;

/// Why a region was not opened. Nothing of it was mapped for use, and nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file or device cannot be opened, or its kind cannot be told.
    #[error("cannot open {}: {source}; check the path and its permissions", path.display())]
    Open {
        /// The file or device.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It cannot be mapped.
    #[error("cannot map {bytes} bytes of {}: {source}", path.display())]
    Map {
        /// The file or device, or a name for memory.
        path: PathBuf,
        /// How much of it.
        bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The mark that it is in use cannot be made durable.
    #[error("cannot mark {} as in use: {source}", path.display())]
    Mark {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A character device that is not a DAX device, or a folder, a socket, a pipe.
    #[error("{} is neither a file nor a DAX device; name a file or /dev/daxX.Y", path.display())]
    WrongKind {
        /// The file or device.
        path: PathBuf,
    },
    /// Someone else uses it now.
    #[error("{} is in use by another process; stop that one first, or name another region", path.display())]
    InUse {
        /// The file or device.
        path: PathBuf,
    },
    /// Nothing was ever written at its start.
    #[error("{} is blank; create a region there first", path.display())]
    Blank {
        /// The file or device.
        path: PathBuf,
    },
    /// What is there is something else.
    #[error("{} does not hold a region of Oriel's (it begins with {found:#018x}); name another file, or create a region over it if its content may be lost", path.display())]
    Foreign {
        /// The file or device.
        path: PathBuf,
        /// Its first eight bytes.
        found: u64,
    },
    /// Written by an older release, whose layout is not known any more.
    #[error("the region in {} has layout {found}, older than {current}, which is read here; create it anew, and its tables are rebuilt", path.display())]
    Older {
        /// The file or device.
        path: PathBuf,
        /// The layout's version there.
        found: u32,
        /// The version that is understood.
        current: u32,
    },
    /// Written by a newer release.
    #[error("the region in {} has layout {found}, newer than {current}, which is read here; run the release that wrote it, or create it anew", path.display())]
    Newer {
        /// The file or device.
        path: PathBuf,
        /// The layout's version there.
        found: u32,
        /// The version that is understood.
        current: u32,
    },
    /// The file or device is shorter than the region in it.
    #[error("the region in {} has {wanted} bytes, of which {found} are there; it was cut short: create it anew, and its tables are rebuilt", path.display())]
    Truncated {
        /// The file or device.
        path: PathBuf,
        /// Bytes of the region, by its header; of the header alone where even that is not whole.
        wanted: u64,
        /// Bytes of the file or device.
        found: u64,
    },
    /// The header's checksum is wrong: written in part, or damaged.
    #[error("the header of the region in {} is torn or damaged (checksum {found:#010x}, expected {expected:#010x}); create it anew, and its tables are rebuilt", path.display())]
    Torn {
        /// The file or device.
        path: PathBuf,
        /// The checksum of what is there.
        expected: u32,
        /// The checksum that is there.
        found: u32,
    },
    /// The checksum is right and the content makes no sense: a fault in the program that wrote it.
    #[error("the header of the region in {} contradicts itself ({what}); create it anew, and report this", path.display())]
    Contradiction {
        /// The file or device.
        path: PathBuf,
        /// Which rule it breaks.
        what: &'static str,
    },
}

/// Why a region was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The file or device cannot be opened, locked, sized or mapped.
    #[error(transparent)]
    Place(#[from] OpenError),
    /// Something is there already.
    #[error("{} is not blank; say that its content may be replaced, or name another place", path.display())]
    NotBlank {
        /// The file or device.
        path: PathBuf,
    },
    /// The sections do not fit.
    #[error("the sections take {wanted} bytes and {} has {found}; ask for fewer entries or name a larger device", path.display())]
    TooSmall {
        /// The file or device.
        path: PathBuf,
        /// Bytes that the sections take.
        wanted: u64,
        /// Bytes of the device.
        found: u64,
    },
    /// The list of sections cannot be laid out.
    #[error("the sections cannot be laid out: {what}")]
    Sections {
        /// Which rule the list breaks.
        what: &'static str,
    },
    /// The file cannot get its size.
    #[error("cannot make {} {bytes} bytes long: {source}; is the file system full?", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes of the region.
        bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why a section was not given out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SectionError {
    /// The region has no such section.
    #[error("the region has no section {kind}; it was created for other tables: create it anew")]
    Absent {
        /// What was asked for.
        kind: SectionKind,
    },
    /// It has one, of another version.
    #[error(
        "section {kind} of the region has version {found}, and version {wanted} is read here; create the region anew, and its tables are rebuilt"
    )]
    OtherVersion {
        /// What was asked for.
        kind: SectionKind,
        /// The version there.
        found: u32,
        /// The version asked for.
        wanted: u32,
    },
}

/// Why a region was not marked clean. It stays marked as in use, so its tables will be rebuilt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// A table still has a section.
    #[error(
        "{users} users of the region's sections are left; close the tables before their region"
    )]
    StillInUse {
        /// Handles that still exist.
        users: usize,
        /// The region, to try again.
        region: Box<super::Region>,
    },
    /// The file could not be written.
    #[error("cannot write {} back: {source}; its tables will be rebuilt", path.display())]
    WriteBack {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}
