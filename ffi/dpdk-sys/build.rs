//! Compiles the shim against the DPDK that SPDK carries, generates the bindings, and links the
//! part of DPDK that SPDK itself does without: ethdev and the poll-mode drivers.
//!
//! `oriel-spdk-sys` finds the build and links the EAL, mempools and rings; one process has one
//! DPDK, so nothing is looked for here. Archives are linked whole, because drivers register
//! themselves in constructors that nothing else refers to.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Libraries that ports and drivers need, by the names of all releases; each is linked where it
/// exists. Those that SPDK needs as well are `oriel-spdk-sys`'s to link, and not in this list.
const LIBRARIES: &[&str] = &[
    "ethdev",
    "mbuf",
    "net",
    "meter",
    "hash",
    "rcu",
    "timer",
    "stack",
    "gso",
    "security",
    "cryptodev",
    "bus_vdev",
    "bus_auxiliary",
    "common_mlx5",
];

/// Poll-mode drivers: `librte_pmd_*` before DPDK 20.11, `librte_net_*` since. These are the ones
/// that scripts/bootstrap builds; other drivers may need system libraries that are not known here.
const DRIVERS: &[&str] = &["af_packet", "tap", "memif", "ring", "virtio", "mlx5"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    let (Some(include), Some(lib)) = (
        directory("DEP_ORIEL_SPDK_DPDK_INCLUDE"),
        directory("DEP_ORIEL_SPDK_DPDK_LIB"),
    ) else {
        stop(
            "SPDK was found but not the DPDK it was built with: run scripts/bootstrap, or set \
              SPDK_DIR to a build tree that has dpdk/build/include and dpdk/build/lib",
        );
    };
    if !include.join("rte_ethdev.h").exists() || !lib.join("librte_ethdev.a").exists() {
        stop(&format!(
            "the DPDK in {} was built without ethdev: run scripts/bootstrap, or build SPDK's DPDK \
             with DPDK_LIBS including ethdev",
            lib.display()
        ));
    }
    compile_shim(&include);
    bind();
    link(&lib);
}

fn directory(variable: &str) -> Option<PathBuf> {
    println!("cargo:rerun-if-env-changed={variable}");
    env::var_os(variable)
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

fn stop(sentence: &str) -> ! {
    eprintln!("{sentence}");
    exit(1);
}

fn compile_shim(include: &Path) {
    let mut build = cc::Build::new();
    build
        .file("shim/shim.c")
        .flag("-isystem")
        .flag(include.as_os_str());
    build.flag("-include").flag("rte_config.h");
    // Some functions that we use were marked experimental in the oldest releases.
    build.define("ALLOW_EXPERIMENTAL_API", None);
    // DPDK's inline functions are the data path, so they are optimised in debug builds too. What
    // a compiler of tomorrow warns of in them is no reason to fail.
    build
        .std("gnu11")
        .opt_level(2)
        .warnings(true)
        .extra_warnings(true);
    build.flag("-Wno-unused-parameter");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        build.flag("-march=x86-64-v2");
        // Headers before 21.02 use AVX2 where the library was built for it, whatever the
        // compiler was told; then the program needs such a CPU in any case.
        let config = fs::read_to_string(include.join("rte_build_config.h")).unwrap_or_default();
        for (mark, flag) in [
            ("CPUFLAG_AVX2 ", "-mavx2"),
            ("CPUFLAG_AVX512F ", "-mavx512f"),
        ] {
            if config.contains(&format!("#define RTE_MACHINE_{mark}")) {
                build.flag(flag);
            }
        }
    }
    build.compile("oriel_dpdk_shim");
}

fn bind() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bindings = bindgen::Builder::default()
        .header("shim/shim.h")
        .allowlist_function("oriel_dpdk_.*")
        .allowlist_type("oriel_dpdk_.*")
        .allowlist_var("ORIEL_DPDK_.*")
        .opaque_type("rte_.*")
        .use_core()
        .generate();
    match bindings {
        Ok(bindings) => {
            bindings
                .write_to_file(out.join("bindings.rs"))
                .expect("OUT_DIR is writable");
        }
        Err(error) => stop(&format!(
            "bindgen could not read shim/shim.h ({error}): is libclang installed? run scripts/bootstrap"
        )),
    }
}

fn link(lib: &Path) {
    println!("cargo:rustc-link-search=native={}", lib.display());
    let archive = |name: &str| lib.join(format!("librte_{name}.a")).exists();
    let drivers = DRIVERS
        .iter()
        .flat_map(|name| [format!("net_{name}"), format!("pmd_{name}")]);
    let names = LIBRARIES
        .iter()
        .map(|name| (*name).to_owned())
        .chain(drivers);
    for name in names.filter(|name| archive(name)) {
        println!(
            "cargo:rerun-if-changed={}",
            lib.join(format!("librte_{name}.a")).display()
        );
        println!("cargo:rustc-link-lib=static:-bundle,+whole-archive=rte_{name}");
    }
    if archive("common_mlx5") {
        for name in ["mlx5", "ibverbs"] {
            if library_exists(name) {
                println!("cargo:rustc-link-lib=dylib={name}");
            }
        }
    }
}

/// A DPDK built to load rdma-core at run time does not need it to link.
fn library_exists(name: &str) -> bool {
    let file = format!("lib{name}.so");
    let cc = env::var("CC").unwrap_or_else(|_| "cc".into());
    let found = Command::new(cc)
        .arg(format!("-print-file-name={file}"))
        .output();
    found.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim() != file)
}
