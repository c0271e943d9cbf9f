"""One measurement of Mooncake's store on this machine: get_into over TCP, from another process's memory.

usage: python - CORES BYTES BLOBS THREADS SECONDS SEED

Needs the package mooncake-transfer-engine-non-cuda. Prints a JSON object: gets a second, MiB/s and latencies. A master, the
process that holds the blobs and the one that reads them share the cores, given as 0,1.
"""

import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

WARM_UP_SECONDS = 0.3
START_SECONDS = 30


def ends_with_parent():
    prctl_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(prctl_set_pdeathsig, signal.SIGKILL)


def free_ports(count):
    """Ports that nobody has just now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for_port(port):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"mooncake_master does not listen at port {port}")


def program(name):
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.path.exists(beside) else shutil.which(name)
    return found or sys.exit(f"{name} is not beside {sys.executable}: install mooncake-transfer-engine-non-cuda there")


def attach(master_port, port, segment_bytes):
    from mooncake.store import MooncakeDistributedStore

    store = MooncakeDistributedStore()
    status = store.setup(
        f"127.0.0.1:{port}", "P2PHANDSHAKE", segment_bytes, 64 << 20, "tcp", "", f"127.0.0.1:{master_port}"
    )
    if status != 0:
        sys.exit(f"mooncake's store was not set up: status {status}")
    return store


def hold_blobs(master_port, port, segment_bytes, ready):
    ends_with_parent()
    store = attach(master_port, port, segment_bytes)
    os.write(ready, b"1")
    signal.pause()
    store.close()


def read(store, bytes_each, blobs, seed, start, end, latencies, wrong):
    memory = ctypes.create_string_buffer(bytes_each)
    address = ctypes.addressof(memory)
    store.register_buffer(address, bytes_each)
    numbers = random.Random(seed)
    while True:
        number = numbers.randrange(blobs)
        begin = time.perf_counter_ns()
        got = store.get_into(f"blob {number}", address, bytes_each)
        now = time.perf_counter_ns()
        if got != bytes_each or memory[0] != bytes([number & 255]):
            wrong.append(f"blob {number}: get_into says {got}")
            return
        if now >= end:
            return
        if now >= start:
            latencies.append(now - begin)


def main():
    cores, *numbers = sys.argv[1:]
    bytes_each, blobs, threads, seconds, seed = map(int, numbers)
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    master_port, holder_port, reader_port = free_ports(3)
    master = subprocess.Popen(
        [program("mooncake_master"), "--port", str(master_port), "--metrics_port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=ends_with_parent,
    )
    holder = 0
    try:
        wait_for_port(master_port)
        is_ready, ready = os.pipe()
        holder = os.fork()
        if holder == 0:
            hold_blobs(master_port, holder_port, 2 * bytes_each * blobs, ready)
            os._exit(0)
        os.close(ready)
        if os.read(is_ready, 1) != b"1":
            sys.exit("the process that holds the blobs has ended")
        store = attach(master_port, reader_port, 0)
        for number in range(blobs):
            status = store.put(f"blob {number}", bytes([number & 255]) * bytes_each)
            if status != 0:
                sys.exit(f"blob {number} was not put: status {status}")
        start = time.perf_counter_ns() + int(WARM_UP_SECONDS * 1e9)
        end = start + seconds * 10**9
        latencies, wrong = [[] for _ in range(threads)], []
        readers = [
            threading.Thread(
                target=read, args=(store, bytes_each, blobs, seed * 1000 + at, start, end, latencies[at], wrong)
            )
            for at in range(threads)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        if wrong:
            sys.exit(wrong[0])
        every = sorted(latency for of_one in latencies for latency in of_one)
        if not every:
            sys.exit("no get ended in time")
        speed = {
            "per_second": len(every) / seconds,
            "mib_per_second": len(every) * bytes_each / seconds / (1 << 20),
            "p50_us": every[len(every) // 2] / 1000,
            "p99_us": every[len(every) * 99 // 100] / 1000,
        }
        print(json.dumps(speed), flush=True)
    finally:
        if holder:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
        master.kill()
        master.wait()


main()
