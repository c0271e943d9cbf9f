//! The program as a person meets it: loads on real bdevs without root or
//! hugepages, checked data, and for every wrong input one sentence that says
//! what to do, an exit status that is not 0, and nothing left behind.
#![allow(
    clippy::unwrap_used,
    reason = "every line here is a test or serves one"
)]

mod target;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Every test polls on core 0, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A folder that the program uses as its own for temporary files.
struct Bench {
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oriel-perf"));
        let folder = self.folder.path().to_str().unwrap();
        command.args(line.replace("DIR", folder).split_whitespace());
        command.env("TMPDIR", folder).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn start(&self, line: &str) -> Child {
        let mut command = self.command(line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// A successful run's report.
    fn report(&self, line: &str) -> Value {
        let output = self.run(&format!("bdev --no-huge --json {line}"));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let text = String::from_utf8_lossy(&output.stdout);
            panic!("{line}: {error} in {text}")
        })
    }

    /// The one sentence that a wrong input is answered with.
    fn complaint(&self, line: &str) -> String {
        let before = self.listing();
        let output = self.run(line);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{line} was taken: {errors}");
        assert_eq!(output.status.signal(), None, "{line}: {errors}");
        assert_eq!(self.listing(), before, "{line} left something behind");
        let ours: Vec<_> = errors
            .lines()
            .filter(|l| l.starts_with("oriel-perf: "))
            .collect();
        assert_eq!(ours.len(), 1, "{line}: {errors}");
        ours[0].to_owned()
    }

    fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn make_file(&self, name: &str, bytes: u64) {
        let file = fs::File::create(self.folder.path().join(name)).unwrap();
        file.set_len(bytes).unwrap();
    }
}

fn said(complaint: &str, words: &[&str]) {
    for word in words {
        assert!(
            complaint.contains(word),
            "\"{word}\" is missing: {complaint}"
        );
    }
}

fn iops(report: &Value) -> f64 {
    report["results"][0]["iops"].as_f64().unwrap()
}

#[test]
fn a_newcomer_gets_bdevperfs_table_from_a_name_alone() {
    let output = Bench::new().run("bdev --no-huge -T Malloc0 -t 1 -l");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for part in [
        "Device Information          : runtime(s)       IOPS      MiB/s     Fail/s     TO/s    Average        min        max",
        "Job: Malloc0 (Core Mask 0x1, workload: randread, depth: 32, IO size: 4096)",
        "Total",
        " 99.99000% :",
    ] {
        assert!(text.contains(part), "\"{part}\" is missing:\n{text}");
    }
    assert!(!text.contains("EAL"), "{text}");
}

#[test]
fn every_workload_runs_on_memory() {
    let bench = Bench::new();
    for workload in [
        "read",
        "write",
        "randread",
        "randwrite",
        "rw -M 50",
        "randrw -M 70",
        "verify",
        "reset",
        "unmap",
        "flush",
        "write_zeroes",
    ] {
        let report = bench.report(&format!("-T Malloc0 -q 8 -t 1 -w {workload}"));
        let job = &report["results"][0];
        assert!(iops(&report) > 0.0, "{workload}: {job}");
        assert_eq!(job["status"], "finished", "{workload}");
        assert_eq!(job["io_failed"], 0, "{workload}");
        assert_eq!(
            job["workload"],
            workload.split(' ').next().unwrap(),
            "{workload}"
        );
    }
}

#[test]
fn checked_data_is_found_whole_on_memory_and_on_a_file() {
    let bench = Bench::new();
    bench.make_file("drive", 16 << 20);
    for (place, workload) in [
        ("-T Malloc0", "randrw -M 50"),
        ("-T Malloc0", "write"),
        ("--file DIR/drive", "verify"),
        ("--file DIR/drive", "randread"),
        ("--file DIR/drive", "randwrite"),
    ] {
        let report = bench.report(&format!(
            "{place} -w {workload} -q 16 -o 8192 -t 1 --verify"
        ));
        assert!(iops(&report) > 0.0, "{place} {workload}");
        assert!(
            report["results"][0]["verify_range"]["length"]
                .as_u64()
                .unwrap()
                > 0
        );
    }
}

