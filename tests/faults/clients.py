"""Clients of the torture: each works on two indexes of its own, through whichever node it likes at the moment."""

from __future__ import annotations

import hashlib
import http.client
import io
import random
import secrets
import threading
import time
import zipfile

from history import ABSENT, History
from nodes import Client, Failed, Node, wheel

USER, PASSWORD = "ann", "twin-secret"
CLIENT_SECONDS = 30
OK = (200, 201)
# The change was looked at and not carried out.
REFUSALS = (400, 403, 404, 409, 410, 422)
# A node cannot tell, or a disk is full.
OPEN = (500, 502, 503, 504, 507)
BREAKS = (OSError, http.client.HTTPException)
PROJECTS, VERSIONS = 3, 3


def pages(title: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.html", f"<html><title>{title}</title></html>")
    return packed.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Worker(threading.Thread):
    """One client. What it does is drawn from the seed; how long it takes is not."""

    def __init__(self, number: int, seed: int, nodes: list[Node], history: History, auth: str):
        super().__init__(name=f"client-{number}", daemon=True)
        self.nodes, self.history, self.auth = nodes, history, auth
        self.random = random.Random(f"{seed}-{number}")
        self.source, self.target = f"{USER}/dev{number}", f"{USER}/prod{number}"
        self.over, self.hold, self.idle = threading.Event(), threading.Event(), threading.Event()
        self.count = 0
        self.full = threading.Event()

    def run(self):
        kinds = {
            self.upload: 12,
            self.push: 3,
            self.remove_version: 2,
            self.remove_project: 1,
            self.document: 2,
            self.retitle: 2,
            self.look: 6,
        }
        while not self.over.is_set():
            if self.hold.is_set():
                self.idle.set()
                time.sleep(0.02)
                continue
            self.idle.clear()
            step = self.random.choices(list(kinds), list(kinds.values()))[0]
            try:
                step()
            except Exception as error:
                self.history.violated("Client", f"{self.name} {step.__name__}: {type(error).__name__}: {error}")
            self.over.wait(self.random.choice((0, 0.01, 0.05)))
        self.idle.set()

    # Requests

    def client(self, node: Node) -> Client:
        client = Client(node.url, timeout=CLIENT_SECONDS)
        client.auth = self.auth
        return client

    def change(self, kind: str, node: Node, method: str, path: str, body=None, headers=None) -> tuple[str, Node]:
        """Sends a change under a key, sometimes again, to any node, where its outcome is open.

        Gives "ok", "refused" or "open", and the node that said so.
        """
        key = secrets.token_urlsafe(18)
        outcome, is_first = "open", True
        for _ in range(self.random.choice((1, 2, 4))):
            try:
                with self.client(node) as client:
                    sent = {**(headers or {}), "X-TWINPI-RECEIPT": key}
                    answer = client.ask(method, path, body, sent)
            except BREAKS:
                node, is_first = self.random.choice(self.nodes), False
                self.over.wait(0.1)
                continue
            if answer.status in OK:
                outcome = "ok"
                self.history.answered(answer.serial)
                break
            if answer.status in REFUSALS:
                # An attempt before may still be on its way.
                outcome = "refused" if is_first else "open"
                break
            if answer.status not in OPEN or answer.status in (500, 507) and not self.full.is_set():
                said = answer.body[:300].decode(errors="replace")
                self.history.violated("Answer", f"{kind} through {node.name}: {answer.status} {answer.reason} {said}")
                break
            is_first = False
            self.over.wait(0.1)
        self.history.count(kind, outcome)
        return outcome, node

    def read(self, node: Node, path: str, accept: str):
        """Reads; `None` if the node or the way to it is not there just now."""
        asked = self.history.rewinds[node.name]
        try:
            with self.client(node) as client:
                answer = client.ask("GET", path, headers={"Accept": accept})
        except BREAKS:
            self.history.count("read", "broken")
            return None
        self.history.count("read", str(answer.status))
        # That something is not there is the word of the master, with the master's serial.
        is_own = answer.headers["X-DEVPI-PROXY"] is None
        if answer.status == 200 and is_own and (serial := answer.headers["X-DEVPI-SERIAL"]) is not None:
            self.history.checked("Ordered")
            before = self.history.ordered(self.name, node.name, int(serial), asked)
            if int(serial) < before:
                self.history.violated("Ordered", f"{node.name} went from serial {before} to {serial}")
        return answer

    # Changes

    def release(self) -> tuple[str, str]:
        project = f"p{self.source[8:]}x{self.random.randrange(PROJECTS)}"
        return project, f"1.{self.random.randrange(VERSIONS)}"

    def node(self) -> Node:
        return self.random.choice(self.nodes)

    def file_keys(self, index: str, project: str, version: str) -> list[tuple]:
        return [key for key in self.history.keys("file") if key[1:4] == (index, project, version)]

    def settle(self, outcome: str, key: tuple, value):
        slot = self.history.slot(key)
        if outcome == "ok":
            slot.acknowledged(value)
        elif outcome == "open":
            slot.left_open(value)

    def upload(self):
        (project, version), node = self.release(), self.node()
        self.count += 1
        noise = self.random.randbytes(self.random.choice((10, 10, 2_000, 60_000, 300_000))).hex()
        filename, content = wheel(project, version, f"n = {self.count}\nnoise = '{noise}'\n".encode())
        if self.random.random() < 0.4:
            filename = f"{project}-{version}.zip"
        more = {"filetype": "sdist" if filename.endswith(".zip") else "bdist_wheel"}
        body, headers = Client.form(project, version, filename, content, more)
        outcome, node = self.change("upload", node, "POST", f"/{self.source}/", body, headers)
        self.settle(outcome, ("file", self.source, project, version, filename), sha256(content))
        if outcome == "ok":
            self.own_write(node, self.source, project)
            self.no_false_404(self.source, project, filename)

    def push(self):
        (project, version), node = self.release(), self.node()
        order = {"name": project, "version": version, "targetindex": self.target, "no_docs": True}
        outcome, node = self.change("push", node, "POST", f"/{self.source}", order)
        if outcome == "refused":
            return
        for key in self.file_keys(self.source, project, version):
            source, place = self.history.slot(key), ("file", self.target, *key[2:])
            values = source.may_be()
            if outcome == "ok" and source.is_certain:
                if source.settled is not ABSENT:
                    self.settle("ok", place, source.settled)
                continue
            for value in values - {ABSENT}:
                self.settle("open", place, value)
        if outcome == "ok":
            self.own_write(node, self.target, project)

    def remove_version(self):
        (project, version), node = self.release(), self.node()
        index = self.random.choice((self.source, self.target))
        outcome, node = self.change("delete version", node, "DELETE", f"/{index}/{project}/{version}")
        self.gone(outcome, index, lambda key: key[2:4] == (project, version))
        if outcome == "ok":
            self.own_write(node, index, project)

    def remove_project(self):
        (project, _), node = self.release(), self.node()
        index = self.random.choice((self.source, self.target))
        outcome, node = self.change("delete project", node, "DELETE", f"/{index}/{project}")
        self.gone(outcome, index, lambda key: key[2] == project)
        if outcome == "ok":
            self.own_write(node, index, project)

    def gone(self, outcome: str, index: str, is_meant):
        for key in self.history.keys("file") + self.history.keys("docs"):
            if key[1] == index and is_meant(key):
                self.settle(outcome, key, ABSENT)

    def document(self):
        (project, version), node = self.release(), self.node()
        self.count += 1
        content = pages(f"{self.name} {self.count}")
        body, headers = Client.form(project, version, f"{project}-{version}.doc.zip", content, {":action": "doc_upload"})
        outcome, node = self.change("doc zip", node, "POST", f"/{self.source}/", body, headers)
        self.settle(outcome, ("docs", self.source, project, version), sha256(content))

    def retitle(self):
        node = self.node()
        self.count += 1
        title = f"{self.name} {self.count}"
        outcome, node = self.change("index", node, "PATCH", f"/{self.source}", {"title": title})
        self.settle(outcome, ("title", self.source), title)
        if outcome == "ok" and (answer := self.read(node, f"/{self.source}?no_projects=", "application/json")):
            if answer.status == 200:
                self.history.checked("Read-your-writes")
                seen = answer.json()["result"].get("title")
                if seen not in self.history.slot(("title", self.source)).may_be():
                    self.history.violated("Read-your-writes", f"{self.source} on {node.name} has title {seen}, not {title}")

    # What is looked at while faults go on

    def listing(self, node: Node, index: str, project: str) -> dict[str, dict] | int | None:
        """The files on a page by name, or the status of another answer."""
        answer = self.read(node, f"/{index}/+simple/{project}/", "application/vnd.pypi.simple.v1+json")
        if answer is None or answer.status != 200:
            return answer and answer.status
        return {entry["filename"]: entry for entry in answer.json()["files"]}

    def own_write(self, node: Node, index: str, project: str):
        """The node that took a change shows it from then on."""
        listed = self.listing(node, index, project)
        if isinstance(listed, int):
            listed = {} if listed == 404 else None
        if listed is None:
            return
        for key in self.history.keys("file"):
            if key[1:3] != (index, project):
                continue
            entry = listed.get(key[4])
            seen = entry["hashes"]["sha256"] if entry else ABSENT
            self.history.checked("Read-your-writes")
            if seen not in (slot := self.history.slot(key)).may_be():
                why = f"{key[4]} of {index} on {node.name} is {seen}, may be {slot.may_be()}"
                self.history.violated("Read-your-writes", why)

    def no_false_404(self, index: str, project: str, filename: str):
        """No node says that there is nothing where an acknowledged file is."""
        node = self.node()
        slot = self.history.slot(("file", index, project, *self.find(index, project, filename)))
        if not slot.is_certain or slot.settled is ABSENT:
            return
        listed = self.listing(node, index, project)
        self.history.checked("No-false-404")
        if listed == 404:
            self.history.violated("No-false-404", f"{node.name} knows nothing of {project} in {index}, which has {filename}")

    def find(self, index: str, project: str, filename: str) -> tuple[str, str]:
        return next(key[3:5] for key in self.history.keys("file") if key[1:3] == (index, project) and key[4] == filename)

    def look(self):
        """A page of any age, whole releases on it, and a file with the bytes that the page names."""
        (project, _), node = self.release(), self.node()
        index = self.random.choice((self.source, self.target))
        listed = self.listing(node, index, project)
        if not isinstance(listed, dict) or not listed:
            return
        entry = self.random.choice(list(listed.values()))
        path = f"/{index}/+simple/{project}/{entry['url']}".split("#")[0]
        self.file(node, normal(path), entry["hashes"]["sha256"])

    def file(self, node: Node, path: str, digest: str):
        answer = self.read(node, path, "*/*")
        if answer is None or answer.status != 200:
            return
        self.history.checked("File-hash-exact")
        if sha256(answer.body) != digest:
            self.history.violated("File-hash-exact", f"{node.name} gave other bytes for {path}")


def normal(path: str) -> str:
    """A path without `..`."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def prepare(node: Node, count: int) -> str:
    """Makes the user and the indexes; gives what the user shows itself with."""
    with Client(node.url) as client:
        client.expect(201, "PUT", f"/{USER}", {"password": PASSWORD})
        client.login(USER, PASSWORD)
        for number in range(count):
            for name in ("dev", "prod"):
                config = {"type": "stage", "volatile": "True", "bases": ""}
                client.expect(200, "PUT", f"/{USER}/{name}{number}", config)
        if client.auth is None:
            raise Failed("no login")
        return client.auth
