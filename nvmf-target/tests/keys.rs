//! Hosts that have to prove who they are.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

#[allow(dead_code, reason = "tests of hosts without keys use more of it")]
mod program;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::nvmf::has_dh_chap;
use oriel_spdk::{
    CoreSet, EnvOptions, SPDK_RELEASE, SpdkThread, Subsystems, block_on, isolate, keyring,
};
use program::{Program, is_skipped, nqn, only};
use serde_json::json;

// As nvme gen-dhchap-key prints them, for secrets of the bytes 1 and of the bytes 2.
const SECRET: &str = "DHHC-1:00:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQHMnzFi:\n";
const OTHER_SECRET: &str = "DHHC-1:00:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgJvwX3v:\n";

/// How often the initiator may give up.
const TRIES: usize = 30;

fn lay_down(path: &Path, secret: &str) {
    std::fs::write(path, secret).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn keyed(host: &str, key: &str) -> String {
    format!("[{{ nqn = \"{}\", key = \"{key}\" }}]", nqn(host))
}

/// Whatever is asked of the node, where SPDK has no DH-HMAC-CHAP or the file holds no secret.
#[test]
fn keys_that_cannot_be_used_are_refused_with_their_line() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("node.toml");
    let text = Program::text(4420, "\"any\"", &keyed("a", "key"));
    std::fs::write(&file, text).unwrap();
    let key = directory.path().join("key");
    lay_down(&key, SECRET);
    if has_dh_chap() {
        std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    }
    for what in ["run", "check", "format", "config"] {
        let mut orield = Command::new(env!("CARGO_BIN_EXE_orield"));
        let said = orield.arg("--config").arg(&file).arg(what).output();
        let said = said.unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && said.stdout.is_empty(), "{text}");
        assert!(text.contains("node.toml, line 26: "), "{text}");
        let words = match has_dh_chap() {
            true => ["others than its owner (mode 0644)", "chmod 600"],
            false => ["no DH-HMAC-CHAP", "SPDK v24.05 or newer"],
        };
        for word in words {
            assert!(text.contains(word), "{text}");
        }
        if !has_dh_chap() {
            assert!(text.contains(SPDK_RELEASE), "{text}");
        }
    }
}

/// Whether SPDK's initiator comes to attach. It gives up by itself where the machine is slow, which says nothing of keys.
async fn attaches(sub: &Subsystems, node: &Program, key: Option<&str>) -> bool {
    for _ in 0..TRIES {
        if attach(sub, node, key).await {
            return true;
        }
    }
    false
}

/// Has SPDK's initiator attach, and says whether it could.
async fn attach(sub: &Subsystems, node: &Program, key: Option<&str>) -> bool {
    let mut params = json!({
        "name": "Host", "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
        "trsvcid": node.port().to_string(), "subnqn": "nqn.2026-11.io.oriel:dev:cache", "hostnqn": nqn("a"),
        "num_io_queues": 1, "fabrics_connect_timeout_us": 120_000_000,
    });
    if let Some(key) = key {
        params["dhchap_key"] = json!(key);
    }
    let attached = sub.rpc().call("bdev_nvme_attach_controller", params).await;
    if attached.is_ok() {
        create::delete(sub, Kind::Nvme, "Host").await.unwrap();
    }
    attached.is_ok()
}

#[test]
fn a_host_with_a_key_has_to_know_it() {
    if is_skipped() || !has_dh_chap() {
        eprintln!("skipped: SPDK v{SPDK_RELEASE} has no DH-HMAC-CHAP");
        return;
    }
    isolate::run("a_host_with_a_key_has_to_know_it", || {
        let node = Program::start_with(|directory| {
            lay_down(&directory.join("key"), SECRET);
            lay_down(&directory.join("other"), OTHER_SECRET);
            (only(&["a"]), keyed("a", "key"))
        });
        let cores = CoreSet::allowed();
        let env = EnvOptions {
            name: format!("host-{}", std::process::id()),
            // Not the node's.
            cores: CoreSet::single(cores.iter().last().unwrap()),
            ..EnvOptions::default()
        };
        let env = env.start().unwrap();
        let thread = SpdkThread::create("host").unwrap();
        let directory = node.file().parent().unwrap().to_owned();
        block_on(&thread, async {
            let sub = Subsystems::start().await.unwrap();
            let patient = json!({ "keep_alive_timeout_ms": 600_000 });
            let set = sub.rpc().call("bdev_nvme_set_options", patient).await;
            set.unwrap();
            for (name, file) in [("first", "key"), ("second", "other")] {
                let path = directory.join(file);
                keyring::add_file(&sub, name, &path).await.unwrap();
            }
            assert!(!attach(&sub, &node, None).await, "without a key");
            assert!(!attach(&sub, &node, Some("second")).await, "a wrong key");
            assert!(attaches(&sub, &node, Some("first")).await, "the right key");
            // Another key from now on.
            node.allow(&only(&["a"]), &keyed("a", "other"));
            assert!(!attach(&sub, &node, Some("first")).await, "the old key");
            assert!(attaches(&sub, &node, Some("second")).await, "the new key");
            // None any more.
            node.allow(&only(&["a"]), &only(&["a"]));
            assert!(attaches(&sub, &node, None).await, "no key");
            sub.stop().await;
        });
        thread.exit();
        drop(env);
        node.end();
    });
}
