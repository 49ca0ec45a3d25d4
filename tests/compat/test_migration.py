"""docs/MIGRATION.md as a test: from devpi-server to twinpi while people upload and install, and the way back."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time

from conftest import Nodes, caught_up, differences, file_bytes, file_paths, new_index, planted, signed_in, status, until
from history import PASSWORD
from nodes import Client, Failed, Node, command, run, wheel

import wire

# How long nobody may be able to upload, and nobody to read. They take a tenth of that on a quiet machine.
WRITE_STOP_SECONDS = 20
READ_STOP_SECONDS = 5


class Work:
    """People at one address: one uploads all the time and comes again when refused, one reads pages."""

    def __init__(self, node: Node, owner: Client, name: str):
        self.node, self.owner, self.name = node, owner, name
        self.done: list[tuple[str, bytes]] = []
        self.write_gap = self.read_gap = 0.0
        self.wrong: list[str] = []
        self.is_over = threading.Event()
        self.gate = threading.Lock()
        self.threads = [threading.Thread(target=part, daemon=True) for part in (self.write, self.read)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        for thread in self.threads:
            thread.join(60)
        assert self.wrong == []

    def write(self):
        last = time.monotonic()
        for number in itertools.count():
            filename, content = wheel(self.name, f"1.{number}")
            while not self.put_if_open(number, filename, content):
                if self.is_over.wait(0.02):
                    return
            self.done.append((filename, content))
            self.write_gap, last = max(self.write_gap, time.monotonic() - last), time.monotonic()
            if self.is_over.wait(0.03):
                return

    def put_if_open(self, number: int, filename: str, content: bytes) -> bool:
        with self.gate:
            return self.put(number, filename, content)

    def put(self, number: int, filename: str, content: bytes) -> bool:
        """Whether it is there; one who was not answered comes again, and learns then that it is."""
        try:
            with signed_in(self.node, self.owner) as client:
                answer = client.upload(self.owner.index, self.name, f"1.{number}", filename, content)
        except (OSError, http.client.HTTPException):
            return False
        if answer.status not in (200, 409, 500, 502, 503, 504):
            self.wrong.append(f"upload: {answer.status} {answer.body[:200]}")
        return answer.status in (200, 409)

    def read(self):
        last = time.monotonic()
        while not self.is_over.wait(0.02):
            try:
                with Client(self.node.url, timeout=10) as client:
                    found = client.links("ann/prod", "six")
            except (OSError, http.client.HTTPException, Failed):
                continue
            if "six-2.0-py3-none-any.whl" not in found:
                self.wrong.append(f"page: {found}")
            self.read_gap, last = max(self.read_gap, time.monotonic() - last), time.monotonic()

    def held(self) -> threading.Lock:
        """While this is had nothing is uploaded, as behind a proxy that refuses changes."""
        return self.gate

    def more(self, count: int = 5):
        """Waits for so many further uploads."""
        due = len(self.done) + count
        until("more uploads", lambda: due <= len(self.done))


def has_all(node: Node, work: Work):
    with Client(node.url) as client:
        links = client.links(work.owner.index, work.name)
        assert set(links) == {filename for filename, _ in work.done}
        for filename, content in work.done:
            assert client.expect(200, "GET", links[filename]["url"], headers={"Accept": "*/*"}).body == content


def promote(node: Node) -> dict:
    done = run([*command(node.binary, "promote"), "--serverdir", node.data, "--json"])
    node.role, node.master = "master", None
    return json.loads(done.stdout)


def test_there_without_a_pause_and_back(nodes: Nodes, seed):
    python = planted(nodes, seed, "python")
    ours = nodes.start("twinpi", "ours", python)
    caught_up(ours)
    # From here on everybody works with the replica, which relays.
    owner = new_index(ours, volatile="False")
    with Work(ours, owner, "moving") as work:
        work.more()
        with work.held():
            caught_up(ours)
            history = wire.log(python)
            python.stop()
            promote(ours)
        work.more(10)
    print(f"to twinpi: uploads stood still for {work.write_gap:.2f} s, pages for {work.read_gap:.2f} s")
    assert work.write_gap < WRITE_STOP_SECONDS and work.read_gap < READ_STOP_SECONDS
    log = wire.log(ours)
    assert log[: len(history)] == history and len(history) < len(log)
    has_all(ours, work)
    assert status(ours)["role"] == "MASTER"
    # Those who were logged in still are, and passwords are what they were.
    assert signed_in(ours, owner).expect(200, "GET", "/+api").json()["result"]["authstatus"][:2] == ["ok", owner.user]
    Client(ours.url).login("ann", PASSWORD)
    records, gone = file_paths(log)
    assert len(file_bytes(ours, records)) == len(records)
    with Client(ours.url) as client:
        assert {client.ask("GET", f"/{path}", headers={"Accept": "*/*"}).status for path in gone} <= {404, 410}
    there_and_back(nodes, ours)


def there_and_back(nodes: Nodes, ours: Node):
    """A devpi-server follows the twinpi, and takes its place."""
    back = nodes.start("devpi", "back", ours)
    caught_up(back)
    owner = new_index(back, volatile="False")
    with Work(back, owner, "returning") as work:
        work.more()
        with work.held():
            caught_up(back)
            history = wire.log(ours)
            ours.stop()
            back.stop()
            back.role, back.master = "primary", None
            back.start()
        work.more()
    print(f"back: uploads stood still for {work.write_gap:.2f} s, pages for {work.read_gap:.2f} s")
    log = wire.log(back)
    assert log[: len(history)] == history
    has_all(back, work)
    records, _ = file_paths(log)
    assert len(file_bytes(back, records)) == len(records)
    # And once more: a twinpi follows the devpi-server that followed a twinpi that followed a devpi-server.
    again = nodes.start("twinpi", "again", back)
    caught_up(again)
    assert differences(again, back) == []
