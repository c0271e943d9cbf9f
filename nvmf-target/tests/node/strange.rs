//! Commands that no initiator sends, and hosts that come and go by the thousand.

use std::path::PathBuf;
use std::time::Duration;

use oriel_client::block_on;
use oriel_protocol::Opcode;

use crate::hostile::{BAD, Friend, Numbers, node_that_tidies_up};
use crate::support::{CLOSED, HOST, NodeProcess, blobs, is_skipped, is_skipped_or_fragile, turn};
use crate::wire::{Data, Sqe, Wire, ic_req};

const OK: (u8, u8) = (0, 0);

/// A command of random bytes, which waits for no other.
fn strange(numbers: &mut Numbers, opcode: u8) -> Sqe {
    let mut sqe = Sqe(numbers.bytes());
    sqe.0[0] = opcode;
    let nsid = [0, 1, 1, 1, 2, u32::MAX][numbers.below(6)];
    sqe = sqe.dword(1, nsid);
    for dword in [2, 3, 10, 11, 12, 13, 14, 15] {
        let value = numbers.next() as u32;
        let small = value % 64;
        let value = [value, small, 0, u32::MAX][numbers.below(4)];
        sqe = sqe.dword(dword, value);
    }
    // SGLs, and "FUSE" 00b: the first of two commands is not answered before the second comes.
    sqe.0[1] = 0x40;
    sqe
}

/// Thousands of them, each of which ends with a status, or ends its connection.
#[test]
fn strange_commands_are_answered_and_harm_nobody() {
    if is_skipped_or_fragile() {
        return;
    }
    let _turn = turn();
    let node = node_that_tidies_up();
    let friend = Friend::start(&node);
    let mut numbers = Numbers(0x5eed);
    let vendor: Vec<u8> = Opcode::ALL.iter().map(|opcode| opcode.number()).collect();
    let (mut answered, mut lost, mut done) = (0, 0, 0);
    for is_admin in [false, true] {
        let mut open = Wire::queue(node.address, BAD, HOST);
        for number in 0..3000 {
            let opcode = match is_admin {
                // Asynchronous events are answered when there are some; fabrics have a test of their own.
                true => loop {
                    let opcode = numbers.next() as u8;
                    if opcode != 0x0c && opcode != 0x7f {
                        break opcode;
                    }
                },
                false if numbers.below(2) == 0 => vendor[numbers.below(vendor.len())],
                false => numbers.next() as u8,
            };
            let sqe = strange(&mut numbers, opcode);
            let here = vec![0x5a; numbers.below(1025) * 4];
            let later = [4, 32, 64, 100, 128, 4096, 131_072];
            // "Data Transfer": 00b is none, and 01b to the controller, the only way that a capsule has.
            let data = match opcode & 3 {
                0 => Data::None,
                1 if numbers.below(4) == 0 && !here.is_empty() => Data::Here(&here),
                _ => Data::Later(later[numbers.below(later.len())]),
            };
            let (queue, admin) = &mut open;
            let wire = if is_admin { admin } else { queue };
            wire.try_say(&sqe.capsule(1, data));
            match wire.end() {
                Some((status, _)) => {
                    answered += 1;
                    done += u32::from(status == OK);
                }
                None => {
                    lost += 1;
                    open = Wire::queue(node.address, BAD, HOST);
                }
            }
            // And one whose data are not where any could be: its connection is of no use after it.
            if number % 10 == 0 {
                let mut odd = match numbers.below(3) {
                    0 => sqe.capsule(1, Data::Later(131_076)),
                    1 => sqe.capsule(1, Data::Here(&here)),
                    _ => sqe.capsule(1, data),
                };
                if numbers.below(2) == 0 {
                    odd[8 + 24..8 + 40].copy_from_slice(&numbers.bytes::<16>());
                }
                let (mut queue, mut admin) = open;
                let wire = if is_admin { &mut admin } else { &mut queue };
                wire.try_say(&odd);
                match is_admin {
                    true => admin.hang_up(),
                    false => queue.hang_up(),
                }
                open = Wire::queue(node.address, BAD, HOST);
            }
            if number % 250 == 0 {
                friend.goes_on();
            }
        }
    }
    eprintln!("{answered} answered, {done} of them done; {lost} ended their connection");
    assert!(
        answered + lost == 6000 && answered > 4000 && done > 0,
        "{answered} {done} {lost}"
    );
    friend.end();
    // What it put is all that there is, and none of it is being written any more.
    let good = node.connect(CLOSED);
    let blobs = blobs(&good);
    let stat = block_on(blobs.stat()).unwrap();
    assert!(Some(stat.realm_used_blocks) <= stat.quota_blocks);
    drop(blobs);
    good.close();
    // Its process is killed: SPDK v20.07 waits in vain for connections that never said who they are.
    drop(node);
}

