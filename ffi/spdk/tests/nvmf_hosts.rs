//! Which hosts an NVMe-oF target lets in, and how those that it does not any more are cut off.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics where it stands"
)]

mod nvmf_support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nvmf_support::host::Host;
use nvmf_support::{free_address, nqn, turn, with_rig};
use oriel_spdk::keyring::{self, KeyringError};
use oriel_spdk::nvmf::{Address, DhChap, HostError, has_dh_chap, has_disconnect};
use oriel_spdk::{SPDK_RELEASE, isolate};

#[test]
#[ignore = "the other process of these tests, which start it themselves"]
fn host_process() {
    nvmf_support::host::main();
}

/// Tells a host of a key and has it attach with that.
async fn attach_with_key(
    host: &mut Host,
    address: Address,
    (subsystem, name): (&str, &str),
    (key, path): (&str, &Path),
) -> String {
    let known = host.ask(&format!("key {key} {}", path.display())).await;
    assert_eq!(known, "ok");
    let (ip, port) = (address.socket.ip(), address.socket.port());
    host.ask(&format!("attach {ip} {port} {subsystem} {name} {key}"))
        .await
}

#[test]
fn only_the_hosts_that_are_allowed_connect() {
    let _turn = turn();
    isolate::run("only_the_hosts_that_are_allowed_connect", || {
        with_rig(|rig| async move {
            rig.malloc("Mem0").await;
            let target = rig.target().await;
            rig.serve_elsewhere(target.poll_groups());
            let address = free_address();
            let running = rig.open_subsystem(&target, "s", "Mem0", address).await;
            let paused = running.pause().await.unwrap();
            paused.allow_any_host(false).unwrap();
            paused.add_host(&nqn("friend")).unwrap();
            let again = paused.add_host(&nqn("friend"));
            assert_eq!(
                again,
                Err(HostError::Already {
                    host: nqn("friend")
                })
            );
            let running = paused.resume().await.unwrap();

            let mut host = Host::start().await;
            let name = nqn("s").to_string();
            let (friend, stranger) = (nqn("friend").to_string(), nqn("stranger").to_string());
            let refused = host.attach(address, &name, &stranger).await;
            assert!(refused.starts_with("failed: "), "{refused}");
            assert_eq!(host.attach(address, &name, &friend).await, "ok");
            assert_eq!(host.ask("write 1 5").await, "ok");
            assert_eq!(host.ask("detach").await, "ok");

            let paused = running.pause().await.unwrap();
            let unknown = paused.remove_host(&nqn("stranger"));
            assert_eq!(
                unknown,
                Err(HostError::NotAllowed {
                    host: nqn("stranger")
                })
            );
            paused.remove_host(&nqn("friend")).unwrap();
            paused.resume().await.unwrap();
            let refused = host.attach(address, &name, &friend).await;
            assert!(refused.starts_with("failed: "), "{refused}");
            host.end().await;
            target.shut_down().await.unwrap();
        });
    });
}

#[test]
fn a_host_that_is_not_allowed_any_more_can_be_cut_off() {
    let _turn = turn();
    isolate::run("a_host_that_is_not_allowed_any_more_can_be_cut_off", || {
        with_rig(|rig| async move {
            rig.malloc("Mem0").await;
            let target = rig.target().await;
            rig.serve_elsewhere(target.poll_groups());
            let address = free_address();
            let running = rig.open_subsystem(&target, "s", "Mem0", address).await;
            let mut host = Host::start().await;
            let (name, friend) = (nqn("s").to_string(), nqn("friend").to_string());
            assert_eq!(host.attach(address, &name, &friend).await, "ok");
            assert_eq!(host.ask("write 1 5").await, "ok");
            let paused = running.pause_for_hosts().await.unwrap();
            paused.allow_any_host(false).unwrap();
            let running = paused.resume().await.unwrap();
            if has_disconnect() {
                let connected = running.connected_hosts(&rig.sub).await.unwrap();
                assert_eq!(connected, BTreeSet::from([friend.clone()]));
                running.disconnect(&friend).await.unwrap();
                // It may not come back; before v26.05 its end is not waited for.
                while !running.connected_hosts(&rig.sub).await.unwrap().is_empty() {}
            } else {
                let release = SPDK_RELEASE;
                let refused = Err(HostError::NoDisconnect { release });
                assert_eq!(running.connected_hosts(&rig.sub).await, refused);
                let refused = Err(HostError::NoDisconnect { release });
                assert_eq!(running.disconnect(&friend).await, refused);
            }
            drop(host);
            target.shut_down().await.unwrap();
        });
    });
}

/// A file with a DH-HMAC-CHAP secret of 32 bytes: base64 of the bytes and their CRC-32, no transformation.
fn key_file(dir: &Path, name: &str, secret: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, secret).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

// As nvme gen-dhchap-key prints them, for secrets of the bytes 1 and of the bytes 2.
const SECRET: &str = "DHHC-1:00:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQHMnzFi:";
const OTHER_SECRET: &str = "DHHC-1:00:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgJvwX3v:";

#[test]
fn a_host_that_must_authenticate_needs_the_right_key() {
    let _turn = turn();
    isolate::run("a_host_that_must_authenticate_needs_the_right_key", || {
        with_rig(|rig| async move {
            let dir = tempfile::tempdir().unwrap();
            let right = key_file(dir.path(), "right", SECRET);
            let wrong = key_file(dir.path(), "wrong", OTHER_SECRET);
            let added = keyring::add_file(&rig.sub, "right", &right).await;
            if !has_dh_chap() {
                assert!(matches!(added, Err(KeyringError::Unsupported { .. })));
                return;
            }
            added.unwrap();
            let absent = keyring::add_file(&rig.sub, "absent", &dir.path().join("absent")).await;
            assert!(matches!(absent, Err(KeyringError::NoFile { .. })));
            let twice = keyring::add_file(&rig.sub, "right", &right).await;
            assert!(matches!(twice, Err(KeyringError::Refused { .. })));

            rig.malloc("Mem0").await;
            let target = rig.target().await;
            rig.serve_elsewhere(target.poll_groups());
            let address = free_address();
            let running = rig.open_subsystem(&target, "s", "Mem0", address).await;
            let paused = running.pause().await.unwrap();
            paused.allow_any_host(false).unwrap();
            let keys = |host_key: &str| DhChap {
                host_key: host_key.into(),
                controller_key: None,
            };
            assert_eq!(
                paused.add_host_with_keys(&nqn("friend"), &keys("unknown")),
                Err(HostError::NoKey {
                    host: nqn("friend")
                })
            );
            paused
                .add_host_with_keys(&nqn("friend"), &keys("right"))
                .unwrap();
            paused.resume().await.unwrap();

            let mut host = Host::start().await;
            let (name, friend) = (nqn("s").to_string(), nqn("friend").to_string());
            let refused = host.attach(address, &name, &friend).await;
            assert!(refused.starts_with("failed: "), "without a key: {refused}");
            let refused =
                attach_with_key(&mut host, address, (&name, &friend), ("wrong", &wrong)).await;
            assert!(
                refused.starts_with("failed: "),
                "with a wrong key: {refused}"
            );
            let attached =
                attach_with_key(&mut host, address, (&name, &friend), ("right", &right)).await;
            assert_eq!(attached, "ok");
            assert_eq!(host.ask("write 1 5").await, "ok");
            assert_eq!(host.ask("verify 1 5").await, "ok");
            assert_eq!(host.ask("detach").await, "ok");
            host.end().await;
            target.shut_down().await.unwrap();
            keyring::remove_file(&rig.sub, "right").await.unwrap();
        });
    });
}
