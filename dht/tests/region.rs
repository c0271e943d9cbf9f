//! A region is understood or refused, with words that say what to do.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use oriel_dht::region::{
    CloseError, CreateError, Existing, Flush, History, OpenError, Persistence, Place, Region,
    SectionError, SectionKind, SectionSpec,
};

const BLOB: SectionKind = SectionKind::named(*b"TEST");

fn specs() -> Vec<SectionSpec> {
    let spec = |kind, version, bytes| SectionSpec {
        kind,
        version,
        bytes,
    };
    vec![spec(BLOB, 3, 5000), spec(SectionKind::RING, 1, 3 << 20)]
}

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("region")
}

fn place(path: &Path) -> Place {
    Place::Path(path.to_path_buf())
}

/// A closed region whose sections have a pattern.
fn closed(path: &Path) {
    let region = Region::create(&place(path), &specs(), Existing::Keep).unwrap();
    for (kind, version) in [(BLOB, 3), (SectionKind::RING, 1)] {
        let section = region.section(kind, version).unwrap();
        for (at, word) in section.words().iter().enumerate() {
            assert_eq!(word.load(Ordering::Relaxed), 0);
            word.store(at as u64 + u64::from(version), Ordering::Relaxed);
        }
    }
    region.close().unwrap();
}

#[test]
fn a_closed_region_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    for turn in 0..3 {
        let region = Region::open(&place(&path)).unwrap();
        assert_eq!(region.history(), History::Clean);
        assert_eq!(region.persistence(), Persistence::File);
        assert_eq!(region.bytes(), 8 << 20);
        for (kind, version, bytes) in [(BLOB, 3, 5000), (SectionKind::RING, 1, 3 << 20)] {
            let section = region.section(kind, version).unwrap();
            assert_eq!(section.generation(), 2 + turn);
            assert_eq!(section.bytes(), bytes);
            for (at, word) in section.words().iter().enumerate() {
                assert_eq!(word.load(Ordering::Relaxed), at as u64 + u64::from(version));
            }
        }
        region.close().unwrap();
    }
}

#[test]
fn a_region_that_was_dropped_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    drop(Region::open(&place(&path)).unwrap());
    let region = Region::open(&place(&path)).unwrap();
    assert_eq!(region.history(), History::Unclean);
    region.close().unwrap();
    assert_eq!(
        Region::open(&place(&path)).unwrap().history(),
        History::Clean
    );
    let created = Region::create(&place(&path), &specs(), Existing::Replace).unwrap();
    assert_eq!(created.history(), History::Fresh);
    drop(created);
    assert_eq!(
        Region::open(&place(&path)).unwrap().history(),
        History::Unclean
    );
}

#[test]
fn sections_are_given_out_by_kind_and_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    let region = Region::open(&place(&path)).unwrap();
    let absent = region.section(SectionKind::INDEX, 1).unwrap_err();
    assert!(matches!(absent, SectionError::Absent { .. }), "{absent}");
    assert!(absent.to_string().contains("INDX"), "{absent}");
    let other = region.section(BLOB, 4).unwrap_err();
    assert!(
        matches!(
            other,
            SectionError::OtherVersion {
                found: 3,
                wanted: 4,
                ..
            }
        ),
        "{other}"
    );
}

#[test]
fn a_region_is_not_closed_while_a_section_is_used() {
    let place = Place::Memory { large_pages: true };
    let region = Region::create(&place, &specs(), Existing::Keep).unwrap();
    assert_eq!(region.persistence(), Persistence::Volatile);
    let section = region.section(BLOB, 3).unwrap();
    let Err(CloseError::StillInUse { users: 1, region }) = region.close() else {
        panic!("it was closed under its user");
    };
    drop(section);
    region.close().unwrap();
}

#[test]
fn one_user_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    let first = Region::open(&place(&path)).unwrap();
    let second = Region::open(&place(&path)).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    let replace = Region::create(&place(&path), &specs(), Existing::Replace).unwrap_err();
    assert!(
        matches!(replace, CreateError::Place(OpenError::InUse { .. })),
        "{replace}"
    );
    first.close().unwrap();
    assert_eq!(
        Region::open(&place(&path)).unwrap().history(),
        History::Clean
    );
}

