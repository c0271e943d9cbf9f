//! The rules of the source tree that no compiler checks: where unsafe code may be, how long a file
//! may get, what must not be written into one.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The files outside `ffi/` that may hold unsafe code. A new one needs a reason as good as theirs.
const UNSAFE_FILES: &[&str] = &[
    // Calls ISA-L on borrowed, scattered buffers.
    "ec/src/codec/isal.rs",
    // Vector instructions on such buffers.
    "ec/src/codec/vector.rs",
    // Maps memory, and hands it out as atomic words only.
    "dht/src/region/memory.rs",
    // Moves messages between cores through shared slots; model-checked.
    "engine/src/mailbox.rs",
];

/// Crates outside `ffi/` that hold such a file, and so deny unsafe code instead of forbidding it.
const CRATES_WITH_UNSAFE: &[&str] = &["dht", "ec", "engine"];

const LINES_MAX: usize = 700;

/// Written by tools, not by people.
const GENERATED: &[&str] = &["Cargo.lock"];

/// What names one person's or one place's machine, in two parts so that this file passes too.
const FOREIGN: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("deb.deb", "ian.org"),
    ("snapshot.deb", "ian.org"),
    ("crates", ".io/"),
    ("static.rust", "-lang.org"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("registry.npm", "js.org"),
];

/// Where the formats on the drives are, with how many diagrams of bytes each has.
const FORMATS: &[(&str, usize)] = &[
    ("checkpoint", 3),
    ("directory", 1),
    ("frame", 2),
    ("identity", 1),
    ("label", 1),
    ("node/roster", 1),
    ("parts", 1),
    ("record", 1),
    ("stamp", 1),
    ("trailer", 1),
];

struct SourceFile {
    /// From the root of the checkout, with `/`.
    name: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies in a folder of the workspace")
        .to_path_buf()
}

/// What cargo-fuzz leaves beside its targets, which git ignores.
fn is_of_fuzzing(name: &str) -> bool {
    ["target", "corpus", "artifacts", "coverage", "Cargo.lock"]
        .iter()
        .any(|left| name.ends_with(&format!("/fuzz/{left}")))
}

/// Every text file of the checkout but build output and git's own.
fn sources() -> Vec<SourceFile> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the checkout can be read") {
            let path = entry.expect("a folder of the checkout can be read").path();
            let name = path
                .strip_prefix(&root)
                .expect("the walk stays below the root")
                .to_string_lossy()
                .into_owned();
            if path.is_symlink() || name == "target" || name == ".git" || is_of_fuzzing(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push(SourceFile { name, text });
            }
        }
    }
    assert!(
        found.iter().any(|file| file.name == "Cargo.toml"),
        "the walk found no workspace in {}",
        root.display()
    );
    found
}

fn rust_sources() -> impl Iterator<Item = SourceFile> {
    sources()
        .into_iter()
        .filter(|file| file.name.ends_with(".rs"))
}

/// The line without a comment that runs to its end. Good enough for Rust as rustfmt writes it.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn opens_unsafe(line: &str) -> bool {
    let code = code_of(line);
    let mut words = code
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '{' || c == '('))
        .filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word.starts_with("unsafe{") || word.starts_with("unsafe(") {
            return true;
        }
        if word == "unsafe" {
            // `unsafe` before a string or at a line's end would be prose or a block's opening.
            return match words.next() {
                None => code.trim_end().ends_with("unsafe"),
                Some(next) => {
                    next.starts_with('{') || ["fn", "impl", "extern", "trait"].contains(&next)
                }
            };
        }
    }
    false
}

fn report(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}\n  {}", offenders.join("\n  "));
}

/// The folders of the workspace's members, from its manifest.
fn members() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest is there");
    let list = manifest
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .expect("the manifest lists its members")
        .0;
    let members: Vec<String> = list
        .split(',')
        .map(|member| member.trim().trim_matches('"').to_owned())
        .filter(|member| !member.is_empty())
        .collect();
    assert!(members.len() >= 8, "only {members:?} are members");
    members
}

#[test]
fn unsafe_is_told_from_prose() {
    for line in [
        "    unsafe {",
        "unsafe impl<T: Send> Sync for Slot<T> {}",
        "pub(super) unsafe fn fill(&self)",
        "state = unsafe { isal::crc(part) };",
        "#[unsafe(no_mangle)]",
        "unsafe extern \"C\" {",
        "let x = unsafe",
    ] {
        assert!(opens_unsafe(line), "{line}");
    }
    for line in [
        "#![forbid(unsafe_code)]",
        "// unsafe { in a comment }",
        "//! the only unsafe code of the crate",
        "let message = \"unsafe words\";",
    ] {
        assert!(!opens_unsafe(line), "{line}");
    }
}

#[test]
fn unsafe_code_is_only_where_the_list_allows_it() {
    let mut offenders = Vec::new();
    let mut used = Vec::new();
    for file in rust_sources().filter(|file| !file.name.starts_with("ffi/")) {
        if file.name == "tests/tests/tree.rs" {
            continue;
        }
        let listed = UNSAFE_FILES.contains(&file.name.as_str());
        for (number, line) in file.text.lines().enumerate() {
            if opens_unsafe(line) {
                if listed {
                    used.push(file.name.clone());
                } else {
                    offenders.push(format!("{}:{}", file.name, number + 1));
                }
            }
        }
    }
    report("unsafe code outside of ffi/ and the list:", &offenders);
    for file in UNSAFE_FILES {
        assert!(
            used.iter().any(|name| name == file),
            "{file} has no unsafe code any more: take it off the list"
        );
    }
}

