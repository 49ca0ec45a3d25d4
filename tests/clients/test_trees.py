"""Replicas of replicas: what the master commits comes down, and changes go up, over as many nodes as there are."""

from __future__ import annotations

import secrets
import threading
import time

import pytest

from nodes import Client, Node, wheel
from test_failover import Nodes, wait_files

pytestmark = pytest.mark.ours


@pytest.fixture
def chain(tmp_path, binary):
    """A master, a replica of it, and a replica of that."""
    nodes = Nodes(tmp_path, binary)
    a = nodes.add("a")
    nodes.prepare(a)
    b = nodes.add("b", a)
    c = nodes.add("c", b)
    nodes.wait_equal(a, b, c)
    yield nodes, a, b, c
    nodes.stop()


def header(node: Node, name: str) -> str:
    with Client(node.url) as client:
        return client.expect(200, "GET", "/+api").headers[name]


def test_a_change_at_the_bottom_is_visible_there_when_it_is_answered(chain):
    nodes, a, b, c = chain
    for number in range(5):
        serial = nodes.uploaded(c, f"1.{number}")
        # Each on the way has it: the one in the middle waited too.
        assert all(f"hello-1.{number}-py3-none-any.whl" in nodes.links(node) for node in (c, b, a))
        assert all(serial <= node.serial() for node in (c, b, a))
    wait_files(c, 5)
    nodes.wait_equal(a, b, c)
    uuids = {header(node, "X-DEVPI-PRIMARY-UUID") for node in (a, b, c)}
    assert uuids == {header(a, "X-DEVPI-UUID")}, "all name the master at the top"
    assert list(nodes.status(b)["polling_replicas"]) == [nodes.status(c)["uuid"]]


def test_a_file_comes_down_the_tree_for_who_asks_at_the_bottom(tmp_path, binary):
    nodes = Nodes(tmp_path, binary)
    try:
        a = nodes.add("a")
        nodes.prepare(a)
        b = nodes.add("b", a)
        b.stop()
        b.extra = ["--file-replication-skip-indexes", "all"]
        b.start()
        c = nodes.add("c", b)
        c.stop()
        c.extra = ["--file-replication-skip-indexes", "all"]
        c.start()
        nodes.uploaded(a, "1.0", content=b"# the content")
        nodes.wait_equal(a, b, c)
        assert not list((c.data / "+files").rglob("*.whl")) and not list((b.data / "+files").rglob("*.whl"))
        with Client(c.url) as client:
            link = client.links("ann/dev", "hello")["hello-1.0-py3-none-any.whl"]
            body = client.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body
        assert body == wheel("hello", "1.0", b"# the content")[1]
        wait_files(c, 1)
        wait_files(b, 1)
    finally:
        nodes.stop()


def test_a_receipt_is_known_over_the_tree(chain):
    nodes, a, b, c = chain
    key = secrets.token_hex(16)
    with Client(c.url) as client:
        client.auth = nodes.auth
        headers = {"X-TWINPI-RECEIPT": key}
        first = client.ask("PATCH", "/ann/dev", {"title": "once"}, headers)
        again = client.ask("PATCH", "/ann/dev", {"title": "once"}, headers)
        assert (first.status, again.status, first.serial) == (200, 200, again.serial)
        for node in (a, b, c):
            with Client(node.url) as other:
                receipt = other.expect(200, "GET", f"/+receipt/{key}").json()
            assert (receipt["state"], receipt["serial"]) == ("committed", first.serial), node.name


def test_a_closed_index_comes_down_too(chain):
    nodes, a, b, c = chain
    with Client(a.url) as client:
        client.auth = nodes.auth
        client.expect(200, "PATCH", "/ann/dev", {"acl_pkg_read": ["ann"]})
    nodes.uploaded(c, "1.0")
    wait_files(c, 1)
    nodes.wait_equal(a, b, c)
    with Client(c.url) as client:
        assert client.ask("GET", "/ann/dev/+simple/hello/").status in (401, 403)


def test_a_child_is_led_to_another_parent_and_goes_on(chain):
    nodes, a, b, c = chain
    nodes.uploaded(c, "1.0")
    nodes.command("follow", c, a.url)
    b.stop()
    nodes.uploaded(c, "1.1")
    nodes.wait_equal(a, c)
    b.start()
    nodes.command("follow", c, b.url)
    nodes.uploaded(c, "1.2")
    nodes.wait_equal(a, b, c)
    assert not list(c.data.glob("lost-*"))


def test_the_one_in_the_middle_is_promoted_and_its_child_stays(chain):
    nodes, a, b, c = chain
    nodes.uploaded(c, "1.0")
    a.stop(kill=True)
    nodes.command("promote", b)
    nodes.uploaded(c, "1.1")
    nodes.wait_equal(b, c)
    assert header(c, "X-DEVPI-PRIMARY-UUID") == header(b, "X-DEVPI-UUID")
    a.start()
    nodes.demote(a, c)
    nodes.uploaded(a, "1.2")
    nodes.wait_equal(a, b, c)


def test_nobody_says_not_found_while_the_parent_is_not_current(chain):
    nodes, a, b, c = chain
    nodes.uploaded(c, "1.0")
    with Client(c.url) as client:
        assert client.ask("GET", "/ann/dev/+simple/unheard/").status == 404
        a.stop(kill=True)
        # The parent knows at once, the child with the next answer to its poll.
        nodes.wait_state(b, "unreachable")
        end = time.monotonic() + 45
        while (answer := client.ask("GET", "/ann/dev/+simple/unheard/")).status == 404:
            assert time.monotonic() < end, "the child goes on saying so"
            time.sleep(0.25)
        assert answer.status in (502, 503), answer.status
        assert client.ask("GET", "/ann/dev/+simple/hello/").status == 200


def test_nodes_that_follow_each_other_say_so(chain):
    nodes, a, b, c = chain
    nodes.command("follow", b, c.url)
    reason, end = "", time.monotonic() + 75
    while "circle" not in reason:
        assert time.monotonic() < end, [nodes.status(node)["replication-trouble"] for node in (b, c)]
        time.sleep(0.2)
        reason = "".join(nodes.status(node)["replication-trouble"] or "" for node in (b, c))
    answer = nodes.upload(c, "9.9")
    assert answer.status == 508 and "circle" in answer.reason, (answer.status, answer.reason)
    nodes.command("follow", b, a.url)
    nodes.uploaded(c, "1.0")
    nodes.wait_equal(a, b, c)


def test_a_line_of_four_takes_changes_at_each_end_at_once(chain):
    nodes, a, b, c = chain
    d = nodes.add("d", c)
    errors = []

    def work(node: Node):
        for number in range(5):
            answer = nodes.upload(node, f"{number}.0", name=f"from-{node.name}")
            if answer.status != 200 or answer.serial > node.serial():
                errors.append((node.name, answer.status, answer.reason))

    threads = [threading.Thread(target=work, args=(node,)) for node in (a, b, c, d)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    nodes.wait_equal(a, b, c, d)
