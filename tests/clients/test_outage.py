"""Nodes that stop and come back, by order and by kill."""

from __future__ import annotations

import hashlib
import time

import pytest

from conftest import make_index
from nodes import Client, Node, make_secret, wheel


@pytest.fixture
def index(own_pair):
    return make_index(own_pair)


def put(index, node, version):
    filename, content = wheel("lasting", version)
    answer = index.upload(node, "lasting", version, filename, content)
    assert answer.status == 200, (answer, answer.body)
    return filename, content


def wait_equal(pair, seconds=30):
    pair.replica.wait_serial(pair.master.serial(), seconds)
    assert pair.replica.serial() == pair.master.serial()


def test_reads_go_on_without_the_master(index, own_pair, pip_install):
    filename, content = put(index, own_pair.replica, "1.0")
    # Asking for the bytes makes sure that they are here.
    assert index.content(own_pair.replica, "lasting", filename) == content
    own_pair.master.stop()
    assert "lasting-1.0" in pip_install(index.simple(own_pair.replica), "lasting")[1].stdout
    # A restart while the master is away changes nothing.
    own_pair.replica.stop()
    own_pair.replica.start()
    assert "lasting-1.0" in pip_install(index.simple(own_pair.replica), "lasting")[1].stdout


@pytest.mark.ours
def test_a_change_without_the_master_is_a_503_that_names_it(index, own_pair, tmp_path, twine):
    put(index, own_pair.replica, "1.0")
    with index.client(own_pair.replica) as client:
        own_pair.master.stop()
        began = time.monotonic()
        answer = client.upload(index.name, "lasting", "1.1", *wheel("lasting", "1.1"))
        assert answer.status == 503
        assert own_pair.master.url in answer.body.decode() + answer.reason
        assert time.monotonic() - began < 10
    filename, content = wheel("lasting", "1.1")
    (tmp_path / filename).write_bytes(content)
    done = twine(index, own_pair.replica, tmp_path / filename, check=False)
    assert done.returncode != 0 and "503" in done.stdout
    assert set(index.links(own_pair.replica, "lasting")) == {wheel("lasting", "1.0")[0]}


def test_changes_go_on_when_the_master_is_back(index, own_pair):
    put(index, own_pair.replica, "1.0")
    own_pair.master.stop()
    own_pair.master.start()
    put(index, own_pair.replica, "1.1")
    wait_equal(own_pair)
    assert len(index.links(own_pair.replica, "lasting")) == 2


def test_a_stopped_replica_catches_up(index, own_pair):
    put(index, own_pair.replica, "1.0")
    own_pair.replica.stop()
    kept = dict(put(index, own_pair.master, f"1.{n}") for n in range(1, 8))
    own_pair.replica.start()
    wait_equal(own_pair)
    for filename, content in kept.items():
        assert index.content(own_pair.replica, "lasting", filename) == content


def test_a_late_replica_gets_everything(index, own_pair, tmp_path, binary):
    kept = dict(put(index, own_pair.master, f"1.{n}") for n in range(5))
    late = Node("late", tmp_path, binary, role="replica", master=own_pair.master, secret=own_pair.master.secret)
    late.init()
    late.start()
    try:
        late.wait_serial(own_pair.master.serial())
        for filename, content in kept.items():
            assert index.content(late, "lasting", filename) == content
            link = index.links(late, "lasting")[filename]
            assert link["hashes"]["sha256"] == hashlib.sha256(content).hexdigest()
    finally:
        late.stop()


@pytest.mark.ours
@pytest.mark.parametrize("victim", ["master", "replica"])
def test_what_was_acknowledged_survives_a_kill(index, own_pair, victim):
    kept = dict(put(index, own_pair.replica, f"1.{n}") for n in range(3))
    node = getattr(own_pair, victim)
    node.stop(kill=True)
    node.start()
    put(index, own_pair.master, "2.0")
    wait_equal(own_pair)
    for filename, content in kept.items():
        for reader in (own_pair.master, own_pair.replica):
            assert index.content(reader, "lasting", filename) == content


@pytest.mark.ours
def test_both_come_to_the_same_chain(index, own_pair):
    for n in range(3):
        put(index, own_pair.replica, f"1.{n}")
    wait_equal(own_pair)
    with Client(own_pair.master.url) as master, Client(own_pair.replica.url) as replica:
        assert master.position() == replica.position()


@pytest.mark.ours
def test_a_replica_with_another_secret_gets_nothing(index, own_pair, tmp_path, binary):
    put(index, own_pair.master, "1.0")
    (tmp_path / "other").mkdir()
    stranger = Node("stranger", tmp_path, binary, role="replica", master=own_pair.master)
    stranger.secret = make_secret(binary, tmp_path / "other")
    stranger.init()
    stranger.start()
    try:
        time.sleep(2)
        assert (stranger.serial() or -1) < 0, "a replica without the secret was served"
    finally:
        stranger.stop()
