//! Finds SPDK, compiles the shim against it, generates the bindings and says how to link.
//!
//! Looked for in this order: `SPDK_DIR` (a build tree), `pkg-config` (an installation), and the
//! build that `scripts/bootstrap` keeps per user. Archives are linked whole, because SPDK's
//! modules register themselves in constructors that nothing else refers to.
//!
//! Dependents read `DEP_ORIEL_SPDK_DPDK_INCLUDE` and `DEP_ORIEL_SPDK_DPDK_LIB`. Only the part of
//! DPDK that SPDK itself needs is linked here; `oriel-dpdk-sys` adds the poll-mode drivers.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// What we use of SPDK, whatever release it is: each is linked where it exists.
const SPDK_LIBS: &[&str] = &[
    // Only v20.07 to v21.04 keep subsystem start-up in the event library; later it is in `init`.
    "event",
    "init",
    "conf",
    "log",
    "util",
    "json",
    "jsonrpc",
    "rpc",
    "thread",
    "trace",
    "notify",
    "dma",
    "keyring",
    "keyring_file",
    "sock",
    "sock_posix",
    "accel",
    "ioat",
    "vmd",
    "env_dpdk",
    "nvme",
    "bdev",
    "bdev_rpc",
    "bdev_malloc",
    "bdev_null",
    "bdev_aio",
    "bdev_uring",
    "bdev_nvme",
    "bdev_error",
    "bdev_delay",
    "blob",
    "blob_bdev",
    "nvmf",
    "rdma",
    "rdma_provider",
    "rdma_utils",
    "event_bdev",
    "event_accel",
    "event_sock",
    "event_vmd",
    "event_iobuf",
    "event_keyring",
    "xor",
];

/// What SPDK needs of DPDK.
const DPDK_LIBS: &[&str] = &[
    "eal",
    "kvargs",
    "log",
    "telemetry",
    "argparse",
    "mempool",
    "mempool_ring",
    "ring",
    "pci",
    "bus_pci",
];

/// What v20.07's archives need of the system; newer releases say it themselves, in a
/// pkg-config file that their build tree has too.
const SYSTEM_LIBS: &[&str] = &[
    "ibverbs", "rdmacm", "uring", "uuid", "ssl", "crypto", "numa", "aio", "rt", "m", "dl",
    "pthread",
];

/// What stands in `.mended` of a tree with the mends of scripts/spdk-20.07.sh that a node cannot do without: its `RECIPE_MENDS`.
const MENDS: &str = "2";

struct Spdk {
    /// Where it was found, for messages.
    origin: String,
    includes: Vec<PathBuf>,
    lib_dirs: Vec<PathBuf>,
    dpdk_include: Option<PathBuf>,
    dpdk_lib: Option<PathBuf>,
    /// Built by scripts/bootstrap, which mends what is broken in v20.07.
    mended: bool,
}

fn main() {
    println!("cargo:rerun-if-env-changed=SPDK_DIR");
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    let spdk = match find() {
        Ok(spdk) => spdk,
        Err(why) => {
            eprintln!("{why}");
            exit(1);
        }
    };
    compile_shim(&spdk);
    bind();
    link(&spdk);
    let release = release(&spdk);
    println!("cargo:version={release}");
    println!("cargo:rustc-env=ORIEL_SPDK_RELEASE={release}");
    println!("cargo:rustc-check-cfg=cfg(spdk_mended)");
    if spdk.mended {
        println!("cargo:rustc-cfg=spdk_mended");
    }
    if let Some(dir) = &spdk.dpdk_include {
        println!("cargo:dpdk_include={}", dir.display());
    }
    if let Some(dir) = &spdk.dpdk_lib {
        println!("cargo:dpdk_lib={}", dir.display());
    }
    println!("cargo:dir={}", spdk.origin);
    let dirs = std::env::join_paths(&spdk.lib_dirs).expect("no directory's name has a colon");
    println!("cargo:lib_dirs={}", dirs.display());
}

fn find() -> Result<Spdk, String> {
    if let Some(dir) = env::var_os("SPDK_DIR").filter(|dir| !dir.is_empty()) {
        return build_tree(Path::new(&dir)).ok_or_else(|| {
            format!(
                "SPDK_DIR is {}, which holds no finished SPDK build (build/lib/libspdk_bdev.a and \
                 dpdk/build/lib are missing): build SPDK there, or unset SPDK_DIR and run scripts/bootstrap",
                dir.display()
            )
        });
    }
    if let Some(spdk) = installed() {
        return Ok(spdk);
    }
    let kept = cache_dir().map(|dir| dir.join("oriel/spdk"));
    if let Some(kept) = &kept {
        println!("cargo:rerun-if-changed={}", kept.display());
        if kept.join(".complete").exists()
            && let Some(spdk) = kept.canonicalize().ok().and_then(|dir| build_tree(&dir))
        {
            return Ok(spdk);
        }
    }
    Err(
        "no SPDK found: run scripts/bootstrap, or set SPDK_DIR to the build tree of your own"
            .into(),
    )
}

fn cache_dir() -> Option<PathBuf> {
    env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
}

fn build_tree(dir: &Path) -> Option<Spdk> {
    let lib = dir.join("build/lib");
    let dpdk = dir.join("dpdk/build");
    if !lib.join("libspdk_bdev.a").exists() || !dpdk.join("lib/librte_eal.a").exists() {
        return None;
    }
    let mut lib_dirs = vec![lib, dpdk.join("lib")];
    lib_dirs.push(dir.join("isa-l-crypto/.libs"));
    Some(Spdk {
        origin: dir.display().to_string(),
        includes: vec![
            dir.join("include"),
            dir.join("isa-l/.."),
            dpdk.join("include"),
        ],
        lib_dirs,
        dpdk_include: Some(dpdk.join("include")),
        dpdk_lib: Some(dpdk.join("lib")),
        mended: fs::read_to_string(dir.join(".mended")).is_ok_and(|mends| mends.trim() == MENDS),
    })
}

