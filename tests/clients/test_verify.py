"""What `verify` finds in the folders of real nodes, and what becomes of it."""

from __future__ import annotations

import json

import pytest

from conftest import make_index
from nodes import Client, run, wheel
from test_mending import eventually, get, put, status

pytestmark = pytest.mark.ours


@pytest.fixture
def index(own_pair):
    return make_index(own_pair)


def verify(node, *options):
    """What it reports of a folder; its exit code is in `code`."""
    line = [*node.command("verify"), "--serverdir", node.data, "--offline", "--json", *options]
    done = run(line, check=False)
    assert done.returncode in (0, 1), done.stdout
    start, end = done.stdout.index("{\n"), done.stdout.rindex("}") + 1
    return {**json.loads(done.stdout[start:end]), "code": done.returncode}


def test_a_master_gets_back_what_a_check_found_missing_and_broken(index, own_pair):
    places = [put(index, own_pair, version) for version in ("1.0", "1.1", "1.2")]
    assert verify(own_pair.master)["code"] == 0
    own_pair.master.stop()
    (missing, _), (broken, content), _ = places
    (own_pair.master.data / missing).unlink()
    (own_pair.master.data / broken).write_bytes(content[:-1] + b"!")
    found = verify(own_pair.master)
    assert (found["code"], found["missing"]["count"], found["broken"]["count"]) == (1, 1, 1)
    assert (own_pair.master.data / broken).exists(), "nothing is changed without --repair"
    repaired = verify(own_pair.master, "--repair")
    assert (repaired["code"], repaired["requeued"]) == (1, 2)
    assert not (own_pair.master.data / broken).exists()
    own_pair.master.start()
    for place, content in places:
        eventually(lambda: (own_pair.master.data / place).exists())
        assert get(own_pair.master, place).body == content
    again = verify(own_pair.master)
    assert (again["code"], again["files"]) == (0, 3)


def test_a_replica_fetches_again_what_a_check_found(index, own_pair):
    (missing, _), (broken, content) = (put(index, own_pair, version) for version in ("1.0", "1.1"))
    own_pair.replica.stop()
    (own_pair.replica.data / missing).unlink()
    (own_pair.replica.data / broken).write_bytes(content[:-1] + b"!")
    assert verify(own_pair.replica, "--repair")["requeued"] == 2
    own_pair.replica.start()
    eventually(lambda: (own_pair.replica.data / missing).exists() and (own_pair.replica.data / broken).exists())
    assert (own_pair.replica.data / broken).read_bytes() == content
    eventually(lambda: status(own_pair.replica)["files-wanted"] == 0)
    assert verify(own_pair.replica)["code"] == 0


def test_the_metadata_beside_a_wheel_is_checked_and_made_again(index, own_pair):
    place, _ = put(index, own_pair, "1.0")
    own_pair.stop()
    for node, damage in [(own_pair.master, None), (own_pair.master, b"Name: other"), (own_pair.replica, None)]:
        beside = node.data / f"{place}.metadata"
        right = beside.read_bytes()
        beside.unlink()
        if damage:
            beside.write_bytes(damage)
        found = verify(node)
        assert (found["code"], found["broken"]["count"], found["missing"]["count"]) == (1, 1, 0)
        assert found["broken"]["first"][0].startswith(f"{place.relative_to('+files')}.metadata: ")
        assert verify(node, "--repair")["remade"] == 1
        assert beside.read_bytes() == right
        assert verify(node)["code"] == 0


def test_metadata_that_is_lost_is_served_all_the_same(index, own_pair):
    for node in (own_pair.master, own_pair.replica):
        place, _ = put(index, own_pair, "1.0" if node is own_pair.master else "1.1")
        node.stop()
        node.extra = [*node.extra, "--enable-core-metadata"]
        node.start()
        beside = node.data / f"{place}.metadata"
        right = beside.read_bytes()
        beside.unlink()
        with Client(node.url) as client:
            answer = client.ask("GET", "/" + str(beside.relative_to(node.data / "+files")))
        assert (answer.status, answer.body) == (200, right)
        assert beside.read_bytes() == right


@pytest.mark.parametrize("options", [("--files", "on-demand"), ("--file-replication-skip-indexes", "stage")])
def test_what_a_replica_was_told_to_leave_out_is_not_missing(index, own_pair, options):
    own_pair.replica.stop()
    own_pair.replica.extra = [*own_pair.replica.extra, *options]
    own_pair.replica.start()
    for version in ("1.0", "1.1"):
        filename, content = wheel("lasting", version)
        index.upload(own_pair.master, "lasting", version, filename, content)
    own_pair.replica.wait_serial(own_pair.master.serial())
    assert get_one(index, own_pair.replica, filename) == content
    found = verify(own_pair.replica)
    assert (found["code"], found["missing"]["count"], found["files"]) == (0, 0, 2)
    kept = 1 if "on-demand" in options else len(list((own_pair.replica.data / "+files").rglob(filename)))
    assert found["left-out"] == 2 - kept
    own_pair.replica.stop()
    # A broken one goes, and does not come unless it is asked for.
    for place in (own_pair.replica.data / "+files").rglob(filename):
        place.write_bytes(b"x")
    repaired = verify(own_pair.replica, "--repair")
    assert repaired["requeued"] == 0
    assert verify(own_pair.replica)["left-out"] == 2


def get_one(index, node, filename):
    with Client(node.url) as client:
        link = client.links(index.name, "lasting")[filename]
        return client.ask("GET", link["url"], headers={"Accept": "*/*"}).body
