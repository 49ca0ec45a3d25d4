"""The master is gone: a replica is promoted, the others follow it, and the old one comes back. Real processes, and the options of all nodes
stay what they were before."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from conftest import PASSWORD
from nodes import Client, Failed, Node, make_secret, run, wheel

pytestmark = pytest.mark.ours

# How often commands are killed; a long run sets more.
KILLS = int(os.environ.get("TWINPI_ROLE_KILLS", "6"))


class Nodes:
    """Some nodes with one secret: the first is the master, the others follow it unless told otherwise."""

    def __init__(self, folder: Path, binary: Path):
        self.folder, self.binary = folder, binary
        self.secret = make_secret(binary, folder)
        self.all: list[Node] = []
        self.auth = ""

    def add(self, name: str, master: Node | None = None, master_url: str | None = None) -> Node:
        role = "replica" if master else "master"
        node = Node(name, self.folder, self.binary, role=role, master=master, secret=self.secret, master_url=master_url)
        node.init()
        node.start()
        self.all.append(node)
        return node

    def prepare(self, node: Node, volatile: bool = True):
        """Makes the index that changes go to."""
        with Client(node.url) as client:
            client.expect(201, "PUT", "/ann", {"password": PASSWORD})
            client.basic("ann", PASSWORD)
            self.auth = client.auth
            client.expect(200, "PUT", "/ann/dev", {"type": "stage", "volatile": str(volatile), "bases": ""})

    def upload(self, node: Node, version: str, name: str = "hello", content: bytes = b"", headers=None):
        with Client(node.url, timeout=30) as client:
            client.auth = self.auth
            filename, packed = wheel(name, version, content)
            return client.upload("ann/dev", name, version, filename, packed)

    def uploaded(self, node: Node, version: str, name: str = "hello", content: bytes = b"") -> int:
        answer = self.upload(node, version, name, content)
        assert answer.status == 200, (answer.status, answer.reason)
        return answer.serial

    def links(self, node: Node, name: str = "hello") -> set:
        with Client(node.url) as client:
            return set(client.links("ann/dev", name))

    def status(self, node: Node) -> dict:
        with Client(node.url, timeout=20) as client:
            return client.expect(200, "GET", "/+status").json()["result"]

    def command(self, name: str, node: Node, *rest, check: bool = True) -> dict | str:
        line = [self.binary, name, "--serverdir", node.data, "--json", *rest]
        done = run(line, check=check)
        if done.returncode:
            return done.stdout
        return json.loads(done.stdout[done.stdout.index("{") :])

    def refused(self, name: str, node: Node, *rest) -> str:
        said = self.command(name, node, *rest, check=False)
        assert isinstance(said, str), said
        return said

    def demote(self, node: Node, to: Node) -> dict:
        secret = [] if node.is_running() else ["--secretfile", self.secret]
        return self.command("demote", node, "--primary-url", to.url, *secret)["demoted"]

    def wait_equal(self, *nodes: Node):
        head = max(node.serial() for node in nodes)
        for node in nodes:
            node.wait_serial(head)
        positions = {node.name: position(node) for node in nodes}
        assert len(set(positions.values())) == 1, positions

    def wait_state(self, node: Node, state: str, seconds: float = 20) -> dict:
        end = time.monotonic() + seconds
        while (status := self.status(node)).get("replication-state") != state:
            assert time.monotonic() < end, (status.get("replication-state"), status.get("replication-trouble"), node.tail())
            time.sleep(0.05)
        return status

    def stop(self):
        for node in self.all:
            if node.process and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
            node.stop(kill=True)


def position(node: Node) -> tuple[int, str]:
    with Client(node.url) as client:
        return client.position()


@pytest.fixture
def nodes(tmp_path, binary):
    nodes = Nodes(tmp_path, binary)
    yield nodes
    nodes.stop()


@pytest.fixture
def three(nodes):
    """A master with two replicas that have all it has."""
    a = nodes.add("a")
    nodes.prepare(a)
    b, c = nodes.add("b", a), nodes.add("c", a)
    nodes.uploaded(a, "1.0")
    nodes.wait_equal(a, b, c)
    return nodes, a, b, c


class Meter:
    """Passes connections on, counts what comes back, and can hold it back."""

    def __init__(self, node: Node):
        self.target, self.moved = node.port, 0
        self.passes = threading.Event()
        self.passes.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            for source, sink, counts in ((client, server, False), (server, client, True)):
                threading.Thread(target=self.pump, args=(source, sink, counts), daemon=True).start()

    def pump(self, source, sink, counts: bool):
        try:
            while data := source.recv(1 << 16):
                if counts:
                    self.passes.wait()
                    self.moved += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def test_siblings_follow_a_promoted_replica_without_a_new_copy(nodes):
    a = nodes.add("a")
    nodes.prepare(a)
    b, c = nodes.add("b", a), nodes.add("c", a)
    for number in range(12):
        nodes.uploaded(a, f"1.{number}", content=b"#" + os.urandom(150_000).hex().encode())
    nodes.wait_equal(a, b, c)
    wait_files(c, 12)
    held = sum(path.stat().st_size for path in (c.data / "+files").rglob("*") if path.is_file())
    a.stop(kill=True)
    uuid = nodes.status(b)["uuid"]
    nodes.command("promote", b)
    meter = Meter(b)
    nodes.command("follow", c, meter.url)
    nodes.uploaded(b, "2.0")
    nodes.wait_equal(b, c)
    status = nodes.wait_state(c, "following")
    assert meter.moved < held / 100, (meter.moved, held)
    assert status["primary-uuid"] == uuid == nodes.status(b)["uuid"], "the promoted node keeps its uuid"
    # Both were started with the address of the old master, which they do not go back to.
    for node in (b, c):
        node.stop()
        node.start()
    nodes.uploaded(c, "3.0")
    nodes.wait_equal(b, c)


def wait_files(node: Node, count: int):
    end = time.monotonic() + 30
    while len(list((node.data / "+files").rglob("*.whl"))) < count:
        assert time.monotonic() < end, node.tail()
        time.sleep(0.05)


def test_the_plan_tells_what_a_promotion_costs_and_who_lags_is_refused(nodes):
    a = nodes.add("a")
    nodes.prepare(a)
    meter = Meter(a)
    b = nodes.add("b", a, meter.url)
    first = nodes.uploaded(a, "1.0")
    b.wait_serial(first)
    wait_files(b, 1)
    plan = nodes.command("promote", b, "--plan")
    assert (plan["serial"], plan["epoch"], plan["serials-lost"]) == (first, 2, None)
    assert plan["master"]["serial"] == first and plan["objections"] == []
    assert plan["files-missing"]["count"] == 0
    # A file that is not here is in the bill, with its size.
    held = next((b.data / "+files").rglob("*.whl"))
    size = held.stat().st_size
    held.rename(held.with_suffix(".away"))
    missing = nodes.command("promote", b, "--plan")["files-missing"]
    assert (missing["count"], missing["bytes"]) == (1, size)
    assert missing["names"][0].endswith(held.name)
    held.with_suffix(".away").rename(held)
    # The answer to a relayed change names its serial, which does not come.
    lag(nodes, meter, a, b)
    a.stop(kill=True)
    plan = nodes.command("promote", b, "--plan")
    assert plan["serials-lost"]["count"] == 1, plan
    for running in (True, False):
        assert "--accept-loss" in nodes.refused("promote", b)
        assert nodes.status(b)["role"] == "REPLICA" if running else not b.is_running()
        b.stop()
    nodes.command("promote", b, "--accept-loss")
    b.start()
    assert nodes.uploaded(b, "2.0") == first + 1


def lag(nodes: Nodes, meter: Meter, a: Node, b: Node):
    """Leaves b with the knowledge of a serial that it does not have: the entry is held back on its way."""
    with sqlite3.connect(b.data / "twinpi.sqlite") as database:
        before = database.execute("SELECT max(serial) FROM changelog").fetchone()[0]
    b.stop()
    meter.passes.clear()
    serial = nodes.uploaded(a, "1.1")
    with sqlite3.connect(b.data / "twinpi.sqlite") as database:
        seen = json.loads(database.execute("SELECT value FROM local WHERE name = 'master-seen'").fetchone()[0])
        seen["serial"] = serial
        database.execute("UPDATE local SET value = ? WHERE name = 'master-seen'", (json.dumps(seen).encode(),))
    database.close()
    b.start()
    assert b.serial() == before < serial


def test_an_old_master_that_comes_back_takes_no_write_and_rejoins_with_a_report(three):
    nodes, a, b, c = three
    common = a.serial()
    # What only the old master has: a new file, another version, and a deletion.
    for node in (b, c):
        node.stop()
    nodes.uploaded(a, "6.6", name="alone", content=b"# only here")
    nodes.uploaded(a, "1.1")
    with Client(a.url) as client:
        client.auth = nodes.auth
        client.expect(200, "DELETE", "/ann/dev/hello/1.0")
    ahead = a.serial()
    a.stop(kill=True)
    b.start()
    nodes.command("promote", b)
    nodes.uploaded(b, "2.0")
    a.start()
    refused = nodes.upload(a, "7.7", name="late")
    assert refused.status == 503 and "epoch 2" in refused.reason, (refused.status, refused.reason)
    assert a.serial() == ahead
    a.stop()
    a.start()
    assert nodes.upload(a, "7.8", name="late").status == 503, "also after a restart"
    report = nodes.demote(a, b)
    assert report["last-common-serial"] == common and report["entries-saved"] == ahead - common
    folder = Path(report["folder"])
    entries = [json.loads(line) for line in (folder / "entries.jsonl").read_text().splitlines()]
    assert [entry["serial"] for entry in entries] == list(range(common + 1, ahead + 1))
    assert any(change["is-deleted"] for change in entries[-1]["changes"])
    (saved,) = (folder / "files").rglob("alone-6.6-py3-none-any.whl")
    assert saved.read_bytes() == wheel("alone", "6.6", b"# only here")[1]
    assert folder.stat().st_mode & 0o077 == 0
    summary = json.loads((folder / "report.json").read_text())
    assert summary["serials"] == {"from": common + 1, "to": ahead} and summary["files-count"] == 2
    nodes.wait_equal(a, b)
    assert nodes.links(a) == nodes.links(b) and len(nodes.links(a)) == 2
    assert not nodes.links(a, "alone")
    # It was started as a master, and stays a replica.
    a.stop()
    a.start()
    nodes.wait_state(a, "following")
    nodes.uploaded(a, "3.0")
    nodes.wait_equal(a, b)


def test_a_stopped_node_is_demoted_and_promoted_too(three):
    nodes, a, b, c = three
    for node in (a, b, c):
        node.stop()
    nodes.command("promote", b)
    nodes.command("follow", c, b.url)
    b.start()
    nodes.uploaded(b, "2.0")
    report = nodes.demote(a, b)
    assert report["entries-saved"] == 0 and report["folder"] is None
    for node in (a, c):
        node.start()
        nodes.wait_state(node, "following")
    nodes.uploaded(a, "2.1")
    nodes.wait_equal(a, b, c)


def test_two_promotions_in_a_row_leave_one_writer(three):
    nodes, a, b, c = three
    nodes.command("promote", b)
    nodes.command("follow", c, b.url)
    nodes.uploaded(c, "2.0")
    nodes.command("promote", c)
    nodes.uploaded(c, "3.0")
    # Each of the old ones was told, whoever it followed or was followed by.
    for old, version in ((a, "4.0"), (b, "4.1")):
        end = time.monotonic() + 10
        while (answer := nodes.upload(old, version, name="late")).status != 503:
            assert time.monotonic() < end, (old.name, answer.status)
        assert "replaced" in answer.reason or "another one was promoted" in answer.reason, answer.reason
    for old in (a, b):
        nodes.demote(old, c)
    nodes.wait_equal(a, b, c)
    assert nodes.status(a)["position"]["epoch"] == 3 if "epoch" in nodes.status(a)["position"] else True


def test_a_promotion_while_the_master_lives_loses_nothing(three):
    nodes, a, b, c = three
    taken, stop = [], threading.Event()

    def load(node: Node, number: int):
        while not stop.is_set():
            version = f"{number}.{len(taken)}.{random.randrange(10**9)}"
            try:
                answer = nodes.upload(node, version, name="load")
            except OSError:
                continue
            if answer.status == 200:
                taken.append(f"load-{version}-py3-none-any.whl")

    threads = [threading.Thread(target=load, args=(node, n)) for n, node in enumerate((a, b, c), 1)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    nodes.command("promote", b)
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    nodes.command("follow", c, b.url)
    report = nodes.demote(a, b)
    nodes.wait_equal(a, b, c)
    assert set(taken) <= nodes.links(b, "load"), f"{len(set(taken) - nodes.links(b, 'load'))} lost; {report}"
    assert len(taken) > 3


def test_a_master_that_stood_still_answers_for_nothing_when_it_goes_on(three):
    nodes, a, b, c = three
    a.process.send_signal(signal.SIGSTOP)
    results = []
    # Sent to the old master while it stands still: the system takes them in.
    threads = [
        threading.Thread(target=lambda n=n: results.append(nodes.upload(a, f"5.{n}", name="still"))) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    nodes.command("promote", b)
    nodes.uploaded(b, "2.0")
    time.sleep(2)
    a.process.send_signal(signal.SIGCONT)
    for thread in threads:
        thread.join()
    assert [answer.status for answer in results] == [503] * 3, [(r.status, r.reason) for r in results]
    nodes.demote(a, b)
    nodes.command("follow", c, b.url)
    nodes.wait_equal(a, b, c)
    assert not nodes.links(b, "still")


def test_kill_during_a_change_of_role_leaves_one_or_the_other(three):
    """Whatever is cut off, the node starts again with its old options, and the same command ends what it began."""
    nodes, a, b, c = three
    seed = int(os.environ.get("TWINPI_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    master, other = a, b
    seen = set()
    for number in range(KILLS):
        # A promotion, cut off at any moment.
        master.stop(kill=True)
        cut_off(nodes, other, chance, "promote", "--accept-loss")
        other.start()
        role = nodes.status(other)["role"]
        seen.add(role)
        if role == "REPLICA":
            nodes.command("promote", other, "--accept-loss")
        nodes.uploaded(other, f"2.{number}", name="after")
        # The old master alone gets a change, then follows, cut off at any moment too.
        other.stop()
        master.start()
        time.sleep(1.5)  # it is in doubt for a moment
        assert nodes.upload(master, f"3.{number}", name="alone").status in (200, 503)
        other.start()
        cut_off(nodes, master, chance, "demote", "--primary-url", other.url)
        master.start()
        if nodes.status(master)["role"] == "MASTER":
            assert nodes.upload(master, f"4.{number}", name="alone").status == 503
            nodes.command("demote", master, "--primary-url", other.url)
        nodes.wait_equal(master, other)
        assert not list(master.data.glob("lost-*/entries.jsonl.tmp"))
        master, other = other, master
    print(f"after a cut promotion: {seen}")


def cut_off(nodes: Nodes, node: Node, chance: random.Random, name: str, *rest):
    """Gives a command to a running node and kills the node a moment later."""
    line = threading.Thread(target=lambda: nodes.command(name, node, *rest, check=False), daemon=True)
    line.start()
    time.sleep(chance.uniform(0, 0.25))
    node.stop(kill=True)


def test_a_node_that_writes_is_not_led_elsewhere_by_mistake(three):
    nodes, a, b, c = three
    assert "demote" in nodes.refused("follow", a, b.url)
    assert "no replica" in nodes.refused("promote", a)
    assert "follows this node" in nodes.refused("demote", a, "--primary-url", b.url)
    assert "itself" in nodes.refused("demote", a, "--primary-url", a.url)
    nodes.command("promote", b)
    assert "older" in nodes.refused("demote", b, "--primary-url", a.url)
    assert nodes.upload(a, "9.9").status == 503
    assert "took its place" in nodes.refused("promote", a), "who was replaced is not promoted by mistake"
    nodes.uploaded(b, "9.9")


def test_a_replica_that_was_further_than_the_new_master_drops_nothing_by_itself(three):
    nodes, a, b, c = three
    common = b.serial()
    b.stop()
    nodes.uploaded(a, "1.1", name="further", content=b"# b never saw it")
    c.wait_serial(a.serial())
    wait_files(c, 2)
    a.stop(kill=True)
    b.start()
    nodes.command("promote", b, "--accept-loss")
    nodes.command("follow", c, b.url)
    status = nodes.wait_state(c, "ahead")
    assert "twinpi demote" in status["replication-state-reason"]
    nodes.uploaded(b, "2.0")
    assert nodes.wait_state(c, "forked")["last-common-serial"] == common
    assert nodes.links(c, "further"), "it is still served"
    report = nodes.demote(c, b)
    assert (report["last-common-serial"], report["entries-saved"], report["files-saved"]) == (common, 1, 1)
    nodes.wait_equal(b, c)
    assert not nodes.links(c, "further")
