"""Files that the master cannot give any more, and another replica has."""

from __future__ import annotations

import secrets

import pytest

from conftest import eventually
from proxy import NOTHING, Proxy, Trouble

FILES = (b"GET /ann/dev/+f/",)


@pytest.fixture
def scene(cluster):
    """Two replicas of a master that is gone: the first has a file, the second knows of it only, and may ask the first."""
    cluster.start(2)
    first, second = cluster.replicas
    way = Proxy(first.port)
    second.stop()
    second.extra += ["--replica-file-source", way.url]
    cluster.proxies[1].trouble = Trouble(only=FILES, mute="answers")
    way.trouble = Trouble(is_refusing=True)
    second.start()
    cluster.uploaded(cluster.master, "wanted", content=secrets.token_bytes(2_000_000))
    for node in cluster.replicas:
        node.wait_serial(cluster.master.serial())
    eventually(lambda: files(first))
    cluster.master.stop(kill=True)
    assert not files(second)
    yield first, second, way
    way.close()


def files(node):
    return {path.name: path.read_bytes() for path in (node.data / "+files").rglob("*.whl")}


def test_a_replica_gets_files_from_another_one_while_the_master_is_gone(cluster, scene):
    first, second, way = scene
    way.trouble = NOTHING
    assert eventually(lambda: files(second)) == files(first)
    assert cluster.status(second)["files-wanted"] == 0
    assert cluster.page(second, "wanted") == 200


def test_what_another_replica_sends_is_checked(cluster, scene):
    first, second, way = scene
    way.trouble = Trouble(only=FILES, flip=1_000_000, flips=1)
    eventually(lambda: cluster.status(second)["suspect-sources"].get("replica"))
    assert way.done["flipped"] == 1
    # The next answer is whole.
    assert eventually(lambda: files(second), seconds=40) == files(first)
