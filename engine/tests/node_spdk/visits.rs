//! Drives of another core, read by the core that wants to: what it sees by itself, and that nothing is given back under it.

use std::collections::BTreeMap;

use futures_channel::oneshot;

use super::*;

const OPEN: RealmId = RealmId(5);
const CACHE: RealmId = RealmId(6);
/// Blocks of each blob.
const BLOCKS: u64 = 16;

/// Realms whose reads are not checked, as those of hosts are, and one whose are.
fn unchecked() -> NodeOptions {
    let of = |id, cache| RealmOptions {
        verify: false,
        cache,
        ..RealmOptions::new(id)
    };
    let mut options = options();
    options.drive.realms = vec![
        of(OPEN, None),
        of(CACHE, Some(Policy::Lru)),
        RealmOptions::new(REALM),
    ];
    options
}

fn bytes_of(number: u64) -> Vec<u8> {
    let bytes = BLOCKS * BLOCK_BYTES as u64;
    (0..bytes)
        .map(|at| (at ^ (at >> 8) ^ (number * 37) ^ (number >> 3)) as u8)
        .collect()
}

async fn store_blob(store: &Store, realm: RealmId, number: u64) -> Result<Put, NodeError> {
    let kind = KeyKind::Name;
    store.put(realm, key(number), kind, &bytes_of(number)).await
}

struct Told(oneshot::Sender<(SpdkPayload, bool)>);

impl ReadEnd<SpdkPayload> for Told {
    fn ended(self, payload: SpdkPayload, is_filled: bool) {
        let _ = self.0.send((payload, is_filled));
    }
}

/// What is at a position, if that can be read without a task.
async fn at_once(
    store: &Store,
    realm: RealmId,
    position: Position,
    blocks: u64,
) -> Option<Vec<u8>> {
    let payload = SpdkDrive::payload(blocks as usize * BLOCK_BYTES).unwrap();
    let (tell, told) = oneshot::channel();
    let begun = store.begin_read_position(realm, position, payload, Told(tell));
    begun.ok()?;
    let (payload, is_filled) = told.await.unwrap();
    is_filled.then(|| payload.as_ref().to_vec())
}

async fn by_a_task(
    store: &Store,
    realm: RealmId,
    position: Position,
) -> Result<Vec<u8>, NodeError> {
    let payload = SpdkDrive::payload(BLOCKS as usize * BLOCK_BYTES).unwrap();
    let (payload, read) = store.read_position(realm, position, payload).await;
    read.map(|()| payload.unwrap().as_ref().to_vec())
}

async fn gets(store: &Store) -> u64 {
    let metrics = store.metrics().await;
    let realms = metrics.realms();
    let of = |realm: &RealmMetrics| realm.operation(Operation::Get).ended(Outcome::Done);
    realms.iter().map(of).sum()
}

/// Two drives, of which the second is another core's.
async fn two(reactors: &ReactorHandle, sub: &Subsystems) -> (Store, JoinHandle<()>) {
    memory(sub, "a").await;
    memory(sub, "b").await;
    let seats = vec![seat(reactors, 0, "a").await, seat(reactors, 1, "b").await];
    format_node(&seats, STORE, &FORMAT).await.unwrap();
    opened_with(seats, unchecked()).await
}

async fn over(sub: &Subsystems, (store, keeper): (Store, JoinHandle<()>)) {
    store.close();
    keeper.await;
    for name in ["a", "b"] {
        create::delete(sub, Kind::Malloc, name).await.unwrap();
    }
}

/// Where the blobs of the drive of the other core are.
async fn elsewhere(store: &Store, realm: RealmId, numbers: u64) -> BTreeMap<u64, Position> {
    let mut places = BTreeMap::new();
    for number in 0..numbers {
        let place = store.locate(realm, &key(number)).await.unwrap().unwrap();
        if store.drive_of(place.position) == Some(DriveNumber(1)) {
            places.insert(number, place.position);
        }
    }
    places
}

