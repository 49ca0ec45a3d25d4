"""A devpi-server as the master of a twinpi: its whole history, then live, its files, its mirrors, and relays to it."""

from __future__ import annotations

import time

import pytest
from conftest import caught_up, differences, file_bytes, file_paths, new_index, planted, signed_in, status, until
from history import PASSWORD, TOX, doc_zip
from nodes import Client, wheel

import wire


@pytest.fixture(scope="module")
def master(nodes, seed):
    return planted(nodes, seed, "master")


@pytest.fixture(scope="module")
def replica(nodes, master):
    return nodes.start("twinpi", "replica", master)


def test_a_history_made_with_the_devpi_command_comes_whole(master, replica):
    shown = caught_up(replica)
    assert (shown["role"], shown["replication-state"]) == ("REPLICA", "following"), shown
    assert shown["primary-uuid"] == status(master)["uuid"]
    assert differences(replica, master) == []
    records, gone = file_paths(wire.log(master))
    assert len(records) > 9 and len(gone) >= 4
    assert file_bytes(replica, records) == file_bytes(master, records)
    for node in (master, replica):
        with Client(node.url) as client:
            stages = {path: client.ask("GET", f"/{path}", headers={"Accept": "*/*"}).status for path in gone}
        assert set(stages.values()) == {410}, (node.name, stages)


def test_the_master_lists_the_replica(master, replica):
    polling = status(master)["polling_replicas"][status(replica)["uuid"]]
    assert polling["serial"] == master.serial()


def test_what_the_master_commits_is_here_at_once(master, replica):
    writer = new_index(master)
    filename, content = wheel("live", "1.0")
    serial = writer.upload(writer.index, "live", "1.0", filename, content).serial
    since = time.monotonic()
    replica.wait_serial(serial)
    assert time.monotonic() - since < 2
    with Client(replica.url) as reader:
        link = reader.links(writer.index, "live")[filename]
        assert reader.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body == content
    writer.expect(200, "DELETE", f"/{writer.index}/live")
    caught_up(replica)
    with Client(replica.url) as reader:
        assert reader.links(writer.index, "live") == {}
        assert reader.ask("GET", link["url"], headers={"Accept": "*/*"}).status == 410


def test_what_is_changed_through_the_replica_is_seen_there_at_once(master, replica):
    writer = new_index(replica)
    filename, content = wheel("relayed", "1.0")
    for overwritten in (b"", b"# other\n"):
        filename, content = wheel("relayed", "1.0", overwritten)
        assert writer.upload(writer.index, "relayed", "1.0", filename, content).status == 200
        link = writer.links(writer.index, "relayed")[filename]
        assert writer.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body == content
    path = link["url"].removeprefix(replica.url)
    assert writer.expect(200, "POST", path, TOX).headers["X-DEVPI-PROXY"] == "replica"
    fields = {":action": "doc_upload", "filetype": "doc"}
    assert writer.upload(writer.index, "relayed", "1.0", "relayed-1.0.doc.zip", doc_zip("relayed"), fields).status == 200
    writer.expect(200, "PUT", f"/{writer.user}/prod", {"type": "stage", "bases": ""})
    pushed = {"name": "relayed", "version": "1.0", "targetindex": f"{writer.user}/prod"}
    writer.expect(200, "POST", f"/{writer.index}", pushed)
    rels = [link["rel"] for link in writer.expect(200, "GET", f"/{writer.user}/prod/relayed/1.0").json()["result"]["+links"]]
    assert sorted(rels) == ["doczip", "releasefile", "toxresult"]
    writer.expect(200, "DELETE", f"/{writer.index}/relayed/1.0")
    assert writer.links(writer.index, "relayed") == {}
    writer.expect(200, "PATCH", f"/{writer.index}", ["title=Through the replica"])
    caught_up(replica)
    assert differences(replica, master) == []


def test_logins_hold_on_both_nodes(master, replica):
    there, here = new_index(master), new_index(replica)
    for client, other in ((there, replica), (here, master)):
        replica.wait_serial(master.serial())
        who = signed_in(other, client).expect(200, "GET", "/+api").json()["result"]["authstatus"]
        assert who[:2] == ["ok", client.user]
    refused = Client(replica.url).ask("POST", "/+login", {"user": here.user, "password": "wrong"})
    assert refused.status == 401


def test_refusals_of_the_master_come_through(replica):
    owner, other = new_index(replica, volatile="False"), new_index(replica)
    stranger = signed_in(replica, other)
    assert stranger.upload(owner.index, "x", "1.0", *wheel("x", "1.0")).status == 403
    assert owner.upload(owner.index, "x", "1.0", *wheel("x", "1.0")).status == 200
    assert owner.upload(owner.index, "x", "1.0", *wheel("x", "1.0", b"# other\n")).status == 409
    assert owner.ask("DELETE", f"/{owner.index}/x").status == 403
    assert Client(replica.url).ask("PUT", f"/{owner.user}", {"password": "x"}).status in (401, 403, 409)


