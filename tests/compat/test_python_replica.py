"""A twinpi as the master of a devpi-server: all forms of the log, its files, its relays, its mirror pages, restarts."""

from __future__ import annotations

import sqlite3
import time

import pytest
from conftest import caught_up, differences, file_bytes, file_paths, new_index, planted, signed_in, status, until
from devpi_server.fileutil import loads
from history import TOX, doc_zip, make_history
from nodes import Client, wheel

import wire


@pytest.fixture(scope="module")
def master(nodes, devpi, upstream):
    node = nodes.start("twinpi", "master")
    make_history(devpi, node, upstream)
    return node


@pytest.fixture(scope="module")
def replica(nodes, master):
    return nodes.start("devpi", "replica", master)


def same_files(master, replica) -> int:
    """Compares each file that there is at the master, byte for byte; gives how many those are."""
    records, gone = file_paths(wire.log(master))
    assert file_bytes(replica, records) == file_bytes(master, records)
    for node in (master, replica):
        with Client(node.url) as client:
            left = {p: s for p in gone if (s := client.ask("GET", f"/{p}", headers={"Accept": "*/*"}).status) == 200}
            assert not left, node.name
    return len(records)


def log_on_disk(replica) -> list[dict]:
    """What a devpi-server has stored, serial by serial."""
    with sqlite3.connect(replica.data / ".sqlite") as database:
        rows = database.execute("SELECT serial, data FROM changelog ORDER BY serial").fetchall()
    assert [serial for serial, _ in rows] == list(range(len(rows)))
    return [loads(data)[0] for _, data in rows]


def test_a_history_comes_whole(master, replica):
    shown = caught_up(replica)
    assert shown["primary-uuid"] == status(master)["uuid"]
    assert differences(replica, master) == []
    assert same_files(master, replica) > 9
    assert log_on_disk(replica) == wire.log(master)


def test_the_values_at_the_end_are_those_of_the_log(master, replica):
    """devpi keeps the serial of each key apart from the log; both must say the same."""
    caught_up(replica)
    last: dict[str, tuple[str, int]] = {}
    for serial, changes in enumerate(wire.log(master)):
        for path, (key, back, _) in changes.items():
            assert back == last.get(path, ("", -1))[1], f"{path} at {serial}"
            last[path] = (key, serial)
    with sqlite3.connect(replica.data / ".sqlite") as database:
        held = {path: (key, serial) for path, key, serial in database.execute("SELECT key, keyname, serial FROM kv")}
    assert held == last


def test_the_master_lists_the_replica(master, replica):
    polling = status(master)["polling_replicas"]
    uuid = status(replica)["uuid"]
    assert until("its serial", lambda: status(master)["polling_replicas"][uuid]["serial"] == master.serial())
    assert set(polling[uuid]) >= {"remote-ip", "serial", "in-request", "is-streaming", "last-request", "outside-url"}
    assert polling[uuid]["in-request"] is True


def test_all_forms_of_the_log_say_the_same(master):
    entries = wire.log(master)
    assert wire.listed(master) == entries
    assert [wire.single(master, serial) for serial in range(len(entries))] == entries


def test_refusals_are_those_of_devpi(master, nodes, seed):
    theirs = planted(nodes, seed, "reference")
    told = {}
    for node in (theirs, master):
        last = node.serial()
        stale = wire.token(node.secret, age=100)
        ahead = wire.token(node.secret, age=-100)
        asked = {
            "next": wire.ask(node, f"{last + 1}-?initial_fetch"),
            "beyond": wire.ask(node, f"{last + 2}-"),
            "other master": wire.ask(node, "0-", **{"X-DEVPI-EXPECTED-PRIMARY-ID": "f" * 32}),
            "stale": wire.ask(node, "0-", Authorization=f"Bearer {stale}"),
            "ahead": wire.ask(node, "0-", Authorization=f"Bearer {ahead}"),
            "no token": wire.ask(node, "0-", Authorization=f"Bearer {stale[:40]}"),
            "other uuid": wire.ask(node, "0-", **{"X-DEVPI-REPLICA-UUID": "e" * 32}),
            "single beyond": wire.ask(node, str(last + 2)),
            "list": wire.ask(node, "0-", accept="*/*"),
            "stream": wire.ask(node, "0-"),
        }
        told[node.name] = {name: (a.status, a.headers["Content-Type"] if a.status == 200 else None) for name, a in asked.items()}
        assert all("X-DEVPI-SERIAL" in answer.headers for answer in asked.values())
    theirs.stop()
    assert told["master"] == told["reference"]


def test_what_the_master_commits_is_there_at_once(master, replica):
    writer = new_index(master)
    filename, content = wheel("live", "1.0")
    serial = writer.upload(writer.index, "live", "1.0", filename, content).serial
    since = time.monotonic()
    replica.wait_serial(serial)
    assert time.monotonic() - since < 5
    caught_up(replica)
    with Client(replica.url) as reader:
        link = reader.links(writer.index, "live")[filename]
        assert reader.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body == content
    writer.expect(200, "DELETE", f"/{writer.index}/live")
    caught_up(replica)
    assert differences(replica, master) == []


