//! Pins of blobs in parts.

use super::*;

fn cache(quota_blocks: u64) -> NodeOptions {
    let realm = RealmOptions {
        cache: Some(Policy::Lru),
        quota_blocks: Some(quota_blocks),
        ..RealmOptions::new(REALM)
    };
    NodeOptions {
        drive: OpenOptions {
            realms: vec![realm],
            ..options().drive
        },
        ..options()
    }
}

/// Has the drive's log alone make room, which knows nothing of blobs in parts, until one of these has gone.
async fn evict_one_of(keys: &[Key]) {
    let drive = SpdkDrive::load("a").await.unwrap();
    let options = cache(400).drive;
    let index = index_in_memory(options.blobs_max).unwrap();
    let (log, _) = open(drive.clone(), index, &options).await.unwrap();
    let log = Rc::new(log);
    let run = {
        let log = log.clone();
        spawn_local("log", async move { log.run().await }).unwrap()
    };
    let all = (1 << keys.len()) - 1;
    let mut number = 0;
    while log.probe(REALM, keys) == all {
        let blob = content(number);
        let put = log.put(REALM, key(number), KeyKind::Name, &blob);
        assert_eq!(put.await, Ok(Put::Created));
        number += 1;
    }
    log.close();
    run.await.unwrap();
    drop(log);
    drive.close().await.unwrap();
}

#[test]
fn a_blob_of_which_a_part_has_gone_is_not_pinned_and_goes() {
    on_two_cores(
        "pins::a_blob_of_which_a_part_has_gone_is_not_pinned_and_goes",
        |reactors, sub| async move {
            memory(&sub, "a").await;
            let minute = Duration::from_secs(60);
            let large = key(1000);
            let bytes: Vec<u8> = (0..MIB + MIB / 2).map(|at| (at / 3) as u8).collect();
            let seats = vec![seat(&reactors, 0, "a").await];
            format_node(&seats, STORE, &FORMAT).await.unwrap();
            let (store, keeper) = opened_with(seats, cache(1000)).await;
            let put = store.put(REALM, large, KeyKind::Name, &bytes).await;
            assert_eq!(put, Ok(Put::Created));
            let manifest = store.manifest(REALM, &large).await.unwrap().unwrap();
            let parts: Vec<Key> = manifest.part_keys().collect();
            assert!(parts.len() > 2);
            let until = store.pin(REALM, &large, minute).await;
            assert!(matches!(until, Ok(Some(_))), "{until:?}");
            store.close();
            keeper.await;

            evict_one_of(&parts).await;
            let seats = vec![seat(&reactors, 0, "a").await];
            let (store, keeper) = opened_with(seats, cache(1000)).await;
            assert_eq!(store.probe(REALM, &[large]).await, Ok(1), "its manifest is");
            assert_eq!(store.pin(REALM, &large, minute).await, Ok(None));
            assert_eq!(store.probe(REALM, &[large]).await, Ok(0));
            assert_eq!(store.probe(REALM, &parts).await, Ok(0));
            assert_eq!(store.unpin(REALM, &large).await, Ok(false));
            store.close();
            keeper.await;
            create::delete(&sub, Kind::Malloc, "a").await.unwrap();
        },
    );
}