def test_mirror_pages_and_files_come_through_the_master(master, replica, upstream):
    filename, content = wheel("fresh", "1.0", b"# upstream\n")
    upstream.put("fresh", filename, content)
    caught_up(replica)
    with Client(replica.url) as client, Client(master.url) as other:
        links = client.links("ann/mir", "fresh")
        assert set(links) == {filename}
        # The upstream has another file: the replica's page has it as soon as the master's.
        upstream.put("fresh", *wheel("fresh", "1.1", b"# upstream\n"))
        until("the new file", lambda: len(client.links("ann/mir", "fresh")) == 2)
        got = client.expect(200, "GET", links[filename]["url"], headers={"Accept": "*/*"})
        assert got.body == content
        assert upstream.asked[f"/files/fresh/{filename}"] == 1, "the master fetched it once, and the replica from it"
        assert client.ask("GET", "/ann/mir/+simple/no-such-project/", headers={"Accept": "text/html"}).status == 404
        client.expect(200, "GET", "/ann/mir/+simple/", headers={"Accept": "text/html"})
        assert other.links("ann/mir", "fresh").keys() == client.links("ann/mir", "fresh").keys()
    caught_up(replica)
    assert differences(replica, master) == []


def test_the_master_goes_and_comes_back(master, replica, upstream):
    caught_up(replica)
    writer = new_index(replica)
    filename, content = wheel("kept", "1.0")
    assert writer.upload(writer.index, "kept", "1.0", filename, content).status == 200
    caught_up(replica)
    records, _ = file_paths(wire.log(master))
    master.stop(kill=True)
    with Client(replica.url) as client:
        assert set(client.links(writer.index, "kept")) == {filename}
        assert set(client.links("ann/mir", "six")) >= {"six-1.0-py3-none-any.whl"}
        assert client.ask("POST", "/+login", {"user": writer.user, "password": PASSWORD}).status == 503
    assert len(file_bytes(replica, records)) == len(records), "each file is here"
    refused = writer.upload(writer.index, "kept", "2.0", *wheel("kept", "2.0"))
    assert refused.status == 503 and b"nothing was changed" in refused.body
    assert until("trouble", lambda: status(replica)["replication-state"] == "unreachable")
    master.start()
    assert until("an upload", lambda: writer.upload(writer.index, "kept", "2.0", *wheel("kept", "2.0")).status == 200)
    assert status(replica)["replication-state"] == "following"


def test_the_replica_goes_and_comes_back(master, replica):
    replica.stop(kill=True)
    writer = new_index(master)
    filename, content = wheel("missed", "1.0")
    assert writer.upload(writer.index, "missed", "1.0", filename, content).status == 200
    replica.start()
    caught_up(replica)
    assert differences(replica, master) == []


def test_a_restored_backup_of_the_master_is_named_and_nothing_is_dropped(nodes, seed, upstream):
    master = planted(nodes, seed, "restored")
    replica = nodes.start("twinpi", "ahead", master)
    caught_up(replica)
    here = new_index(replica)
    assert here.upload(here.index, "lost", "1.0", *wheel("lost", "1.0")).status == 200
    caught_up(replica)
    at = replica.serial()
    master.stop()
    again = planted(nodes, seed, "backup")
    again.stop()
    again.port = master.port
    again.start()
    shown = until("the state", lambda: (s if (s := status(replica))["replication-state"] == "ahead" else None))
    assert "does not know serial" in shown["replication-trouble"], shown
    assert replica.serial() == at and len(here.links(here.index, "lost")) == 1
    replica.stop()
    again.stop()


def test_the_log_is_the_masters(master, replica):
    """As a master of its own the node hands out the same changes under the same serials."""
    caught_up(replica)
    theirs = wire.log(master)
    replica.stop()
    replica.role, replica.master = "master", None
    replica.start()
    assert wire.log(replica) == theirs
    writer = new_index(replica)
    assert writer.upload(writer.index, "after", "1.0", *wheel("after", "1.0")).status == 200
    assert wire.log(replica)[: len(theirs)] == theirs


def test_a_part_of_the_log_is_refused_since_it_sends_all(nodes, master):
    laptop = nodes.start("twinpi", "laptop", master, extra=["--replicate", "root/pypi"])
    shown = until("the refusal", lambda: (s := status(laptop))["replication-state"] == "refused" and s)
    assert "a devpi-server cannot do it" in shown["replication-state-reason"]
    assert (shown["serial"], shown["replicate"]) == (-1, ["root/pypi"])
    laptop.stop()