def test_what_is_changed_through_the_replica_is_seen_there_at_once(master, replica):
    writer = new_index(replica)
    for overwritten in (b"", b"# other\n"):
        filename, content = wheel("relayed", "1.0", overwritten)
        assert writer.upload(writer.index, "relayed", "1.0", filename, content).status == 200
        link = writer.links(writer.index, "relayed")[filename]
        # A file that a client asks a devpi-server for while it is fetching it is a bare 500, whoever its master is.
        assert until("the file", lambda: (a := writer.ask("GET", link["url"], headers={"Accept": "*/*"})).status == 200 and a.body) == content
    path = link["url"].removeprefix(replica.url).split("#")[0]
    writer.expect(200, "POST", path, TOX)
    fields = {":action": "doc_upload", "filetype": "doc"}
    assert writer.upload(writer.index, "relayed", "1.0", "relayed-1.0.doc.zip", doc_zip("relayed"), fields).status == 200
    writer.expect(200, "PUT", f"/{writer.user}/prod", {"type": "stage", "bases": ""})
    pushed = {"name": "relayed", "version": "1.0", "targetindex": f"{writer.user}/prod"}
    writer.expect(200, "POST", f"/{writer.index}", pushed)
    links = writer.expect(200, "GET", f"/{writer.user}/prod/relayed/1.0").json()["result"]["+links"]
    assert sorted(link["rel"] for link in links) == ["doczip", "releasefile", "toxresult"]
    writer.expect(200, "DELETE", f"/{writer.index}/relayed/1.0")
    assert writer.links(writer.index, "relayed") == {}
    writer.expect(200, "PATCH", f"/{writer.index}", ["title=Through the replica"])
    assert writer.upload(writer.index, "relayed", "1.0", "x.txt", b"no release").status in (400, 409)
    caught_up(replica)
    assert differences(replica, master) == []


def test_logins_hold_on_both_nodes(master, replica):
    for node, other in ((master, replica), (replica, master)):
        client = new_index(node)
        replica.wait_serial(master.serial())
        for each in (node, other):
            who = signed_in(each, client).expect(200, "GET", "/+api").json()["result"]["authstatus"]
            assert who[:2] == ["ok", client.user], (node.name, each.name)


def test_the_devpi_command_works_through_the_replica(devpi, replica):
    devpi("use", replica.url)
    devpi("login", "tom", "--password=twin-secret")
    assert "tom" in devpi("use", "tom/own")
    devpi("upload", devpi.wheel("by-command", "1.0"))
    assert "by_command-1.0-py3-none-any.whl" in devpi("list", "by-command")
    devpi("push", "by-command==1.0", "ann/prod")
    assert "ann/prod" in devpi("list", "--index", "ann/prod", "by-command")


def test_mirror_pages_and_files_come_through_the_master(master, replica, upstream):
    """The replica takes the master for the upstream of each mirror, and waits for the serial that its page names."""
    filename, content = wheel("fresh", "2.0", b"# upstream\n")
    upstream.put("fresh", filename, content)
    caught_up(replica)
    with Client(replica.url) as client, Client(master.url) as other:
        assert client.ask("GET", "/ann/mir/+simple/", headers={"Accept": "text/html"}).status == 200
        links = client.links("ann/mir", "fresh")
        assert filename in links
        newer, _ = wheel("fresh", "2.1", b"# upstream\n")
        upstream.put("fresh", newer, wheel("fresh", "2.1", b"# upstream\n")[1])
        assert until("the new file", lambda: newer in client.links("ann/mir", "fresh"))
        got = client.expect(200, "GET", links[filename]["url"], headers={"Accept": "*/*"})
        assert got.body == content
        assert upstream.asked[f"/files/fresh/{filename}"] == 1, "the master fetched it once, and the replica from it"
        for project in ("six", "odd-name"):
            assert client.links("ann/mir", project).keys() == other.links("ann/mir", project).keys()
        assert client.ask("GET", "/ann/mir/+simple/no-such-project/", headers={"Accept": "text/html"}).status == 404
        client.login("ann", "twin-secret")
        refreshed = client.ask("POST", "/ann/mir/+simple/fresh/refresh", headers={"Accept": "text/html"})
        assert refreshed.status in (200, 302, 303), refreshed.body[:300]
    caught_up(replica)
    assert differences(replica, master) == []


def test_restarts_of_either(master, replica):
    writer = new_index(master)
    for number, (node, is_killed) in enumerate([(replica, False), (replica, True), (master, False), (master, True)]):
        caught_up(replica)
        node.stop(kill=is_killed)
        if node is replica:
            assert writer.upload(writer.index, "kept", f"1.{number}", *wheel("kept", f"1.{number}")).status == 200
        node.start()
        if node is master:
            through = signed_in(replica, writer)
            version = f"2.{number}"
            assert until("an upload", lambda: through.upload(writer.index, "kept", version, *wheel("kept", version)).status == 200)
    caught_up(replica)
    assert differences(replica, master) == []


def test_nothing_is_left_over(master, replica):
    shown = caught_up(replica)
    assert shown["replication-errors"] == {} and shown["serial"] == master.serial()
    assert differences(replica, master) == []
    assert same_files(master, replica) > 15
    assert log_on_disk(replica) == wire.log(master)
