"""What happens to nodes: kills, stops, full disks, wrong clocks, old backups."""

from __future__ import annotations

import hashlib
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import INDEX, eventually
from injury import limit
from nodes import Client, wheel


def test_a_master_killed_before_the_commit_has_nothing_of_the_change(cluster):
    cluster.start()
    before = cluster.position(cluster.master)
    filename, packed = wheel("hello", "1.0", secrets.token_bytes(500_000))
    body, headers = Client.form("hello", "1.0", filename, packed)
    with socket.create_connection(("127.0.0.1", cluster.master.port)) as stream:
        head = f"POST /{INDEX}/ HTTP/1.1\r\nHost: x\r\nAuthorization: {cluster.auth}\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        stream.sendall(head.encode() + b"\r\n" + body[:-100])
        eventually(lambda: list((cluster.master.data / ".staging").iterdir()), what="the beginning of a file")
        cluster.master.stop(kill=True)
    cluster.master.start()
    assert cluster.position(cluster.master) == before
    assert not list((cluster.master.data / ".staging").iterdir())
    assert cluster.page(cluster.replica, "hello") == 404
    cluster.uploaded(cluster.replica, "hello")
    cluster.equal()


def test_a_replica_killed_while_it_applies_resumes_with_the_same_history(cluster):
    cluster.start()
    cluster.replica.stop()
    for number in range(150):
        cluster.uploaded(cluster.master, f"p{number % 10}", f"1.{number}")
    for pause in (0.05, 0.1, 0.15, 0.2, 0.3):
        cluster.replica.start(wait=False)
        time.sleep(pause)
        cluster.replica.stop(kill=True)
    cluster.replica.start()
    cluster.equal()


def test_a_node_that_stood_still_does_not_say_that_there_is_nothing(cluster):
    cluster.start()
    cluster.uploaded(cluster.replica, "before")
    cluster.replica.process.send_signal(signal.SIGSTOP)
    cluster.uploaded(cluster.master, "meanwhile")
    asked = []
    thread = threading.Thread(target=lambda: asked.append(cluster.page(cluster.replica, "meanwhile")))
    thread.start()
    time.sleep(3)
    cluster.replica.process.send_signal(signal.SIGCONT)
    thread.join(30)
    assert asked == [200]
    cluster.equal()


def test_a_master_that_stood_still_is_waited_for_and_told_when_it_lasts(cluster):
    cluster.start()
    cluster.master.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    answer = cluster.upload(cluster.replica, "hello")
    assert answer.status in (502, 503, 504) and time.monotonic() - began < 20, answer
    cluster.master.process.send_signal(signal.SIGCONT)
    # Whatever the first one came to, it stands once.
    eventually(lambda: cluster.upload(cluster.replica, "hello").status == 200)
    cluster.equal()
    assert len(cluster.links(cluster.replica, "hello")) == 1


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_full_disk_of_a_replica_is_told_and_ends_without_a_restart(cluster, size):
    cluster.start()
    cluster.uploaded(cluster.replica, "before")
    limit(cluster.replica, size)
    cluster.uploaded(cluster.master, "meanwhile", content=b"y" * 300_000)
    troubled = lambda: (s := cluster.status(cluster.replica))["replication-state"] == "failing" or s["files-failed"]  # noqa: E731
    eventually(troubled, what="the trouble")
    assert cluster.page(cluster.replica, "before") == 200
    limit(cluster.replica, resource.RLIM_INFINITY)
    cluster.equal()


def test_a_full_disk_of_the_master_refuses_changes_and_keeps_what_it_has(cluster):
    cluster.start()
    cluster.uploaded(cluster.master, "before")
    limit(cluster.master, 0)
    answer = cluster.upload(cluster.replica, "meanwhile")
    assert answer.status >= 500, answer
    assert cluster.page(cluster.master, "before") == 200
    limit(cluster.master, resource.RLIM_INFINITY)
    cluster.uploaded(cluster.replica, "meanwhile")
    cluster.equal()


SKEW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, at);
    const char *skew = getenv("SKEW_SECONDS");
    if (id == CLOCK_REALTIME && skew) at->tv_sec += atol(skew);
    return result;
}
"""


@pytest.mark.parametrize("seconds", [-3600, 3600, -400_000_000])
def test_a_clock_that_is_wrong_keeps_no_replica_out(cluster, tmp_path, seconds):
    (tmp_path / "skew.c").write_text(SKEW)
    library = tmp_path / "skew.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "skew.c", "-ldl"], check=True)
    cluster.start(replicas=0)
    follow = cluster.node
    skewed = {"LD_PRELOAD": str(library), "SKEW_SECONDS": str(seconds)}
    cluster.node = lambda *names, **more: follow(*names, **more, env=skewed)
    replica = cluster.follow()
    # The clock of that process is really another one.
    with cluster.client(replica) as client:
        shown = client.expect(200, "GET", "/+status").json()["result"]["replica-started-at"]
    assert abs(shown - time.time() - seconds) < 60
    for number in range(3):
        cluster.uploaded(replica, "hello", f"1.{number}")
        cluster.uploaded(cluster.master, "hello", f"2.{number}")
    cluster.equal()
    assert len(cluster.links(replica, "hello")) == 6


@pytest.mark.parametrize("how", ["backup", "lost tail"])
def test_a_master_that_lost_its_last_changes_is_noticed_and_can_be_replaced(cluster, tmp_path, how):
    """An older backup, or a disk that lied about what it had written before a crash."""
    cluster.start()
    cluster.uploaded(cluster.replica, "before")
    cluster.master.stop(kill=how == "lost tail")
    backup = tmp_path / "backup"
    shutil.copytree(cluster.master.data, backup, ignore=shutil.ignore_patterns(".control"))
    cluster.master.start()
    last = cluster.uploaded(cluster.replica, "after").serial
    cluster.equal()
    cluster.master.stop(kill=how == "lost tail")
    shutil.rmtree(cluster.master.data)
    shutil.copytree(backup, cluster.master.data)
    cluster.master.start()
    eventually(lambda: cluster.state(cluster.replica) == "ahead", what="the state")
    shown = cluster.status(cluster.replica)
    assert shown["serial"] == last and shown["last-common-serial"] < last
    assert cluster.page(cluster.replica, "after") == 200  # nothing is dropped
    # It goes on another way: now both histories differ, and still nothing is dropped.
    for number in range(3):
        cluster.uploaded(cluster.master, "other", f"1.{number}")
    eventually(lambda: cluster.state(cluster.replica) == "forked", what="the state")
    assert cluster.status(cluster.replica)["serial"] == last


def test_a_storm_of_uploads_leaves_replicas_equal_and_memory_flat(cluster):
    cluster.start(replicas=3)
    stop, counts = time.monotonic() + 12, [0] * 6

    def storm(number):
        while time.monotonic() < stop:
            node = [cluster.master, *cluster.replicas][number % 4]
            content = hashlib.sha256(f"{number} {counts[number]}".encode()).digest() * 500
            cluster.uploaded(node, f"p{number}", f"1.{counts[number]}", content)
            counts[number] += 1

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) > 50
    cluster.equal(30)
    for node in [cluster.master, *cluster.replicas]:
        for line in open(f"/proc/{node.process.pid}/status"):
            if line.startswith("VmHWM"):
                assert int(line.split()[1]) < 150 << 10, (node.name, line)
    for number, count in enumerate(counts):
        assert len(cluster.links(cluster.replicas[2], f"p{number}")) == count