fn installed() -> Option<Spdk> {
    let probe = |name: &str| {
        pkg_config::Config::new()
            .cargo_metadata(false)
            .statik(true)
            .probe(name)
            .ok()
    };
    let spdk = probe("spdk_nvmf")?;
    let dpdk = probe("spdk_env_dpdk");
    let mut lib_dirs = spdk.link_paths;
    lib_dirs.extend(dpdk.into_iter().flat_map(|lib| lib.link_paths));
    for name in ["spdk_dpdklibs", "spdk_syslibs", "libdpdk"] {
        lib_dirs.extend(probe(name).into_iter().flat_map(|lib| lib.link_paths));
    }
    let dpdk_lib = lib_dirs
        .iter()
        .find(|dir| dir.join("librte_eal.a").exists())
        .cloned();
    let beside = |dir: &PathBuf| dir.parent().map(|up| up.join("include"));
    let dpdk_include = dpdk_lib
        .iter()
        .filter_map(beside)
        .find(|dir| dir.join("rte_eal.h").exists());
    Some(Spdk {
        origin: "pkg-config".into(),
        includes: spdk
            .include_paths
            .into_iter()
            .chain(dpdk_include.clone())
            .collect(),
        lib_dirs,
        dpdk_include,
        dpdk_lib,
        mended: false,
    })
}

fn release(spdk: &Spdk) -> String {
    let header = spdk
        .includes
        .iter()
        .map(|dir| dir.join("spdk/version.h"))
        .find(|path| path.exists());
    let text = header
        .and_then(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let number = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix("#define ")?
                    .trim_start()
                    .strip_prefix(name)
            })
            .map_or("?", str::trim)
    };
    format!(
        "{}.{:0>2}",
        number("SPDK_VERSION_MAJOR"),
        number("SPDK_VERSION_MINOR")
    )
}

fn compile_shim(spdk: &Spdk) {
    let mut build = cc::Build::new();
    for dir in &spdk.includes {
        build.flag("-isystem").flag(dir.as_os_str());
    }
    let sources = std::fs::read_dir("shim").expect("the shim is part of this crate");
    for entry in sources.flatten() {
        if entry.path().extension().is_some_and(|ext| ext == "c") {
            build.file(entry.path());
        }
    }
    build
        .std("gnu11")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true);
    build
        .flag("-Wno-unused-parameter")
        .flag("-Wno-missing-field-initializers");
    build.flag("-march=x86-64-v2").compile("oriel_spdk_shim");
}

fn bind() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bindings = bindgen::Builder::default()
        .header("shim/oriel.h")
        .allowlist_function("(oriel|spdk)_.*")
        .allowlist_type("oriel_.*")
        .allowlist_var("ORIEL_.*")
        .opaque_type("spdk_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .blocklist_type("iovec")
        .raw_line("use libc::iovec;")
        .generate_comments(false)
        .use_core()
        .generate();
    match bindings {
        Ok(bindings) => {
            bindings
                .write_to_file(out.join("bindings.rs"))
                .expect("OUT_DIR is writable");
        }
        Err(error) => {
            eprintln!(
                "bindgen could not read shim/oriel.h ({error}): is libclang-dev installed? run scripts/bootstrap"
            );
            exit(1);
        }
    }
}

fn link(spdk: &Spdk) {
    for dir in &spdk.lib_dirs {
        println!("cargo:rustc-link-search=native={}", dir.display());
    }
    let archive = |name: &str| {
        spdk.lib_dirs
            .iter()
            .any(|dir| dir.join(format!("lib{name}.a")).exists())
    };
    let names = SPDK_LIBS.iter().map(|name| format!("spdk_{name}"));
    let names = names.chain(DPDK_LIBS.iter().map(|name| format!("rte_{name}")));
    let obsolete = |name: &str| name == "spdk_event" && archive("spdk_init");
    for name in names.filter(|name| archive(name) && !obsolete(name)) {
        println!("cargo:rustc-link-lib=static:-bundle,+whole-archive={name}");
    }
    if archive("isal_crypto") {
        println!("cargo:rustc-link-lib=static:-bundle=isal_crypto");
    }
    let mut system: Vec<String> = SYSTEM_LIBS.iter().map(ToString::to_string).collect();
    for dir in &spdk.lib_dirs {
        let syslibs =
            std::fs::read_to_string(dir.join("pkgconfig/spdk_syslibs.pc")).unwrap_or_default();
        let words = syslibs
            .lines()
            .filter_map(|line| line.strip_prefix("Libs:"))
            .flat_map(str::split_whitespace);
        system.extend(
            words
                .filter_map(|word| word.strip_prefix("-l"))
                .map(String::from),
        );
    }
    system.sort();
    system.dedup();
    for name in system.iter().filter(|name| library_exists(name)) {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
}

/// Optional parts of SPDK (RDMA, io_uring) need their library only where SPDK was built with them.
fn library_exists(name: &str) -> bool {
    let cc = env::var("CC").unwrap_or_else(|_| "cc".into());
    let file = format!("lib{name}.so");
    let found = Command::new(cc)
        .arg(format!("-print-file-name={file}"))
        .output();
    found.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim() != file)
        || matches!(name, "rt" | "m" | "dl" | "pthread")
}