#[test]
fn nothing_is_created_over_what_is_there_unless_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    for content in [&b"hello"[..], &[7; 10_000]] {
        fs::write(&path, content).unwrap();
        let refused = Region::create(&place(&path), &specs(), Existing::Keep).unwrap_err();
        assert!(matches!(refused, CreateError::NotBlank { .. }), "{refused}");
        assert_eq!(
            fs::read(&path).unwrap(),
            content,
            "it was changed all the same"
        );
    }
    let region = Region::create(&place(&path), &specs(), Existing::Replace).unwrap();
    let section = region.section(BLOB, 3).unwrap();
    let words = section.words().iter();
    assert!(section.was_zeroed());
    assert_eq!(
        words
            .filter(|word| word.load(Ordering::Relaxed) != 0)
            .count(),
        0
    );
}

fn open_error(path: &Path) -> OpenError {
    let before = fs::read(path).unwrap();
    let error = Region::open(&place(path)).expect_err("it was opened");
    assert_eq!(
        fs::read(path).unwrap(),
        before,
        "a refused region was changed"
    );
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(
        text.contains("create"),
        "it does not say what to do: {text}"
    );
    error
}

#[test]
fn what_is_no_region_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    fs::write(&path, b"").unwrap();
    assert!(matches!(open_error(&path), OpenError::Blank { .. }));
    fs::write(&path, [0; 8192]).unwrap();
    assert!(matches!(open_error(&path), OpenError::Blank { .. }));
    fs::write(&path, b"\x7fELF").unwrap();
    assert!(matches!(
        open_error(&path),
        OpenError::Truncated { found: 4, .. }
    ));
    fs::write(&path, [0x55; 8192]).unwrap();
    assert!(matches!(open_error(&path), OpenError::Foreign { .. }));
    let missing = Region::open(&place(&folder.path().join("nothing"))).unwrap_err();
    assert!(matches!(missing, OpenError::Open { .. }), "{missing}");
    for strange in [folder.path(), Path::new("/dev/null")] {
        let error = Region::open(&place(strange)).unwrap_err();
        assert!(
            matches!(error, OpenError::WrongKind { .. } | OpenError::Open { .. }),
            "{error}"
        );
    }
}

#[test]
fn other_versions_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0, 0, 0, 0], 8).unwrap();
    assert!(matches!(
        open_error(&path),
        OpenError::Older { found: 0, .. }
    ));
    file.write_all_at(&[2, 1, 0, 0], 8).unwrap();
    assert!(matches!(
        open_error(&path),
        OpenError::Newer { found: 0x102, .. }
    ));
    file.write_all_at(&[1, 0, 0, 0], 8).unwrap();
    assert_eq!(
        Region::open(&place(&path)).unwrap().history(),
        History::Clean
    );
}

#[test]
fn a_region_that_was_cut_is_refused_at_every_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for bytes in [(8 << 20) - 1, 6 << 20, 4 << 20, 5000, 4096] {
        file.set_len(bytes).unwrap();
        let error = open_error(&path);
        assert!(
            matches!(error, OpenError::Truncated { wanted, found, .. } if wanted == 8 << 20 && found == bytes),
            "{bytes}: {error}"
        );
    }
    for bytes in [4095, 100, 8, 1] {
        file.set_len(bytes).unwrap();
        let error = open_error(&path);
        assert!(
            matches!(error, OpenError::Truncated { wanted: 4096, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_header_written_in_part_is_torn() {
    let folder = tempfile::tempdir().unwrap();
    let path = path(&folder);
    closed(&path);
    let whole = fs::read(&path).unwrap();
    for written in [16, 64, 100, 1088] {
        let mut torn = whole.clone();
        torn[written..4096].fill(0);
        fs::write(&path, &torn).unwrap();
        let error = open_error(&path);
        assert!(
            matches!(error, OpenError::Torn { .. }),
            "{written}: {error}"
        );
    }
}

#[test]
fn latency_is_that_of_memory_and_overlaps() {
    let place = Place::Memory { large_pages: false };
    let spec = SectionSpec {
        kind: BLOB,
        version: 1,
        bytes: 64 << 20,
    };
    let region = Region::create(&place, &[spec], Existing::Keep).unwrap();
    let section = region.section(BLOB, 1).unwrap();
    section.words()[5].store(77, Ordering::Relaxed);
    let latency = region.latency();
    assert!(latency.idle.as_nanos() > 0, "{latency}");
    assert_eq!(section.words()[5].load(Ordering::Relaxed), 77);
    assert!(["clwb", "clflushopt", "clflush"].contains(&Flush::detect().name()));
}