/// Each of them has once broken a target.
#[test]
fn what_broke_other_targets_is_answered() {
    if is_skipped() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let friend = Friend::start(&node);
    let address = node.address;

    // An I/O queue of a controller that is not there, of one that has it already, and of more than it has.
    let (mut admin, controller) = Wire::admin(address, BAD, HOST);
    let connect = |queue: u16, size: u16, controller: u16, subsystem: &str, host: &str| {
        let mut wire = Wire::open(address);
        let (status, _) = wire.connect(queue, size, controller, subsystem, host);
        (wire, status)
    };
    for wrong in [controller.wrapping_add(1000), 0xfffe, 0xffff] {
        assert_ne!(connect(1, 31, wrong, BAD, HOST).1, OK);
    }
    let (queue, status) = connect(1, 31, controller, BAD, HOST);
    assert_eq!(status, OK);
    for (number, size) in [(1, 31), (0xffff, 31), (2, 0), (2, 0xffff), (1024, 31)] {
        assert_ne!(connect(number, size, controller, BAD, HOST).1, OK);
    }
    let other = "nqn.2016-06.io.oriel:stranger";
    assert_ne!(connect(2, 31, controller, BAD, other).1, OK);
    assert_ne!(connect(0, 31, 0xffff, BAD, other).1, OK);
    let unknown = "nqn.2026-11.io.oriel:test:none";
    assert_ne!(connect(0, 31, 0xffff, unknown, HOST).1, OK);
    // As many queues as it gives, and one more.
    let mut queues = vec![queue];
    let refused = (2..=u16::MAX).find(|&number| {
        let (wire, status) = connect(number, 31, controller, BAD, HOST);
        queues.push(wire);
        status != OK
    });
    let refused = refused.unwrap();
    assert!((2..=1024).contains(&refused), "{refused} queues");
    friend.goes_on();

    // Identify with twice and with half the memory, and log pages beyond their ends.
    for (cns, nsid) in [(0, 1), (1, 0), (2, 0), (3, 1), (0, 7), (0x10, 0), (0xff, 1)] {
        for bytes in [8192, 4096, 512, 4, 131_072] {
            let identify = Sqe::new(6, nsid).dword(10, cns);
            admin.command(identify, Data::Later(bytes));
        }
        admin.command(Sqe::new(6, nsid).dword(10, cns), Data::None);
    }
    for page in 0..=255 {
        let page = Sqe::new(2, u32::MAX).dword(10, page | 0xffff_0000);
        admin.command(page.dword(11, 0xffff), Data::Later(8192));
        let behind = page.dword(12, u32::MAX - 3).dword(13, u32::MAX);
        admin.command(behind, Data::Later(4096));
    }
    // Copy, and reservations of more hosts than there may be.
    let queue = &mut queues[0];
    let copy = Sqe::new(0x19, 1).dword(10, 4096).dword(12, 0xff);
    assert_ne!(queue.command(copy, Data::Here(&[0xff; 4096])).0, OK);
    assert_ne!(queue.command(copy, Data::Later(131_072)).0, OK);
    for host in 0..40_u64 {
        let keys = [host.to_le_bytes(), (host + 1).to_le_bytes()].concat();
        for action in [0, 1, 2, 3] {
            let register = Sqe::new(0x0d, 1).dword(10, action);
            queue.command(register, Data::Here(&keys));
        }
        let host = format!("nqn.2016-06.io.oriel:{host}");
        assert_ne!(connect(1, 31, controller, BAD, &host).1, OK);
    }
    for opcode in [0x0e, 0x11, 0x15] {
        queue.command(Sqe::new(opcode, 1), Data::Later(4096));
    }
    // To acquire and to release, in each way that there is or might be. To preempt and abort has ended a node of SPDK v26.05.
    for action in 0..16 {
        for opcode in [0x11, 0x15] {
            for kind in [0, 1, 9] {
                let reservation = Sqe::new(opcode, 1).dword(10, kind << 8 | action);
                queue.command(reservation, Data::Here(&[0; 16]));
                queue.command(reservation, Data::Here(&[7; 16]));
            }
        }
    }
    // The second of two fused commands alone, and a first that gets no second.
    let fused = |opcode, fuse: u8| Sqe::blocks(opcode, 300, 1).with(1, &[0x40 | fuse]);
    let second = queue.command(fused(1, 2), Data::Here(&[1; 4096]));
    assert_ne!(second.0, OK);
    queue.say(&fused(5, 1).capsule(2, Data::Here(&[1; 4096])));
    queue.say(&fused(5, 1).capsule(3, Data::Here(&[1; 4096])));
    queue.say(&Sqe::new(0, 1).capsule(4, Data::None));
    for _ in 0..3 {
        queue.end().expect("the connection lasts");
    }
    friend.end();
    drop((admin, queues));
    let good = node.connect(CLOSED);
    assert_eq!(block_on(blobs(&good).stat()).unwrap().realm_blobs, 0);
    good.close();
    // Its process is killed: SPDK v20.07 waits in vain for connections that never said who they are.
    drop(node);
}