#[test]
fn every_crate_outside_ffi_forbids_unsafe_code() {
    let mut offenders = Vec::new();
    for member in members() {
        if member.starts_with("ffi/") {
            continue;
        }
        let wanted = if CRATES_WITH_UNSAFE.contains(&member.as_str()) {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        for entry in ["src/lib.rs", "src/main.rs"] {
            if let Ok(text) = fs::read_to_string(root().join(&member).join(entry))
                && !text.lines().any(|line| line.trim() == wanted)
            {
                offenders.push(format!("{member}/{entry} lacks {wanted}"));
            }
        }
    }
    report("unsafe code is not ruled out:", &offenders);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let offenders: Vec<String> = members()
        .into_iter()
        .filter(|member| {
            let manifest = fs::read_to_string(root().join(member).join("Cargo.toml"))
                .expect("a member has a manifest");
            !manifest.contains("[lints]\nworkspace = true")
        })
        .collect();
    report("crates without `[lints] workspace = true`:", &offenders);
}

#[test]
fn no_file_is_longer_than_a_person_can_hold_in_mind() {
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|file| !GENERATED.contains(&file.name.as_str()))
        .filter(|file| file.text.lines().count() > LINES_MAX)
        .map(|file| format!("{}: {} lines", file.name, file.text.lines().count()))
        .collect();
    report(
        &format!("files of more than {LINES_MAX} lines:"),
        &offenders,
    );
}

/// The diagrams of bytes in a file's own documentation.
fn diagrams(text: &str) -> Vec<String> {
    let header: String = text
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    let blocks = header.split("```text\n").skip(1);
    blocks
        .filter_map(|block| block.split("```").next())
        .filter(|block| !block.contains('►'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_format_in_the_documents_is_that_of_the_code() {
    let root = root();
    let document =
        fs::read_to_string(root.join("docs/format.md")).expect("docs/format.md is there");
    let mut offenders = Vec::new();
    for (file, count) in FORMATS {
        let name = format!("engine/src/store/{file}.rs");
        let text = fs::read_to_string(root.join(&name)).expect("the file of a format is there");
        let diagrams = diagrams(&text);
        if diagrams.len() != *count {
            offenders.push(format!("{name}: {} diagrams, not {count}", diagrams.len()));
        }
        for diagram in diagrams.iter().filter(|one| !document.contains(*one)) {
            offenders.push(format!("{name}: docs/format.md lacks\n{diagram}"));
        }
    }
    report("formats that docs/format.md has otherwise:", &offenders);
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let mut offenders = Vec::new();
    for file in sources() {
        if GENERATED.contains(&file.name.as_str()) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            for (first, second) in FOREIGN {
                let needle = format!("{first}{second}");
                if line.contains(&needle) {
                    offenders.push(format!("{}:{}: {needle}", file.name, number + 1));
                }
            }
        }
    }
    report("paths or hosts of one machine or place:", &offenders);
}

#[test]
fn no_work_is_left_behind_in_a_comment() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
    ];
    let mut offenders = Vec::new();
    for file in sources() {
        for (number, line) in file.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                offenders.push(format!("{}:{}", file.name, number + 1));
            }
        }
    }
    report("unfinished work noted in a comment:", &offenders);
}

#[test]
fn what_starts_with_a_shebang_can_be_run() {
    let mut offenders = Vec::new();
    // What the lab puts into its guest has its mode set there.
    for file in sources()
        .iter()
        .filter(|file| file.text.starts_with("#!/") && !file.name.starts_with("tests/lab/boot/"))
    {
        let mode = fs::metadata(root().join(&file.name))
            .expect("the file was read just now")
            .permissions()
            .mode();
        if mode & 0o111 == 0 {
            offenders.push(file.name.clone());
        }
    }
    report("scripts that are not executable:", &offenders);
}

/// What a patch expects to find, for each of its places: the file, and lines that follow each other there.
fn expected_lines(patch: &str) -> Vec<(String, Vec<String>)> {
    let mut file = String::new();
    let mut places: Vec<(String, Vec<String>)> = Vec::new();
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            file = name.to_owned();
        } else if line.starts_with("@@ ") {
            places.push((file.clone(), Vec::new()));
        } else if let (Some((_, lines)), false) = (places.last_mut(), line.starts_with("+++ ")) {
            let there = line.strip_prefix(' ').or_else(|| line.strip_prefix('-'));
            lines.extend(there.map(str::to_owned));
        }
    }
    places
}

#[test]
fn mutants_fit_the_tree() {
    let folder = root().join("tests/mutants");
    let mut count = 0;
    for patch in fs::read_dir(folder).expect("the mutants are there") {
        let path = patch.expect("a folder can be listed").path();
        let text = fs::read_to_string(&path).expect("a patch is text");
        for (file, lines) in expected_lines(&text) {
            let source = fs::read_to_string(root().join(&file)).unwrap_or_default();
            let source: Vec<&str> = source.lines().collect();
            let fits = source.windows(lines.len()).any(|there| *there == lines[..]);
            assert!(
                fits,
                "{} is about what {file} has no more: make it anew",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 10, "only {count} places are looked at");
}
