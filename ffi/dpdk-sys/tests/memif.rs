//! Two processes joined by shared-memory interfaces, without root or hugepages.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use oriel_dpdk_sys::{
    Eal, EalOptions, FindError, MacAddr, PktPool, PoolOptions, Port, PortOptions, dpdk_release,
};
use support::{FRAME_MAX, Processes, exchange, folder, frames, part};

const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);

/// The driver's arguments; newer releases have other words for the two roles, and a socket that
/// needs no file.
fn arguments(server: bool) -> String {
    let renamed = dpdk_release() >= (20, 11);
    let role = match (server, renamed) {
        (true, true) => "server",
        (true, false) => "master",
        (false, true) => "client",
        (false, false) => "slave",
    };
    let socket = folder().join("memif.sock");
    let file = if renamed { ",socket-abstract=no" } else { "" };
    format!("role={role},id=7,socket={}{file}", socket.display())
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn play<'eal>(me: u8, port: Port<'eal>, send_from: PktPool<'eal>, receive_into: PktPool<'eal>) {
    let mine = folder().join(format!("done-{me}"));
    let other = folder().join(format!("done-{}", 1 - me));
    let mut side = port.start(&PortOptions::default(), receive_into).unwrap();
    // The server's socket is there before its port is, but turns clients away until the port runs;
    // the driver does not try again. So the client waits for this file before it starts.
    std::fs::write(folder().join(format!("started-{me}")), []).unwrap();
    wait_for("the link", || side.port.link().unwrap().up);
    let frames = frames();
    let begin = Instant::now();
    let tally = exchange(me, &mut side.rx[0], &mut side.tx[0], send_from, frames);
    println!(
        "side {me}: {tally:?} in {:?}, {:?}",
        begin.elapsed(),
        side.port.stats().unwrap()
    );
    let stats = side.port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (frames, frames));
    assert_eq!((stats.rx_errors, stats.tx_errors), (0, 0));
    if me == 0 {
        // This side receives into small buffers, so that longer frames span several.
        assert!(tally.chained > frames / 2, "{tally:?}");
    }
    // Neither side goes while the other may still have frames to fetch.
    std::fs::write(mine, []).unwrap();
    wait_for("the other side to finish", || other.exists());
}

#[test]
fn a_million_frames_cross_each_way_between_two_processes() {
    let Some(part) = part() else {
        let processes = Processes::new("a_million_frames_cross_each_way_between_two_processes");
        let server = processes.spawn("server");
        let client = processes.spawn("client");
        processes.finish("client", client);
        processes.finish("server", server);
        return;
    };
    let server = part == "server";
    let mut options = EalOptions {
        program: format!("memif-{part}"),
        ..EalOptions::default()
    };
    if server {
        let arguments = arguments(true);
        options
            .extra
            .push(format!("--vdev=net_memif0,mac={SERVER_MAC},{arguments}"));
    }
    let eal = Eal::start(&options).unwrap();
    let large = PoolOptions {
        buffers: 4095,
        ..PoolOptions::default()
    };
    let small = PoolOptions {
        buffers: 16383,
        frame_bytes_max: 128,
        ..PoolOptions::default()
    };
    assert!(FRAME_MAX > 2 * usize::from(small.frame_bytes_max));
    let large = PktPool::new(&eal, "large", &large).unwrap();
    let small = PktPool::new(&eal, "small", &small).unwrap();
    let before = (large.available(), small.available());

    if server {
        // One port came with the start; it has one owner, however it is looked for.
        let port = eal.port_by_mac(SERVER_MAC).unwrap();
        assert_eq!(port.info().unwrap().mac, SERVER_MAC);
        let again = eal.port_by_name("net_memif0").unwrap_err();
        assert!(matches!(again, FindError::InUse { .. }), "{again}");
        play(0, port, large, small);
    } else {
        // The other is attached while running.
        wait_for("the server", || folder().join("started-0").exists());
        let port = eal.attach("net_memif1", &arguments(false)).unwrap();
        assert_eq!(port.info().unwrap().driver, "net_memif");
        play(1, port, large, large);
        assert_eq!(eal.port_ids(), []);
    }
    assert_eq!(
        (large.available(), small.available()),
        before,
        "{part} lost buffers"
    );
}