#[test]
fn data_that_changes_on_the_drive_is_found_and_its_block_named() {
    let bench = Bench::new();
    bench.make_file("drive", 8 << 20);
    let path = bench.folder.path().join("drive");
    let load =
        bench.start("bdev --no-huge --json --file DIR/drive -w randread -q 4 -t 20 --verify");
    // The fill takes well under the time; then one byte after the other goes bad.
    let deadline = Instant::now() + Duration::from_secs(18);
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    use std::io::Seek;
    file.seek(std::io::SeekFrom::Start(1000 * 512 + 77))
        .unwrap();
    file.write_all(&[0xA5, 0x5A, 0xA5]).unwrap();
    file.sync_all().unwrap();
    let output = load.wait_with_output().unwrap();
    assert!(Instant::now() < deadline, "it was not found before the end");
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    said(
        &errors,
        &["block 1000 differs", "at byte 77", "never wrote"],
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["results"][0]["status"], "failed");
}

#[test]
fn a_null_drive_keeps_nothing_and_verification_says_so() {
    let complaint = Bench::new().complaint("bdev --no-huge -T Null0 -w verify -t 1");
    said(
        &complaint,
        &["Null0", "block", "differs from what was written"],
    );
}

#[test]
fn cores_share_a_drive_without_touching_each_others_part() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let report = Bench::new().report("-T Malloc0 -C -m 0x3 -w randrw -M 50 -t 1 --verify");
    assert_eq!(report["core_count"], 2);
    let ranges: Vec<_> = (0..2)
        .map(|job| {
            report["results"][job]["verify_range"]["start"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(ranges, [0, 8192]);
}

#[test]
fn rate_limits_hold() {
    let bench = Bench::new();
    let report = bench.report("-T Malloc0 -t 2 --rate-iops 2000");
    assert!((1_000.0..2_030.0).contains(&iops(&report)), "{report}");
    let report = bench.report("-T Malloc0 -t 2 -o 64k --rate-mbps 50");
    let mibps = report["results"][0]["mibps"].as_f64().unwrap();
    assert!((25.0..51.5).contains(&mibps), "{report}");
}

#[test]
fn a_job_file_and_a_configuration_run_together() {
    let bench = Bench::new();
    bench.write(
        "bdev.json",
        r#"{"subsystems":[{"subsystem":"bdev","config":[
        {"method":"bdev_malloc_create","params":{"name":"M0","num_blocks":16384,"block_size":512}},
        {"method":"bdev_null_create","params":{"name":"N0","num_blocks":1024,"block_size":4096}},
        {"method":"bdev_delay_create","params":{"name":"D0","base_bdev_name":"N0","avg_read_latency":1000,
         "p99_read_latency":1000,"avg_write_latency":1000,"p99_write_latency":1000}}]}]}"#,
    );
    bench.write(
        "jobs",
        "[global]\nbs=4096\niodepth=4\n[fast]\nfilename=M0\nrw=randwrite\n[slow]\nfilename=D0\nrw=read\n",
    );
    let report = bench.report("-c DIR/bdev.json -j DIR/jobs -t 1 -k 5");
    let names: Vec<_> = (0..2)
        .map(|job| report["results"][job]["job"].clone())
        .collect();
    assert_eq!(names, ["M0", "D0"]);
    let slow = &report["results"][1];
    assert!(slow["avg_latency_us"].as_f64().unwrap() >= 1000.0, "{slow}");
    assert!(slow["iops"].as_f64().unwrap() <= 4000.0, "{slow}");
}

#[test]
fn io_that_takes_too_long_is_counted() {
    let bench = Bench::new();
    bench.write(
        "bdev.json",
        r#"{"subsystems":[{"subsystem":"bdev","config":[
        {"method":"bdev_null_create","params":{"name":"N0","num_blocks":1024,"block_size":4096}},
        {"method":"bdev_delay_create","params":{"name":"D0","base_bdev_name":"N0","avg_read_latency":1500000,
         "p99_read_latency":1500000,"avg_write_latency":1,"p99_write_latency":1}}]}]}"#,
    );
    let report = bench.report("-c DIR/bdev.json -T D0 -q 3 -t 2 -k 1");
    let late = report["results"][0]["io_timeout"].as_u64().unwrap();
    assert!(late >= 3, "{report}");
}

