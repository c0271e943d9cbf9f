//! Checks for the tools that the ISA-L build needs, so that a bare machine gets one sentence instead of a stack trace.
//!
//! The archive itself is built by the `isal-sys` crate, whose own build script panics with "autogen failed" when a tool
//! is missing. This script has no build dependencies, so Cargo usually runs it first and its message is the one seen.

use std::process::{Command, ExitCode};

/// What to run to see that a tool is there, and the Debian package that brings it.
const TOOLS: [(&str, &str, &str); 6] = [
    ("autoreconf", "--version", "autoconf"),
    ("automake", "--version", "automake"),
    ("libtoolize", "--version", "libtool"),
    ("make", "--version", "make"),
    ("gcc", "--version", "gcc"),
    ("nasm", "-v", "nasm"),
];

/// The first nasm that knows the GFNI instructions; with an older one ISA-L silently leaves that code out and the link fails.
const NASM_OLDEST: (u32, u32) = (2, 14);

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");
    let on_x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let mut packages = Vec::new();
    for (tool, argument, package) in TOOLS {
        if (tool != "nasm" || on_x86) && output_of(tool, argument).is_none() {
            packages.push(package);
        }
    }
    if !packages.is_empty() {
        let packages = packages.join(" ");
        println!(
            "cargo::error=building ISA-L needs tools that are not here: install the packages {packages}"
        );
        return ExitCode::FAILURE;
    }
    if let Some((major, minor)) = output_of("nasm", "-v").as_deref().and_then(nasm_version)
        && on_x86
        && (major, minor) < NASM_OLDEST
    {
        let (want_major, want_minor) = NASM_OLDEST;
        println!(
            "cargo::error=nasm {major}.{minor} cannot assemble ISA-L's GFNI code: install nasm {want_major}.{want_minor} or newer"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The standard output of `tool argument`, or `None` when it does not run.
fn output_of(tool: &str, argument: &str) -> Option<String> {
    let output = Command::new(tool).arg(argument).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads "NASM version 2.16.01 compiled on ...".
fn nasm_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split_whitespace().nth(2)?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
