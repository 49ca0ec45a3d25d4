"""What must be true once nothing goes wrong any more and all changes came to an end."""

from __future__ import annotations

import hashlib
import http.client
import time

from clients import USER, normal, sha256
from history import ABSENT, History
from nodes import Client, Failed, Node
from readlog import check_log

CONVERGE_SECONDS = 90
FILES_SECONDS = 90


class Quiet:
    def __init__(self, nodes: list[Node], history: History):
        self.nodes, self.history = nodes, history
        self.highest = -1
        # How long it took from quiet to equal.
        self.longest = 0.0

    def check(self):
        if not self.settle():
            return
        seen = {node.name: self.state(node) for node in self.nodes}
        first = seen[self.nodes[0].name]
        for node in self.nodes[1:]:
            self.history.checked("Convergence")
            if seen[node.name] != first:
                self.history.violated("Convergence", f"{node.name} shows other pages: {difference(first, seen[node.name])}")
        self.judge(first)
        for node in self.nodes:
            self.files(node, first)
        self.logs_without_panic()

    def settle(self) -> bool:
        """Waits until all nodes have one position."""
        began, last = time.monotonic(), None
        while time.monotonic() - began < CONVERGE_SECONDS:
            positions = [position(node) for node in self.nodes]
            if positions[0] is not None and len(set(positions)) == 1 and positions == last:
                break
            last = positions
            time.sleep(0.2)
        else:
            names = {node.name: place for node, place in zip(self.nodes, positions)}
            states = {node.name: state_of(node) for node in self.nodes[1:]}
            self.history.violated("Convergence", f"after {CONVERGE_SECONDS} s of quiet: {names}, {states}")
            return False
        self.longest = max(self.longest, time.monotonic() - began)
        self.history.checked("Convergence", len(self.nodes))
        self.history.checked("Gap-free")
        if positions[0][0] < self.highest:
            self.history.violated("Durable", f"the log ends at {positions[0][0]} and had {self.highest}")
        self.highest = positions[0][0]
        return True

    def state(self, node: Node) -> dict[tuple, object]:
        """All things that a node shows."""
        shown: dict[tuple, object] = {}
        with Client(node.url) as client:
            user = client.expect(200, "GET", f"/{USER}").json()["result"]
            for name, config in sorted(user["indexes"].items()):
                index = f"{USER}/{name}"
                shown["title", index] = config.get("title", ABSENT)
                for project in client.expect(200, "GET", f"/{index}").json()["result"]["projects"]:
                    for filename, entry in client.links(index, project).items():
                        key = ("file", index, project, version_of(project, filename), filename)
                        shown[key] = (entry["hashes"]["sha256"], entry["url"].split("#")[0])
                    versions = client.expect(200, "GET", f"/{index}/{project}").json()["result"]
                    for version, data in versions.items():
                        for link in data.get("+links", []):
                            if link["rel"] == "doczip":
                                shown["docs", index, project, version] = link["hash_spec"].partition("=")[2]
        return shown

    def judge(self, shown: dict[tuple, object]):
        """Compares what is shown with what clients did."""
        with self.history.lock:
            slots = dict(self.history.slots)
        for key, slot in slots.items():
            seen = shown.get(key, ABSENT)
            seen = seen[0] if isinstance(seen, tuple) else seen
            self.history.checked("Durable" if slot.settled is not ABSENT else "No-resurrection")
            if broken := slot.judge(seen):
                self.history.violated(broken, f"{key} is {seen}, may be {slot.may_be()}")
            slot.resolve(seen)
        for key in shown:
            if key[0] != "title" and key not in slots:
                self.history.violated("Unique", f"{key} is there and nobody put it there")

    def files(self, node: Node, shown: dict[tuple, object]):
        """Every file comes with the bytes that its page names, and a replica fetches all of them by itself."""
        end = time.monotonic() + FILES_SECONDS
        while node.master and (wanted := files_wanted(node)):
            if end < time.monotonic():
                self.history.violated("Convergence", f"{node.name} still wants files: {wanted}")
                return
            time.sleep(0.2)
        with Client(node.url) as client:
            for key, value in shown.items():
                if key[0] != "file":
                    continue
                self.history.checked("File-hash-exact")
                answer = client.ask("GET", normal(value[1]), headers={"Accept": "*/*"})
                # Who became the master gets from the others what it had not fetched yet.
                while answer.status == 503 and node.master is None and time.monotonic() < end:
                    time.sleep(0.2)
                    answer = client.ask("GET", normal(value[1]), headers={"Accept": "*/*"})
                if answer.status != 200:
                    self.history.violated("Convergence", f"{node.name}: {value[1]}: {answer.status} {answer.reason}")
                elif sha256(answer.body) != value[0]:
                    self.history.violated("File-hash-exact", f"{node.name}: {value[1]}")

    def logs_without_panic(self):
        for node in self.nodes:
            if b"panicked at" in node.log.read_bytes():
                self.history.violated("Node", f"{node.name} panicked, see {node.log}")

    def check_logs(self):
        """The databases of stopped nodes: dense serials, a true chain, the same values."""
        logs = set()
        for node in self.nodes:
            try:
                logs.add(check_log(node))
            except Failed as error:
                self.history.violated("Gap-free", str(error))
        self.history.checked("Gap-free", len(self.nodes))
        if len(logs) != 1:
            self.history.violated("Convergence", f"the logs of stopped nodes differ: {logs}")


def position(node: Node) -> tuple[int, str] | None:
    try:
        with Client(node.url, timeout=10) as client:
            return client.position()
    except (OSError, http.client.HTTPException):
        return None


def status(node: Node) -> dict:
    try:
        with Client(node.url, timeout=10) as client:
            return client.expect(200, "GET", "/+status").json()["result"]
    except (OSError, http.client.HTTPException, Failed):
        return {}


def state_of(node: Node) -> tuple:
    shown = status(node)
    return shown.get("replication-state"), shown.get("replication-state-reason")


def files_wanted(node: Node):
    """What a replica does not have yet; nothing if all is there."""
    shown = status(node)
    counts = (shown.get("files-wanted"), shown.get("files-failed"))
    return None if counts == (0, 0) else (counts, shown.get("replication-errors"))


def version_of(project: str, filename: str) -> str:
    return filename[len(project) + 1 :].removesuffix(".zip").split("-")[0]


def difference(one: dict, other: dict) -> str:
    keys = sorted(set(one) | set(other), key=repr)
    return str([(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)][:5])


def digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