#[test]
fn a_signal_ends_a_run_in_order_and_the_results_are_printed() {
    let bench = Bench::new();
    let load = bench.start("bdev --no-huge --json -T Malloc0 -t 60");
    std::thread::sleep(Duration::from_secs(5));
    let pid = load.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = load.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 15));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["results"][0]["status"], "terminated");
    assert!(iops(&report) > 0.0);
    assert_eq!(bench.listing(), Vec::<String>::new());
}

#[test]
fn tests_start_on_request_and_answer_with_their_results() {
    let bench = Bench::new();
    let mut waiting = bench.start("bdev --no-huge --json -T Malloc0 -t 1 -z -r DIR/rpc.sock");
    let socket = bench.folder.path().join("rpc.sock");
    let call = |method: &str| {
        let mut stream = connect(&socket);
        write!(stream, r#"{{"jsonrpc":"2.0","id":7,"method":"{method}"}}"#).unwrap();
        let mut reply = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let count = stream.read(&mut piece).unwrap();
            reply.extend_from_slice(&piece[..count]);
            if let Ok(reply) = serde_json::from_slice::<Value>(&reply) {
                return reply;
            }
            assert!(count > 0, "no answer to {method}");
        }
    };
    // Whoever connects and says nothing does not keep the others waiting for ever.
    let idle = connect(&socket);
    assert_eq!(call("no_such_method")["error"]["code"], -32601);
    drop(idle);
    let reply = call("perform_tests");
    assert_eq!(reply["id"], 7);
    assert!(iops(&reply["result"]) > 0.0, "{reply}");
    assert_eq!(call("spdk_kill_instance")["result"], true);
    assert!(waiting.wait().unwrap().success());
    assert_eq!(bench.listing(), Vec::<String>::new());
}

fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_store_is_measured_beside_its_drive() {
    let bench = Bench::new();
    let run = bench.run("store -w get -w read -o 64k -q 4 -t 1 --rounds 1 --seam --json");
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{errors}");
    let rows: Value = serde_json::from_slice(&run.stdout).unwrap();
    let expected = [
        ("get", &["raw", "seam", "store"][..]),
        ("read", &["raw", "store"]),
    ];
    assert_eq!(rows.as_array().unwrap().len(), expected.len());
    for (row, (workload, sides)) in rows.as_array().unwrap().iter().zip(expected) {
        assert_eq!(row["workload"], workload);
        let found = row["sides"].as_array().unwrap();
        let names: Vec<&str> = found.iter().filter_map(|it| it["side"].as_str()).collect();
        assert_eq!(names, sides);
        for side in found {
            assert!(side["per_second"].as_f64().unwrap() > 0.0, "{side}");
        }
    }
}

#[test]
fn a_store_of_a_drive_a_core_is_put_and_got_from_both() {
    let bench = Bench::new();
    let run = bench.run("node -t 1 --rounds 1 -o 64k -q 4 --json");
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{errors}");
    let rows: Value = serde_json::from_slice(&run.stdout).unwrap();
    for (row, workload) in [(0, "put"), (1, "get")] {
        assert_eq!(rows[row]["workload"], workload);
        let sides = [
            ("raw", 1),
            ("log", 1),
            ("node", 1),
            ("raw", 2),
            ("apart", 2),
            ("node", 2),
        ];
        for (line, (side, cores)) in sides.into_iter().enumerate() {
            let line = &rows[row]["lines"][line];
            assert_eq!(
                (&line["side"], &line["cores"]),
                (&side.into(), &cores.into())
            );
            assert!(line["blobs_per_second"].as_f64().unwrap() > 0.0, "{line}");
        }
    }
    said(&bench.complaint("node -m 0x1"), &["one core", "-m"]);
}

#[test]
fn a_missing_device_is_named() {
    let complaint = Bench::new().complaint("bdev --no-huge --file DIR/nothing -t 1");
    said(&complaint, &["/nothing", "does it exist"]);
}

