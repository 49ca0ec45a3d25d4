"""A fresh replica begins with a snapshot of its master, whatever the network and the power do meanwhile."""

from __future__ import annotations

import base64
import os
import secrets
import sqlite3
import subprocess

import pytest

from conftest import eventually
from nodes import Client
from proxy import Proxy, Trouble

PIECES = (b"GET /+snapshot/",)
# What the parts of a database of some 14 MB need to be several pieces: text that cannot be packed.
CHANGES, DESCRIPTION_BYTES = 140, 100_000


@pytest.fixture
def long(cluster):
    """A master with a database of several pieces, and a replica that was never started, behind a proxy."""
    cluster.start(replicas=0)
    master = cluster.master
    with cluster.client(master) as client:
        for _ in range(CHANGES):
            text = base64.b64encode(secrets.token_bytes(DESCRIPTION_BYTES * 3 // 4)).decode()
            client.expect(200, "PATCH", "/ann", {"description": text})
    cluster.uploaded(master, "hello")
    proxy = Proxy(master.port)
    cluster.proxies.append(proxy)
    replica = cluster.node("replica", "replica", master=master, master_url=proxy.url)
    replica.extra += ["--bootstrap", "snapshot"]
    cluster.replicas.append(replica)
    replica.init()
    return cluster


def said(node, text):
    return text in node.log.read_text()


def verify(cluster, node):
    """All of a folder is in order, its log, values and files, also by the master's word."""
    line = [cluster.binary, "verify", "--serverdir", node.data, "--secretfile", cluster.secret]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def is_in_order(cluster):
    replica = cluster.replicas[0]
    cluster.equal()
    eventually(lambda: cluster.page(replica, "hello") == 200, what="the page")
    cluster.uploaded(replica, "later")
    cluster.equal()
    replica.stop()
    verify(cluster, replica)
    assert not (replica.data / ".bootstrap").exists()


def test_a_replica_begins_with_a_snapshot_and_goes_on_with_the_log(long):
    replica = long.replicas[0]
    replica.start()
    assert said(replica, "begins with a snapshot")
    is_in_order(long)
    asked = [line for line in long.proxy.requests if line.startswith(b"GET /+changelog/")]
    assert not any(line.startswith(b"GET /+changelog/0") for line in asked), asked[:3]


def test_a_snapshot_is_resumed_after_cuts_and_a_kill(long):
    replica, proxy = long.replicas[0], long.proxy
    proxy.trouble = Trouble(only=PIECES, cut_answer=1_000_000)
    replica.start(wait=False)
    eventually(lambda: sum(proxy.done.values()) > 1, what="two cuts")
    proxy.trouble = Trouble(only=PIECES, rate=6_000_000)
    folder = replica.data / ".bootstrap"

    def half():
        parts = list(folder.glob("*")) if folder.exists() else []
        return parts and parts[0].stat().st_size >= 4 << 20

    eventually(half, what="the first piece")
    replica.stop(kill=True)
    here = next(folder.glob("*")).stat().st_size >> 22
    proxy.heal()
    proxy.requests.clear()
    replica.start()
    assert said(replica, f"goes on at piece {here}")
    assert not any(line.endswith(b"/0 HTTP/1.1") for line in pieces(proxy)), "the first piece was here"
    is_in_order(long)


def pieces(proxy):
    lines = [request.split(b"\r\n")[0] for request in proxy.requests]
    return [line for line in lines if line.startswith(PIECES)]


def test_a_snapshot_with_a_changed_byte_is_not_taken(long):
    replica, proxy = long.replicas[0], long.proxy
    proxy.trouble = Trouble(only=PIECES, flip=1_000_000, flips=2)
    replica.start()
    assert said(replica, "has not the hash that the master said")
    # The piece was asked for again.
    assert said(replica, "the snapshot is here and in order")
    is_in_order(long)


def test_a_crash_while_a_snapshot_is_put_in_place_leaves_a_good_folder(long):
    replica = long.replicas[0]
    replica.start()
    replica.stop(kill=True)
    # As a crash leaves it that comes before the former file went: the write-ahead log is gone, the pieces are here.
    empty = long.folder / "empty"
    line = [long.binary, "init", "--serverdir", empty, "--role", "replica", "--master-url", long.proxy.url]
    subprocess.run(line, check=True, capture_output=True, timeout=60)
    for name in ("twinpi.sqlite-wal", "twinpi.sqlite-shm", "twinpi.sqlite"):
        (replica.data / name).unlink(missing_ok=True)
    os.replace(empty / "twinpi.sqlite", replica.data / "twinpi.sqlite")
    replica.start()
    is_in_order(long)


def test_two_replicas_begin_at_once_and_uploads_go_on(long):
    first = long.replicas[0]
    proxy = Proxy(long.master.port)
    long.proxies.append(proxy)
    second = long.node("second", "replica", master=long.master, master_url=proxy.url)
    second.extra += ["--bootstrap", "snapshot"]
    long.replicas.append(second)
    second.init()
    first.start(wait=False)
    second.start(wait=False)
    for number in range(10):
        long.uploaded(long.master, f"meanwhile{number}")
    first.wait_ready()
    second.wait_ready()
    assert long.master.log.read_text().count("made a snapshot") == 1
    long.equal()


def test_nobody_but_a_replica_gets_a_snapshot_and_it_has_nothing_of_the_masters_own(long):
    with Client(long.master.url) as client:
        client.login("root", "")
        for path in ("/+snapshot", f"/+snapshot/{'0' * 32}/0"):
            assert client.ask("GET", path).status in (401, 403)
    replica = long.replicas[0]
    own = "INSERT INTO local (name, value) VALUES ('of-the-master', x'01')"
    long.master.stop()
    with sqlite3.connect(long.master.data / "twinpi.sqlite") as sql:
        sql.execute(own)
    long.master.start()
    replica.start()
    replica.stop()
    with sqlite3.connect(replica.data / "twinpi.sqlite") as sql:
        assert sql.execute("SELECT count(*) FROM local WHERE name = 'of-the-master'").fetchone() == (0,)
        assert sql.execute("SELECT count(*) FROM receipt").fetchone() == (0,)


def test_where_no_snapshot_is_offered_the_log_is_taken(long):
    replica = long.replicas[0]
    replica.extra = ["--proxy-timeout", "5"]
    replica.start()
    assert not said(replica, "begins with a snapshot"), "a log as short as this is taken as it is"
    is_in_order(long)