#[test]
fn a_core_reads_from_another_cores_drive_by_itself() {
    on_two_cores(
        "visits::a_core_reads_from_another_cores_drive_by_itself",
        |reactors, sub| async move {
            let (store, keeper) = two(&reactors, &sub).await;
            for realm in [OPEN, CACHE] {
                for number in 0..160 {
                    assert_eq!(store_blob(&store, realm, number).await, Ok(Put::Created));
                }
                let places = elsewhere(&store, realm, 160).await;
                assert!(places.len() > 40, "{}", places.len());
                // Their core is asked the first time.
                for (number, place) in &places {
                    let read = by_a_task(&store, realm, *place).await;
                    assert!(read.unwrap() == bytes_of(*number));
                }
                let mut seen = 0;
                for (number, place) in &places {
                    let bytes = bytes_of(*number);
                    if let Some(read) = at_once(&store, realm, *place, BLOCKS).await {
                        seen += 1;
                        assert!(read == bytes, "blob {number}");
                        // A part; what is beyond the window, or of another realm, is not for this way.
                        let part = at_once(&store, realm, Position(place.0 + 3), 2).await;
                        assert!(part.unwrap() == bytes[3 * BLOCK_BYTES..5 * BLOCK_BYTES]);
                        // A block of checksums follows the blob's.
                        let beyond = at_once(&store, realm, Position(place.0 + 2), BLOCKS).await;
                        assert!(beyond.is_none());
                        let other = if realm == OPEN { CACHE } else { OPEN };
                        assert!(at_once(&store, other, *place, BLOCKS).await.is_none());
                    }
                    let described = store.describe_at_once(realm, &key(*number));
                    if let Some(described) = described {
                        assert_eq!(described.location.position, *place);
                        let by_task = store.describe(realm, &key(*number)).await;
                        assert_eq!(by_task, Ok(Some(described)));
                    }
                }
                // All but the slab that still gets windows.
                assert!(seen > places.len() / 2, "{seen} of {}", places.len());
                let absent = store.describe_at_once(realm, &key(1 << 40));
                assert_eq!(absent, None);
            }
            // By their keys, checked and not, large and small, from their beginning and from within.
            for number in 1000..1160 {
                assert_eq!(put(&store, number).await, Ok(Put::Created));
            }
            for realm in [REALM, OPEN, CACHE] {
                let gets_before = gets(&store).await;
                let there = *reactors.cores().last().unwrap();
                let messages = || reactors.stats(there).unwrap().messages;
                let (mut asked, mut messages_before) = (0, 0);
                for round in 0..3 {
                    if round == 1 {
                        messages_before = messages();
                    }
                    for number in 0..160 {
                        let (number, bytes) = match realm {
                            REALM => (1000 + number, content(1000 + number)),
                            _ => (number, bytes_of(number)),
                        };
                        let whole = bytes.len().next_multiple_of(BLOCK_BYTES);
                        let offset = match round {
                            2 if whole > 5 * BLOCK_BYTES => BLOCK_BYTES,
                            _ => 0,
                        };
                        let payload = SpdkDrive::payload(whole - offset).unwrap();
                        let name = key(number);
                        let read = store.read_into(realm, &name, offset as u64, payload);
                        let (payload, read) = read.await;
                        let rest = bytes.len() - offset;
                        assert_eq!(read, Ok(Some(rest as u64)), "blob {number}");
                        assert!(payload.unwrap().as_ref()[..rest] == bytes[offset..]);
                        asked += 1;
                    }
                }
                // The other core has about half of the blobs, and was asked for few of them once it had shown the rest.
                let told = messages() - messages_before;
                assert!(told < 80, "{told} of about 160");
                assert_eq!(gets(&store).await - gets_before, asked);
            }
            // All of it is counted, wherever it was done.
            let metrics = store.metrics().await;
            let of_b = metrics.drives[1].log.as_ref().unwrap();
            let reads = of_b.all_realms();
            let reads = reads.operation(Operation::Read);
            assert!(reads.ended(Outcome::Done) > 300, "{reads:?}");
            assert!(of_b.read_blocks(ReadFor::Window) > 300 * BLOCKS / 2);
            over(&sub, (store, keeper)).await;
        },
    );
}

