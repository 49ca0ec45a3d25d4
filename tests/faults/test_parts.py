"""Large files whose way is interrupted: what came of them is not sent again."""

from __future__ import annotations

import secrets
import threading

import pytest

from conftest import INDEX, eventually
from proxy import NOTHING, Trouble
from nodes import Client, wheel

SIZE = 12_000_000
# So much has come when the replica ends.
CAME = 5_000_000
# What passes besides the file: heads, the log, what was on its way when the replica ended.
BESIDES = 1_500_000
SLOW = Trouble(only=(b"GET /ann/dev/+f/",), rate=6_000_000)


@pytest.fixture
def half(cluster):
    """A file of which the replica has a part; gives its name and its bytes."""
    cluster.start()
    cluster.proxy.trouble = SLOW
    filename, content = wheel("large", "1.0", secrets.token_bytes(SIZE))
    body, headers = Client.form("large", "1.0", filename, content)
    with cluster.client(cluster.master) as client:
        client.expect(200, "POST", f"/{INDEX}/", body, headers)
    eventually(lambda: CAME < sum(part.stat().st_size for part in parts(cluster)), what="a part of the file")
    return filename, content


def parts(cluster):
    return list((cluster.replica.data / ".partial").iterdir())


def stop(cluster, kill):
    """Ends the replica; gives how many bytes of the file it has, and how many its master sent so far."""
    cluster.replica.stop(kill=kill)
    cluster.proxy.reset()
    cluster.proxy.trouble = NOTHING
    [part] = parts(cluster)
    return part.stat().st_size, cluster.proxy.passed["answers"]


def came(cluster, filename, content):
    place = eventually(lambda: list((cluster.replica.data / "+files").rglob(filename)), what="the file")
    assert place[0].read_bytes() == content
    eventually(lambda: cluster.status(cluster.replica)["files-wanted"] == 0)
    assert parts(cluster) == []


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_a_file_goes_on_where_it_was_when_its_replica_ended(cluster, half, kill):
    held, sent = stop(cluster, kill)
    assert CAME < held < SIZE
    cluster.replica.start()
    came(cluster, *half)
    again = cluster.proxy.passed["answers"] - sent
    assert SIZE - held <= again < SIZE - held + BESIDES, (held, again)


def test_a_client_gets_what_is_here_and_then_the_rest(cluster, half):
    filename, content = half
    held, sent = stop(cluster, kill=True)
    # Nothing is fetched ahead, so that the client is who goes on.
    cluster.replica.extra += ["--files", "on-demand"]
    cluster.replica.start()
    with cluster.client(cluster.replica) as client:
        link = client.links(INDEX, "large")[filename]
        assert client.ask("GET", link["url"], headers={"Accept": "*/*"}).body == content
    came(cluster, filename, content)
    again = cluster.proxy.passed["answers"] - sent
    assert SIZE - held <= again < SIZE - held + BESIDES, (held, again)


def test_a_part_that_was_damaged_is_not_built_on(cluster, half):
    stop(cluster, kill=True)
    [part] = parts(cluster)
    with part.open("r+b") as file:
        file.seek(100_000)
        file.write(b"damage")
    cluster.replica.start()
    came(cluster, *half)
    # The master is not blamed for it.
    assert cluster.status(cluster.replica)["suspect-sources"] == {}


def test_a_part_of_a_file_that_was_deleted_goes(cluster, half):
    stop(cluster, kill=True)
    with cluster.client(cluster.master) as client:
        client.expect(200, "DELETE", f"/{INDEX}/large")
    cluster.replica.start()
    cluster.replica.wait_serial(cluster.master.serial())
    eventually(lambda: parts(cluster) == [], what="the end of the part")


def test_many_who_ask_meanwhile_get_whole_files(cluster, half):
    filename, content = half
    stop(cluster, kill=True)
    cluster.proxy.trouble = SLOW
    cluster.replica.start()
    with cluster.client(cluster.replica) as client:
        link = client.links(INDEX, "large")[filename]
    got = []

    def ask():
        with cluster.client(cluster.replica, timeout=60) as client:
            got.append(client.ask("GET", link["url"], headers={"Accept": "*/*"}).body == content)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [True] * 4
    came(cluster, filename, content)