#[test]
fn a_wrong_pci_address_is_named() {
    let bench = Bench::new();
    let config = |address: &str| {
        format!(
            r#"{{"subsystems":[{{"subsystem":"bdev","config":[{{"method":"bdev_nvme_attach_controller",
            "params":{{"name":"Nvme0","trtype":"PCIe","traddr":"{address}"}}}}]}}]}}"#
        )
    };
    bench.write("gone.json", &config("fffe:ff:1f.7"));
    said(
        &bench.complaint("bdev -c DIR/gone.json -t 1"),
        &["no PCI device at fffe:ff:1f.7", "lspci"],
    );
    bench.write("bad.json", &config("nowhere"));
    said(
        &bench.complaint("bdev -c DIR/bad.json -t 1"),
        &["'nowhere' is no PCI address", "0000:3b:00.0"],
    );
}

#[test]
fn a_second_process_on_the_same_file_is_turned_away() {
    let bench = Bench::new();
    bench.make_file("drive", 16 << 20);
    let mut first = bench.start("bdev --no-huge --file DIR/drive -t 6");
    let mut shown = wait_for(&mut first, "Running I/O");
    let second = bench.run("bdev --no-huge --file DIR/drive -t 1");
    assert!(!second.status.success());
    let errors = String::from_utf8_lossy(&second.stderr);
    said(
        &errors,
        &["drive", "in use by another process", "stop that one"],
    );
    // The first one is not disturbed.
    shown.1.read_to_string(&mut shown.0).unwrap();
    assert!(first.wait().unwrap().success());
    assert!(shown.0.contains("Total"), "{}", shown.0);
}

/// Reads a program's output until it contains `words`; what was read, and the rest.
fn wait_for(program: &mut Child, words: &str) -> (String, ChildStdout) {
    let mut output = program.stdout.take().unwrap();
    let mut shown = String::new();
    let mut piece = [0; 512];
    while !shown.contains(words) {
        let count = output.read(&mut piece).unwrap();
        assert!(count > 0, "it ended without \"{words}\": {shown}");
        shown.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    (shown, output)
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let bench = Bench::new();
    said(
        &bench.complaint("bdev --no-huge -T Malloc0 -s 64 -t 1"),
        &["64 MiB", "at least 512 MiB"],
    );
    bench.write(
        "bdev.json",
        r#"{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_malloc_create",
        "params":{"name":"M0","num_blocks":2097152,"block_size":512}}]}]}"#,
    );
    said(
        &bench.complaint("bdev --no-huge -c DIR/bdev.json -s 512 -t 1"),
        &["M0", "1024 MiB could not be made", "-s"],
    );
    said(
        &bench.complaint("bdev --no-huge -T Null0 -q 4096 -o 1M -s 512 -t 1"),
        &["bytes of DMA memory left", "--memory"],
    );
    said(
        &bench.complaint("bdev --no-huge -T Malloc0 -s 4000000000 -t 1"),
        &["MiB available", "ask for less"],
    );
}

/// Runs the program from a shell that first limits what it may have.
fn limited(bench: &Bench, limit: &str, line: &str) -> (Output, String) {
    let program = bench.command(line);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limit} && exec \"$@\""), "sh"]);
    shell.arg(program.get_program()).args(program.get_args());
    shell.env("TMPDIR", bench.folder.path());
    let output = shell.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{limit}: {errors}");
    (output, errors)
}

#[test]
fn limits_that_leave_no_room_are_named() {
    let bench = Bench::new();
    let line = "bdev --no-huge -T Null0 -t 1";
    let (_, errors) = limited(&bench, "ulimit -v 400000", line);
    said(&errors, &["390 MiB", "ulimit -v unlimited"]);
    let (_, errors) = limited(&bench, "ulimit -n 8", line);
    said(
        &errors,
        &["oriel-perf: ", "the limit is 8", "ulimit -n 1024"],
    );
    assert_eq!(bench.listing(), Vec::<String>::new());
    let long = bench.folder.path().join("long".repeat(25));
    fs::create_dir(&long).unwrap();
    let limit = format!("export TMPDIR={}", long.display());
    let (_, errors) = limited(&bench, &limit, line);
    said(&errors, &["too long a name for a socket", "TMPDIR"]);
    assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
}