/// The other core fills its drive, deletes and compacts, while this one reads from it what it can see by itself: that is what
/// was put there, or nothing.
#[test]
fn what_another_core_gives_back_is_not_read() {
    on_two_cores(
        "visits::what_another_core_gives_back_is_not_read",
        |reactors, sub| async move {
            let (store, keeper) = two(&reactors, &sub).await;
            let there = *reactors.cores().last().unwrap();
            let (tell, told) = std::sync::mpsc::channel();
            let changing = store.clone();
            let changes = reactors.spawn(there, "changes", move || async move {
                for round in 0..12_u64 {
                    for number in round * 200..(round + 1) * 200 {
                        match store_blob(&changing, OPEN, number).await {
                            Ok(Put::Created) => {}
                            put => panic!("blob {number}: {put:?}"),
                        }
                        let place = changing.locate(OPEN, &key(number)).await.unwrap();
                        if tell.send((number, place.unwrap().position)).is_err() {
                            return;
                        }
                    }
                    // Some stay, so that they have to be moved to make room.
                    for number in round * 200..(round + 1) * 200 {
                        if number % 17 != 0 {
                            let deleted = changing.delete(OPEN, key(number)).await;
                            assert_eq!(deleted, Ok(true));
                        }
                    }
                }
            });
            let mut changes = changes.unwrap();
            let mut places = Vec::new();
            let (mut seen, mut gone) = (0, 0);
            let mut random = 1_u64;
            loop {
                places.extend(told.try_iter());
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                if let Some(at) = (random >> 33).checked_rem(places.len() as u64) {
                    let (number, place) = places[at as usize];
                    match at_once(&store, OPEN, place, BLOCKS).await {
                        Some(read) => {
                            seen += 1;
                            assert!(read == bytes_of(number), "blob {number}");
                        }
                        None => match by_a_task(&store, OPEN, place).await {
                            Ok(read) => assert!(read == bytes_of(number), "blob {number}"),
                            Err(_) => gone += 1,
                        },
                    }
                }
                yield_now().await;
                let mut ended = false;
                std::future::poll_fn(|cx| {
                    ended = std::pin::Pin::new(&mut changes).poll(cx).is_ready();
                    std::task::Poll::Ready(())
                })
                .await;
                if ended {
                    break;
                }
            }
            assert!(seen > 0 && gone > 0, "{seen} seen, {gone} gone");
            over(&sub, (store, keeper)).await;
        },
    );
}

/// Reads are under way when the other core's drive goes, in order or not.
#[test]
fn a_drive_goes_while_another_core_reads() {
    on_two_cores(
        "visits::a_drive_goes_while_another_core_reads",
        |reactors, sub| async move {
            let (store, keeper) = two(&reactors, &sub).await;
            for number in 0..160 {
                assert_eq!(store_blob(&store, OPEN, number).await, Ok(Put::Created));
            }
            let places = elsewhere(&store, OPEN, 160).await;
            for place in places.values() {
                by_a_task(&store, OPEN, *place).await.unwrap();
            }
            let (number, place) = places.first_key_value().unwrap();
            let read = at_once(&store, OPEN, *place, BLOCKS).await;
            assert!(read.unwrap() == bytes_of(*number));
            let mut reads = Vec::new();
            for place in places.values() {
                let payload = SpdkDrive::payload(BLOCK_BYTES).unwrap();
                let (tell, told) = oneshot::channel();
                let begun = store.begin_read_position(OPEN, *place, payload, Told(tell));
                if begun.is_ok() {
                    reads.push(told);
                }
            }
            assert!(reads.len() > 20);
            create::delete(&sub, Kind::Malloc, "b").await.unwrap();
            for read in reads {
                // Whether or not it was in time, it has ended.
                read.await.unwrap();
            }
            while store.stat().await.drives[1].loss.is_none() {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(at_once(&store, OPEN, *place, BLOCKS).await.is_none());
            let lost = by_a_task(&store, OPEN, *place).await;
            assert!(lost.is_err(), "the drive is gone");
            store.close();
            keeper.await;
            create::delete(&sub, Kind::Malloc, "a").await.unwrap();
        },
    );
}
