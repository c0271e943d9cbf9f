//! Blobs by their keys, and by the addresses that outlast the node.

use oriel_client::blob::{BlobError, Put};
use oriel_client::block_on;
use oriel_protocol::{Key, KeyKind, Location, Status};

use crate::host::{content, key, list, window_of};
use crate::support::{BLOCK, LONGEST, NodeProcess, OPEN, blobs, is_skipped, namespace, turn};

/// From one byte to many times the largest transfer, on both sides of each border: a block, four of them, a PUT, a transfer,
/// a block of checksums.
const SIZES: [usize; 14] = [
    1,
    4095,
    4096,
    4097,
    4 * BLOCK,
    4 * BLOCK + 1,
    131_072 - 64,
    131_072 - 63,
    131_072,
    131_073,
    1 << 20,
    1020 * BLOCK,
    1020 * BLOCK + 1,
    LONGEST,
];

/// Puts, reads, finds, lists, counts; then the node ends or is killed, and the same client reads the same addresses.
#[test]
fn blobs_go_over_the_wire_and_outlast_the_node() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let mut node = NodeProcess::start();
    let controller = node.connect(OPEN);
    assert_eq!(controller.data().transfer_bytes_max, Some(131_072));
    let raw = namespace(&controller);
    assert_eq!((raw.data().blocks, raw.data().block_bytes), (1 << 50, 4096));
    let blobs = blobs(&controller);
    let mut places: Vec<Location> = Vec::new();
    block_on(async {
        for (name, bytes) in (0_u8..).zip(SIZES) {
            let blob = content(bytes, bytes);
            assert_eq!(blobs.locate(&key(name)).await.unwrap(), None);
            assert_eq!(blobs.get(&key(name)).await.unwrap(), None);
            for expected in [Put::Created, Put::AlreadyThere] {
                let put = blobs.put(key(name), KeyKind::Name, blob.clone()).await;
                assert_eq!(put.unwrap(), expected, "{bytes}");
            }
            assert!(
                blobs.get(&key(name)).await.unwrap() == Some(blob.clone()),
                "{bytes}"
            );
            let (from, most) = (bytes / 3, bytes / 2 + 1);
            let part = blobs.get_range(&key(name), from as u64, most as u64).await;
            assert!(
                part.unwrap().unwrap() == blob[from..(from + most).min(bytes)],
                "{bytes}"
            );
            places.push(window_of(blobs.locate(&key(name)).await.unwrap()));
        }
        let content_key = Key::of_content(&content(7, 5000));
        let put = blobs
            .put(content_key, KeyKind::Content, content(7, 5000))
            .await;
        assert_eq!(put.unwrap(), Put::Created);
        let other = blobs
            .put(key(200), KeyKind::Content, content(7, 5000))
            .await;
        assert!(
            matches!(
                &other,
                Err(BlobError::Refused {
                    status: Status::OtherContent,
                    ..
                })
            ),
            "{other:?}"
        );

        let names: Vec<Key> = (0..100).map(key).collect();
        let there = blobs.probe(&names).await.unwrap();
        for (name, there) in there.into_iter().enumerate() {
            assert_eq!(there, name < SIZES.len(), "{name}");
        }
        let all = list(&blobs, &[]).await;
        assert_eq!(all.len(), SIZES.len() + 1);
        assert_eq!(all[&content_key], 5000);
        for (name, bytes) in (0_u8..).zip(SIZES) {
            assert_eq!(all[&key(name)], bytes as u64);
        }
        let some = list(&blobs, &[1]).await;
        assert!(some.len() >= 4 && some.len() < all.len());
        assert!(some.keys().all(|key| key.bytes()[0] == 1));

        assert!(blobs.delete(&content_key).await.unwrap());
        assert!(!blobs.delete(&content_key).await.unwrap());
        assert_eq!(blobs.get(&content_key).await.unwrap(), None);
        let stat = blobs.stat().await.unwrap();
        assert_eq!(stat.store.0, [0x5e; 16]);
        assert_eq!(stat.realm_blobs, SIZES.len() as u64);
        assert_eq!(stat.length_max.get(), LONGEST as u64);
        assert_eq!((stat.quota_blocks, stat.reservations), (None, 0));
        let blocks: u64 = places
            .iter()
            .map(|place| place.length.blocks() + place.length.vector_blocks())
            .sum();
        assert_eq!((stat.realm_used_blocks, stat.used_blocks), (blocks, blocks));
        assert!(stat.capacity_blocks > stat.used_blocks);
    });
    for is_killed in [false, true] {
        node = node.again(is_killed);
        block_on(async {
            for (name, bytes) in (0_u8..).zip(SIZES) {
                // By the address of before, which is the same one, and by the key.
                let place = places[usize::from(name)];
                let memory = vec![0; place.length.blocks() as usize * BLOCK];
                let (memory, read) = raw.read(place.position.0, memory).await;
                read.unwrap();
                let blob = content(bytes, bytes);
                assert!(memory[..bytes] == blob[..], "{bytes}");
                assert!(memory[bytes..].iter().all(|&byte| byte == 0));
                assert_eq!(window_of(blobs.locate(&key(name)).await.unwrap()), place);
                assert!(
                    blobs.get(&key(name)).await.unwrap() == Some(blob),
                    "{bytes}"
                );
            }
            let name = 100 + u8::from(is_killed);
            let put = blobs.put(key(name), KeyKind::Name, vec![name; 9000]).await;
            assert_eq!(put.unwrap(), Put::Created);
        });
    }
    drop((raw, blobs));
    controller.close();
    node.end();
}