#[test]
fn results_that_could_not_be_written_are_a_failure() {
    let bench = Bench::new();
    for line in ["--json", ""] {
        let line = format!("bdev --no-huge -T Null0 -t 1 {line}");
        let (_, errors) = limited(&bench, "exec >/dev/full", &line);
        said(&errors, &["could not be written", "No space left"]);
    }
    // With nobody left to tell, it still ends with its own status.
    limited(&bench, "exec 2>/dev/full", "bdev -t 1");
}

#[test]
fn a_file_in_the_way_of_the_socket_is_left_alone() {
    let bench = Bench::new();
    bench.write("precious", "data");
    said(
        &bench.complaint("bdev --no-huge -T Null0 -t 1 -z -r DIR/precious"),
        &["precious exists and is no socket", "-r"],
    );
    let kept = fs::read_to_string(bench.folder.path().join("precious")).unwrap();
    assert_eq!(kept, "data");
}

#[test]
fn one_file_under_two_names_is_named() {
    let bench = Bench::new();
    bench.make_file("drive", 16 << 20);
    let drive = |name| {
        let path = bench.folder.path().join("drive");
        format!(
            r#"{{"method":"bdev_aio_create","params":{{"name":"{name}","filename":"{}"}}}}"#,
            path.display()
        )
    };
    let drives = format!("{},{}", drive("A"), drive("B"));
    bench.write(
        "two.json",
        &format!(r#"{{"subsystems":[{{"subsystem":"bdev","config":[{drives}]}}]}}"#),
    );
    said(
        &bench.complaint("bdev --no-huge -c DIR/two.json -T A -t 1"),
        &["drives A and B are both", "of its own"],
    );
}

#[test]
fn an_unknown_bdev_is_answered_with_what_there_is() {
    let bench = Bench::new();
    bench.write(
        "bdev.json",
        r#"{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_malloc_create",
        "params":{"name":"M0","num_blocks":2048,"block_size":512}}]}]}"#,
    );
    said(
        &bench.complaint("bdev -c DIR/bdev.json -T Elsewhere -t 1"),
        &["no bdev \"Elsewhere\"", "M0"],
    );
    said(
        &bench.complaint("bdev -T Nvme0n1 -t 1"),
        &["no bdev \"Nvme0n1\"", "-c"],
    );
    said(&bench.complaint("bdev -t 1"), &["-T", "--file", "-c"]);
}

#[test]
fn other_wrong_input_gets_its_sentence_too() {
    let bench = Bench::new();
    bench.make_file("tiny", 100);
    bench.write("bad.json", "{]");
    bench.write("jobs", "[a]\nfilename=Null0\nrw=read\n");
    for (line, words) in [
        ("--file DIR -t 1", vec!["neither a file nor a block device"]),
        ("--file DIR/tiny -t 1", vec!["100 bytes", "truncate"]),
        ("-c DIR/bad.json", vec!["bad.json", "JSON configuration"]),
        ("-j DIR/jobs", vec!["job \"a\" has no \"bs\""]),
        (
            "-T Malloc0 -o 1000 -t 1",
            vec!["blocks of 512 bytes", "-o 1000"],
        ),
        ("-T Null0 -o 32M -q 1 -m [4000] -t 1", vec!["4000"]),
        (
            "-T Malloc0 -t 1 -m [100]",
            vec!["core 100 is not available"],
        ),
        ("-T Malloc0 -w rw -t 1", vec!["-M"]),
        (
            "-T Malloc0 --against DIR/nothing",
            vec!["no bdevperf at", "scripts/bootstrap"],
        ),
        (
            "-T Malloc0 --against /bin/true",
            vec!["not SPDK's bdevperf"],
        ),
        (
            "-T Malloc0 --against /bin/true --verify",
            vec!["--verify has no counterpart"],
        ),
    ] {
        let output = bench.run(&format!("bdev --no-huge {line}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{line}");
        said(&errors, &words);
    }
}
