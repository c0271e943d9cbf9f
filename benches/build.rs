//! Links SPDK's logical volumes, the peer that a node's windows are measured beside. Nobody else has them: their module looks
//! into every device that comes to be.

use std::env;

/// The module and what it stands on.
const LIBRARIES: [&str; 2] = ["spdk_lvol", "spdk_bdev_lvol"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(has_lvol)");
    let dirs = env::var_os("DEP_ORIEL_SPDK_LIB_DIRS").unwrap_or_default();
    let dirs: Vec<_> = env::split_paths(&dirs).collect();
    let path_of = |name: &&str| {
        let paths = dirs.iter().map(|dir| dir.join(format!("lib{name}.a")));
        { paths }.find(|path| path.exists())
    };
    let paths: Option<Vec<_>> = LIBRARIES.iter().map(path_of).collect();
    let Some(paths) = paths else {
        return;
    };
    // All of them, since nothing names what they register; in the program alone, since its tests are without SPDK.
    println!("cargo:rustc-link-arg-bins=-Wl,--whole-archive");
    for path in paths {
        println!("cargo:rustc-link-arg-bins={}", path.display());
    }
    println!("cargo:rustc-link-arg-bins=-Wl,--no-whole-archive");
    println!("cargo:rustc-cfg=has_lvol");
}
