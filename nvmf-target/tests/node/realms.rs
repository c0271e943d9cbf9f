//! Realms beside each other.

use oriel_client::blob::{BlobError, Put};
use oriel_client::{Controller, Options, block_on};
use oriel_protocol::{KeyKind, Status};

use crate::host::{blob, commit, content, failed_at, key, list, read, reserve, window_of, write};
use crate::support::{
    BLOCK, CLOSED, NodeProcess, OPEN, QUOTA, blobs, is_skipped, namespace, status, turn,
};

/// Realms know nothing of each other, and a realm lets in whom it is to.
#[test]
fn realms_are_apart() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let stranger = Options {
        host: "nqn.2016-06.io.oriel:stranger".into(),
        ..node.options(CLOSED)
    };
    assert!(
        Controller::connect(stranger.clone())
            .unwrap()
            .wait()
            .is_err()
    );
    let open = Options {
        subsystem: node.options(OPEN).subsystem,
        ..stranger
    };
    let open = Controller::connect(open).unwrap().wait().unwrap();
    let closed = node.connect(CLOSED);
    assert_ne!(open.data().serial, closed.data().serial);
    let (theirs, ours) = (blobs(&open), blobs(&closed));
    let (their_raw, our_raw) = (namespace(&open), namespace(&closed));
    block_on(async {
        let secret = content(3, 20_000);
        let put = ours.put(key(1), KeyKind::Name, secret.clone()).await;
        assert_eq!(put.unwrap(), Put::Created);
        let put = theirs.put(key(2), KeyKind::Name, vec![2; 5000]).await;
        assert_eq!(put.unwrap(), Put::Created);
        assert_eq!(theirs.get(&key(1)).await.unwrap(), None);
        assert_eq!(
            theirs.probe(&[key(1), key(2)]).await.unwrap(),
            [false, true]
        );
        assert!(!theirs.delete(&key(1)).await.unwrap());
        assert_eq!(list(&theirs, &[]).await.len(), 1);
        let place = window_of(ours.locate(&key(1)).await.unwrap()).position.0;
        assert_eq!(status(read(&their_raw, place, 1)), Status::Unwritten);
        let window = reserve(&our_raw, 100).unwrap().position;
        assert_eq!(
            status(write(&their_raw, window.0, vec![1; BLOCK])),
            Status::AccessDenied
        );
        write(&our_raw, window.0, vec![1; BLOCK]).unwrap();
        let theft = commit(&their_raw, &[(blob(9, 100, None), window)]);
        assert_eq!(failed_at(theft), (Status::NotReserved, 0));
        assert!(ours.get(&key(1)).await.unwrap() == Some(secret));

        // The quota is that of the realm.
        let stat = ours.stat().await.unwrap();
        assert_eq!(stat.quota_blocks, Some(QUOTA));
        assert_eq!((stat.reservations, stat.realm_used_blocks), (1, 5 + 1 + 1));
        let much = vec![1; QUOTA as usize * BLOCK];
        let over = ours.put(key(3), KeyKind::Name, much.clone()).await;
        assert!(
            matches!(
                &over,
                Err(BlobError::Refused {
                    status: Status::OverQuota,
                    ..
                })
            ),
            "{over:?}"
        );
        let put = theirs.put(key(3), KeyKind::Name, much).await;
        assert_eq!(put.unwrap(), Put::Created);
    });
    drop((their_raw, our_raw, theirs, ours));
    open.close();
    closed.close();
    node.end();
}
