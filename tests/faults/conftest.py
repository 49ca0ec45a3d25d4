"""A master and replicas, each replica's way to its master through a proxy that can be told to do harm."""

from __future__ import annotations

import http.client
import os
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "scripts")]

from nodes import Client, Node, make_secret, wheel  # noqa: E402
from proxy import Proxy  # noqa: E402

PASSWORD = "twin-secret"
INDEX = "ann/dev"


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("TWINPI_BINARY") or ROOT / "target/release/twinpi").absolute()
    assert os.access(path, os.X_OK), f"there is no program {path}; `make build` makes it"
    return path


def eventually(ask, seconds=30, what="it"):
    """Asks until there is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {seconds} s")


class Cluster:
    """The nodes of one scene."""

    def __init__(self, folder: Path, binary: Path):
        self.folder, self.binary = folder, binary
        self.secret = make_secret(binary, folder)
        self.master = self.node("master", "master")
        self.replicas: list[Node] = []
        self.proxies: list[Proxy] = []
        self.auth = ""

    def node(self, name: str, role: str, **more) -> Node:
        node = Node(name, self.folder, self.binary, role=role, secret=self.secret, **more)
        node.extra = ["--proxy-timeout", "5"]
        node.ignore_signals = True
        return node

    def start(self, replicas: int = 1) -> Cluster:
        self.master.init()
        self.master.start()
        with Client(self.master.url) as client:
            client.expect(201, "PUT", "/ann", {"password": PASSWORD})
            client.login("ann", PASSWORD)
            self.auth = client.auth
            client.expect(200, "PUT", f"/{INDEX}", {"type": "stage", "volatile": "True", "bases": ""})
        for _ in range(replicas):
            self.follow()
        return self

    def follow(self) -> Node:
        proxy = Proxy(self.master.port)
        node = self.node(f"replica{len(self.replicas)}", "replica", master=self.master, master_url=proxy.url)
        self.proxies.append(proxy)
        self.replicas.append(node)
        node.init()
        node.start()
        node.wait_serial(self.master.serial())
        return node

    @property
    def replica(self) -> Node:
        return self.replicas[0]

    @property
    def proxy(self) -> Proxy:
        return self.proxies[0]

    def client(self, node: Node, timeout: float = 30) -> Client:
        client = Client(node.url, timeout=timeout)
        client.auth = self.auth
        return client

    def upload(self, node: Node, name: str, version: str = "1.0", content: bytes = b"", headers=None):
        """Uploads a wheel; the answer, or `None` if the connection broke."""
        filename, packed = wheel(name, version, content)
        body, own = Client.form(name, version, filename, packed)
        try:
            with self.client(node) as client:
                return client.ask("POST", f"/{INDEX}/", body, {**own, **(headers or {})})
        except (OSError, http.client.HTTPException):
            return None

    def uploaded(self, node: Node, name: str, version: str = "1.0", content: bytes = b""):
        answer = self.upload(node, name, version, content)
        assert answer is not None and answer.status == 200, answer and (answer.status, answer.body)
        return answer

    def page(self, node: Node, name: str) -> int:
        """The status of a project's page."""
        with self.client(node) as client:
            return client.ask("GET", f"/{INDEX}/+simple/{name}/", headers={"Accept": "text/html"}).status

    def links(self, node: Node, name: str) -> dict:
        with self.client(node) as client:
            return client.links(INDEX, name)

    def status(self, node: Node) -> dict:
        with self.client(node) as client:
            return client.expect(200, "GET", "/+status").json()["result"]

    def state(self, node: Node) -> str:
        return self.status(node)["replication-state"]

    def position(self, node: Node):
        with self.client(node) as client:
            return client.position()

    def equal(self, seconds: float = 40):
        """Waits until all nodes have the same history, and the replicas all files."""
        for node in self.replicas:
            eventually(lambda: self.position(node) == self.position(self.master), seconds, f"the history of {node.name}")
            wanted = lambda: self.status(node)["files-wanted"] + self.status(node)["files-failed"]  # noqa: E731
            eventually(lambda: wanted() == 0, seconds, f"the files of {node.name}")

    def stop(self):
        for node in [*self.replicas, self.master]:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(18)  # SIGCONT
                node.stop()
        for proxy in self.proxies:
            proxy.close()


@pytest.fixture
def cluster(tmp_path, binary):
    cluster = Cluster(tmp_path, binary)
    yield cluster
    cluster.stop()
    for node in [cluster.master, *cluster.replicas]:
        assert b"panicked at" not in node.log.read_bytes(), node.tail()
