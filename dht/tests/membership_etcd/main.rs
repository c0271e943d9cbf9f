//! Membership in a real etcd: records, epochs, leases, watches, and what happens to them when members or connections go.
#![cfg(all(feature = "etcd", not(loom)))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod proxy;
mod server;

use std::time::Duration;

use oriel_dht::membership::etcd::{
    AnnounceError, ChangeError, Cluster, EpochRecord, EtcdError, Options, View, Watcher,
};
use oriel_dht::ring::{Epoch, Member, Name, Partitions, Ring, Spec, Spread, State, build};
use proxy::Proxy;
use server::Servers;

/// Nothing here takes nearly as long; a test that hangs is to say where.
const PATIENCE: Duration = Duration::from_secs(40);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn member(text: &str) -> Member {
    Member {
        name: name(text),
        rack: name(text),
        zone: name("z"),
        weight: 100,
        state: State::Joining,
        addresses: vec!["tcp://127.0.0.1:4420".parse().unwrap()],
    }
}

fn options(endpoints: Vec<String>) -> Options {
    let mut options = Options::new(endpoints, name("lab"));
    options.lease = Duration::from_secs(1);
    options.request = Duration::from_secs(2);
    options.tries = 20;
    options
}

fn epoch(epoch: u32, builder: &str) -> EpochRecord {
    EpochRecord {
        epoch,
        checksum: epoch * 3,
        builder: builder.to_owned(),
    }
}

