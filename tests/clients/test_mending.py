"""Bytes that a node has lost, and who gives them back."""

from __future__ import annotations

import time

import pytest

from conftest import make_index
from nodes import Client, wheel

pytestmark = pytest.mark.ours


@pytest.fixture
def index(own_pair):
    return make_index(own_pair)


def status(node):
    with Client(node.url) as client:
        return client.expect(200, "GET", "/+status").json()["result"]


def eventually(ask, seconds=40):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def put(index, pair, version, content=b"x" * 5000):
    """Uploads a wheel that both nodes have then; gives the path of its bytes below a node's folder, and the bytes."""
    filename, content = wheel("lasting", version, content)
    index.upload(pair.replica, "lasting", version, filename, content)
    eventually(lambda: status(pair.replica)["files-wanted"] == 0)
    [place] = (pair.master.data / "+files").rglob(filename)
    place = place.relative_to(pair.master.data)
    assert (pair.replica.data / place).read_bytes() == content
    return place, content


def get(node, place):
    with Client(node.url) as client:
        return client.ask("GET", "/" + str(place.relative_to("+files")), headers={"Accept": "*/*"})


def test_a_master_that_lost_a_file_gets_it_back_from_its_replica(index, own_pair):
    place, content = put(index, own_pair, "1.0")
    own_pair.master.stop()
    (own_pair.master.data / place).unlink()
    own_pair.master.start()
    assert get(own_pair.replica, place).body == content  # it keeps serving
    answer = get(own_pair.master, place)
    assert answer.status == 503 and b"lost" in answer.body
    # The next poll tells the replica.
    put(index, own_pair, "1.1")
    eventually(lambda: (own_pair.master.data / place).exists())
    answer = eventually(lambda: (found := get(own_pair.master, place)).status == 200 and found)
    assert answer.body == content


def test_a_replica_that_lost_or_damaged_a_file_fetches_it_again(index, own_pair):
    place, content = put(index, own_pair, "1.0")
    own_pair.replica.stop()
    for damage in (None, content[:-100]):
        path = own_pair.replica.data / place
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        own_pair.replica.start()
        assert get(own_pair.replica, place).body == content
        eventually(lambda: path.exists() and path.read_bytes() == content)
        own_pair.replica.stop()


def test_a_damaged_copy_is_not_given_back(index, own_pair):
    place, content = put(index, own_pair, "1.0")
    own_pair.master.stop()
    own_pair.replica.stop()
    (own_pair.master.data / place).unlink()
    (own_pair.replica.data / place).write_bytes(content[:-1] + b"!")
    own_pair.master.start()
    own_pair.replica.start()
    assert get(own_pair.master, place).status == 503
    put(index, own_pair, "1.1")
    eventually(lambda: status(own_pair.replica)["files-wanted"] + status(own_pair.replica)["files-failed"] == 1)
    assert not (own_pair.master.data / place).exists()
    assert not (own_pair.replica.data / place).exists()
    assert get(own_pair.master, place).status == 503


def test_files_are_for_replicas_alone_to_give(index, own_pair):
    place, _ = put(index, own_pair, "1.0")
    with index.client(own_pair.master) as client:
        assert client.ask("GET", "/+files/lost").status == 403
        path = "/+files/" + str(place.relative_to("+files"))
        assert client.ask("PUT", path, b"other").status == 403


@pytest.mark.parametrize("choice, stays", [("on-demand", True), ("none", False)])
def test_a_replica_that_keeps_few_files_serves_all_of_them(index, own_pair, pip_install, choice, stays):
    own_pair.replica.stop()
    own_pair.replica.extra = ["--files", choice]
    own_pair.replica.start()
    filename, content = wheel("lasting", "1.0")
    index.upload(own_pair.master, "lasting", "1.0", filename, content)
    own_pair.replica.wait_serial(own_pair.master.serial())
    assert not list((own_pair.replica.data / "+files").rglob(filename))
    assert "lasting-1.0" in pip_install(index.simple(own_pair.replica), "lasting")[1].stdout
    assert bool(list((own_pair.replica.data / "+files").rglob(filename))) is stays
    assert status(own_pair.replica)["files"] == choice
    own_pair.master.stop()
    with Client(own_pair.replica.url) as client:
        link = client.links(index.name, "lasting")[filename]
        answer = client.ask("GET", link["url"], headers={"Accept": "*/*"})
        assert answer.status == (200 if stays else 502), answer.body