/// Files that the node's process has open, and its memory in KiB.
fn holds(node: &NodeProcess) -> (usize, u64) {
    let process = PathBuf::from(format!("/proc/{}", node.id()));
    let files = std::fs::read_dir(process.join("fd")).unwrap().count();
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = resident.unwrap().split_whitespace().next();
    (files, words.unwrap().parse().unwrap())
}

/// It has as many files open as before, and as much memory, but for a little.
#[test]
fn thousands_of_hosts_that_come_and_go_leave_nothing_behind() {
    if is_skipped_or_fragile() {
        return;
    }
    let _turn = turn();
    let node = NodeProcess::start();
    let friend = Friend::start(&node);
    let visit = |number: usize| {
        let mut wire = Wire::bare(node.address);
        match number % 8 {
            0 => drop(wire),
            1 => {
                wire.say(&ic_req()[..100]);
                wire.vanish();
            }
            2 => Wire::admin(node.address, BAD, HOST).0.vanish(),
            3 => {
                wire.say(&[&ic_req()[..], &[0xff; 40]].concat());
                wire.vanish();
            }
            _ => {
                wire.say(&ic_req());
                wire.vanish();
            }
        }
    };
    // What the first ones leave is what is kept for those to come.
    (0..2000).for_each(visit);
    friend.goes_on();
    let (files, memory) = holds(&node);
    let begun = std::time::Instant::now();
    for round in 0..80 {
        (0..100).for_each(visit);
        if round % 10 == 0 {
            friend.goes_on();
        }
    }
    eprintln!("8000 visits in {:?}", begun.elapsed());
    // Those that went last may not have been noticed yet.
    let mut now = holds(&node);
    while now.0 > files {
        friend.goes_on();
        std::thread::sleep(Duration::from_millis(10));
        now = holds(&node);
    }
    eprintln!("before {files} files, {memory} KiB; then {now:?}");
    assert!(now.1 < memory + (16 << 10), "{memory} KiB, then {}", now.1);
    friend.end();
    drop(node);
}