/// The first view that is as wanted.
async fn until(watcher: &mut Watcher, what: &str, wanted: impl Fn(&View) -> bool) {
    let reached = async {
        while !wanted(watcher.view()) {
            watcher.next().await.unwrap();
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("never seen: {what}"));
}

/// Puts the next epoch into force, whoever else does.
async fn advance(cluster: &Cluster, builder: &str) -> u32 {
    loop {
        let view = cluster.view().await.unwrap();
        let next = view
            .epoch()
            .map_or(1, |published| published.record.epoch + 1);
        match cluster.publish(&view, &epoch(next, builder)).await {
            Ok(_) => return next,
            Err(ChangeError::Changed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_and_epochs_change_by_compare_and_swap() {
    if !server::is_here() {
        return;
    }
    let servers = Servers::start(1).await;
    let cluster = Cluster::connect(options(servers.endpoints()))
        .await
        .unwrap();
    let other = Cluster::connect(options(servers.endpoints()))
        .await
        .unwrap();

    let first = cluster.declare(&member("a"), None).await.unwrap();
    let twice = other.declare(&member("a"), None).await.unwrap_err();
    assert!(
        matches!(twice, ChangeError::Changed { seen: None, found: Some(found), .. } if found == first)
    );
    let mut heavier = member("a");
    heavier.weight = 200;
    let second = other.declare(&heavier, Some(first)).await.unwrap();
    assert!(matches!(
        cluster.declare(&member("a"), Some(first)).await,
        Err(ChangeError::Changed { .. })
    ));
    cluster.set_state(&name("a"), State::Up).await.unwrap();
    let missing = cluster.set_state(&name("b"), State::Up).await.unwrap_err();
    assert_eq!(missing.to_string(), "there is no node b: declare it first");
    let view = cluster.view().await.unwrap();
    let declared = &view.nodes()[&name("a")];
    assert_eq!(
        (declared.member.weight, declared.member.state),
        (200, State::Up)
    );
    assert!(declared.revision > second);

    // Twenty at once: each epoch is put into force by one of them.
    let mut running = tokio::task::JoinSet::new();
    for builder in 0..20 {
        let cluster = cluster.clone();
        running.spawn(async move { advance(&cluster, &format!("b{builder}")).await });
    }
    let mut epochs = running.join_all().await;
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=20).collect::<Vec<_>>());
    let view = cluster.view().await.unwrap();
    let late = cluster.publish(&view, &epoch(20, "c")).await.unwrap_err();
    assert!(matches!(
        late,
        ChangeError::NotLater {
            before: Epoch(20),
            found: Epoch(20)
        }
    ));

    let revision = view.nodes()[&name("a")].revision;
    assert!(cluster.forget(&name("a"), revision - 1).await.is_err());
    cluster.forget(&name("a"), revision).await.unwrap();
    assert!(cluster.view().await.unwrap().nodes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_alive_as_long_as_its_lease() {
    if !server::is_here() {
        return;
    }
    let servers = Servers::start(1).await;
    let cluster = Cluster::connect(options(servers.endpoints()))
        .await
        .unwrap();
    let mut watcher = cluster.watch().await.unwrap();
    let presence = cluster.announce(&name("a"), 1).await.unwrap();
    until(&mut watcher, "alive", |view| view.is_alive(&name("a"))).await;

    // Another process of the same name gives up after two leases, all of which the first has renewed.
    let taken = cluster.announce(&name("a"), 2).await.err().unwrap();
    assert!(
        matches!(&taken, AnnounceError::Taken { holder, .. } if holder == "0000000000000001"),
        "{taken}"
    );
    assert!(presence.is_held() && cluster.view().await.unwrap().is_alive(&name("a")));
    presence.leave().await.unwrap();
    until(&mut watcher, "left", |view| !view.is_alive(&name("a"))).await;

    // A process that dies is missed when its lease has run out, and the one after it need not wait for longer.
    let dead = cluster.announce(&name("a"), 3).await.unwrap();
    until(&mut watcher, "alive again", |view| {
        view.is_alive(&name("a"))
    })
    .await;
    drop(dead);
    let next = cluster.announce(&name("a"), 4).await.unwrap();
    until(&mut watcher, "the next alive", |view| {
        view.is_alive(&name("a"))
    })
    .await;
    drop(next);
    until(&mut watcher, "run out", |view| !view.is_alive(&name("a"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_etcd_stop_and_come_back_and_nothing_is_missed() {
    if !server::is_here() {
        return;
    }
    let mut servers = Servers::start(3).await;
    let cluster = Cluster::connect(options(servers.endpoints()))
        .await
        .unwrap();
    let mut watcher = cluster.watch().await.unwrap();
    let mut presences = Vec::new();
    for (at, text) in ["a", "b", "c"].into_iter().enumerate() {
        cluster.declare(&member(text), None).await.unwrap();
        presences.push(cluster.announce(&name(text), at as u64).await.unwrap());
    }
    until(&mut watcher, "three nodes", |view| {
        view.nodes().len() == 3
            && ["a", "b", "c"]
                .iter()
                .all(|text| view.is_alive(&name(text)))
    })
    .await;

    // A ring of the three, put into force.
    let spread = Spread {
        node: 2,
        rack: 2,
        zone: 6,
    };
    let spec = Spec::new(Partitions::new(1024).unwrap(), 6, spread).unwrap();
    let ring = build(spec, &watcher.view().members(), None).unwrap().ring;
    let record = EpochRecord {
        epoch: ring.epoch().0,
        checksum: crc32c::crc32c(&ring.to_bytes()),
        builder: "a".to_owned(),
    };
    cluster.publish(watcher.view(), &record).await.unwrap();
    assert_eq!(Ring::from_bytes(&ring.to_bytes()).unwrap(), ring);
    until(&mut watcher, "the first epoch", |view| {
        view.epoch()
            .is_some_and(|published| published.record == record)
    })
    .await;

    // Each in turn is killed, misses something, and comes back: whichever the watch was on, and whoever led.
    for at in 0..3 {
        servers.kill(at);
        let while_two = advance(&cluster, "a").await;
        until(&mut watcher, "an epoch of two members", |view| {
            view.epoch()
                .is_some_and(|published| published.record.epoch == while_two)
        })
        .await;
        servers.restart(at);
        let while_three = advance(&cluster, "b").await;
        until(&mut watcher, "an epoch of three members", |view| {
            view.epoch()
                .is_some_and(|published| published.record.epoch == while_three)
        })
        .await;
        // The one that is back has to be there before the next goes.
        let alone = options(vec![servers.endpoints()[at].clone()]);
        let direct = Cluster::connect(alone).await.unwrap();
        assert_eq!(
            direct.view().await.unwrap().epoch(),
            cluster.view().await.unwrap().epoch()
        );
    }
    assert!(watcher.reopened() > 0, "the watch was on one of them");
    until(&mut watcher, "all alive", |view| {
        ["a", "b", "c"]
            .iter()
            .all(|text| view.is_alive(&name(text)))
    })
    .await;
    for presence in presences {
        presence.leave().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_while_the_watch_was_lost_is_read_again() {
    if !server::is_here() {
        return;
    }
    let servers = Servers::start(1).await;
    let proxy = Proxy::start(servers.client_port(0)).await;
    let here = Cluster::connect(options(vec![proxy.endpoint()]))
        .await
        .unwrap();
    let there = Cluster::connect(options(servers.endpoints()))
        .await
        .unwrap();
    let removed = there.declare(&member("a"), None).await.unwrap();
    let mut watcher = here.watch().await.unwrap();
    advance(&there, "x").await;
    until(&mut watcher, "the first epoch", |view| {
        view.epoch().is_some()
    })
    .await;

    // Lost and mended without a compaction: events of that time come one after the other.
    proxy.cut();
    there.declare(&member("b"), None).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), watcher.next()).await;
    assert!(waiting.is_err(), "nothing comes through a cut");
    proxy.mend();
    until(&mut watcher, "what happened meanwhile", |view| {
        view.nodes().len() == 2
    })
    .await;
    assert!(watcher.resyncs() == 0 && watcher.reopened() > 0);

    // With a compaction: what was removed meanwhile is gone all the same, though its event is too.
    proxy.cut();
    there.forget(&name("a"), removed).await.unwrap();
    there.declare(&member("c"), None).await.unwrap();
    advance(&there, "y").await;
    let now = there.view().await.unwrap();
    let mut raw = etcd_client::Client::connect(servers.endpoints(), None)
        .await
        .unwrap();
    raw.compact(now.revision(), None).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(300), watcher.next()).await;
    assert!(waiting.is_err(), "nothing comes through a cut");
    proxy.mend();
    until(&mut watcher, "the state after the compaction", |view| {
        view.same_content(&now)
    })
    .await;
    assert_eq!(watcher.resyncs(), 1);

    // And it goes on from there.
    let next = advance(&there, "z").await;
    until(&mut watcher, "the epoch after", |view| {
        view.epoch()
            .is_some_and(|published| published.record.epoch == next)
    })
    .await;
    assert_eq!(watcher.resyncs(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_there_is_said_so() {
    let mut nobody = options(vec!["http://127.0.0.1:1".to_owned()]);
    (nobody.tries, nobody.request) = (2, Duration::from_millis(500));
    let error = Cluster::connect(nobody).await.err().unwrap();
    assert!(
        matches!(error, EtcdError::Request(_) | EtcdError::NoAnswer { .. }),
        "{error}"
    );
    let wrong = Cluster::connect(options(vec!["not a url".to_owned()])).await;
    assert!(wrong.is_err());
}
