"""Both programs as real processes, a history made with the real devpi command, and what makes two nodes equal.

TWINPI_BINARY names the program (default: target/release/twinpi); devpi-server is the one of this Python's folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(Path(__file__).parent))

from history import PASSWORD, Shell, make_history  # noqa: E402
from nodes import Client, Failed, Node, client_env, make_secret, run  # noqa: E402
from upstream import Upstream  # noqa: E402

PROGRAMS = Path(sys.executable).parent
DEVPI_SERVER = PROGRAMS / "devpi-server"
SECONDS = 60
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("TWINPI_BINARY") or ROOT / "target/release/twinpi").absolute()
    assert os.access(path, os.X_OK), f"there is no program {path}; `make build` makes it"
    return path


@pytest.fixture(scope="session")
def secret(tmp_path_factory, binary) -> Path:
    return make_secret(binary, tmp_path_factory.mktemp("secret"))


@pytest.fixture(scope="session")
def upstream():
    upstream = Upstream()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="session")
def devpi(tmp_path_factory) -> Shell:
    """The devpi command, with a home of its own."""
    home = tmp_path_factory.mktemp("client")
    env = client_env(home)

    def call(command, *line, check=True):
        program = [PROGRAMS / "devpi", command, "--clientdir", home / "client"]
        return run([*program, *line], check=check, cwd=home, env=env).stdout

    return Shell(call, home)


@dataclass
class Nodes:
    """The nodes of one scene; all end with it."""

    folder: Path
    secret: Path
    binaries: dict[str, Path]
    made: list[Node] = field(default_factory=list)

    def add(self, program: str, name: str, master: Node | None = None, **more) -> Node:
        """A node of either program, not started."""
        role = "replica" if master else "master"
        node = Node(name, self.folder, self.binaries[program], role, master, self.secret, **more)
        self.made.append(node)
        return node

    def start(self, program: str, name: str, master: Node | None = None, **more) -> Node:
        node = self.add(program, name, master, **more)
        node.init()
        return node.start()

    def stop(self):
        for node in reversed(self.made):
            node.stop()


@pytest.fixture(scope="session")
def binaries(binary) -> dict[str, Path]:
    return {"twinpi": binary, "devpi": DEVPI_SERVER}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory, secret, binaries):
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), secret, binaries)
    yield nodes
    nodes.stop()


@pytest.fixture(scope="session")
def seed(tmp_path_factory, secret, binaries, devpi, upstream) -> Path:
    """The folder of a devpi-server that has stopped after a day's work."""
    nodes = Nodes(tmp_path_factory.mktemp("seed"), secret, binaries)
    try:
        node = nodes.start("devpi", "seed")
        make_history(devpi, node, upstream)
    finally:
        nodes.stop()
    return node.data


def planted(nodes: Nodes, seed: Path, name: str) -> Node:
    """A devpi-server with that history, started."""
    node = nodes.add("devpi", name)
    shutil.copytree(seed, node.data)
    return node.start()


def status(node: Node) -> dict:
    with Client(node.url) as client:
        return client.expect(200, "GET", "/+status").json()["result"]


def until(what: str, ask, seconds: float = SECONDS):
    """Waits until `ask` gives something true, and gives that."""
    end = time.monotonic() + seconds
    while not (given := ask()):
        if end < time.monotonic():
            raise Failed(f"this did not come within {seconds} s: {what}")
        time.sleep(0.05)
    return given


def caught_up(replica: Node, seconds: float = SECONDS) -> dict:
    """Waits until a replica has its master's log and all files since now, and no error; gives its status."""
    replica.wait_serial(replica.master.serial(), seconds)
    since = time.time()
    last: dict = {}

    def is_here():
        last.update(status(replica))
        return (last["replica-files-in-sync-at"] or 0) >= since and last["replication-errors"] == {}

    try:
        until(f"{replica.name} has all files", is_here, seconds)
    except Failed as error:
        raise Failed(f"{error}\n{last}\n{replica.tail()}") from None
    return last


def picture(node: Node, mirrors: bool = True) -> dict:
    """What a client can see of a node: users, indexes, versions with their links, simple pages; paths, not hosts."""
    seen: dict = {}
    with Client(node.url) as client:

        def look(path, accept="application/json"):
            answer = client.ask("GET", path, headers={"Accept": accept})
            text = answer.body.decode().replace(node.url, "")
            seen[path] = [answer.status, plain(answer.json(), node) if text[:1] == "{" else text]
            return answer

        users = look("/").json()["result"]
        for user, record in users.items():
            for index, config in record.get("indexes", {}).items():
                if config["type"] == "mirror" and not mirrors:
                    continue
                shown = client.expect(200, "GET", f"/{user}/{index}").json()["result"]
                seen[f"/{user}/{index}"] = plain({**shown, "projects": sorted(shown["projects"])}, node)
                for project in shown["projects"]:
                    look(f"/{user}/{index}/{project}")
                    page = client.links(f"{user}/{index}", project)
                    seen[f"/{user}/{index}/+simple/{project}"] = {
                        name: [link["url"].removeprefix(node.url), link["hashes"]] for name, link in page.items()
                    }
    return seen


def differences(one: Node, other: Node) -> list[tuple]:
    """Where two nodes show something else, with what each shows; empty if nowhere."""
    return list(apart((), picture(one), picture(other)))


def apart(path: tuple, one, other):
    match one, other:
        case dict(), dict():
            for key in one | other:
                yield from apart((*path, key), one.get(key), other.get(key))
        case list(), list() if len(one) == len(other):
            for at, (here, there) in enumerate(zip(one, other)):
                yield from apart((*path, at), here, there)
        case _ if one != other:
            yield path, one, other


def plain(value, node: Node):
    """JSON without the node's address, and without the order of what has none."""
    match value:
        case dict():
            return {key: plain(item, node) for key, item in value.items()}
        case list():
            return [plain(item, node) for item in value]
        case str():
            return value.replace(node.url, "")
    return value


def file_paths(log: list[dict]) -> tuple[dict[str, dict], set[str]]:
    """The files that a log ends with and whose bytes there are, with their records; and the deleted ones."""
    records: dict[str, dict] = {}
    gone: set[str] = set()
    for changes in log:
        for path, (key, _back, value) in changes.items():
            if key not in ("STAGEFILE", "PYPIFILE_NOMD5"):
                continue
            records.pop(path, None)
            gone.discard(path)
            if value is None:
                gone.add(path)
            elif "last_modified" in value:
                records[path] = value
    return records, gone


def file_bytes(node: Node, paths) -> dict[str, bytes]:
    """The bytes of files as a node hands them out."""
    with Client(node.url) as client:
        return {path: client.expect(200, "GET", f"/{path}", headers={"Accept": "*/*"}).body for path in paths}


def new_index(node: Node, name: str = "dev", **config) -> Client:
    """A user with an index, made at this node; gives a client who is that user. `client.index` names the index."""
    user = f"user{next(_numbers)}"
    client = Client(node.url)
    client.expect(201, "PUT", f"/{user}", {"password": PASSWORD})
    client.login(user, PASSWORD)
    client.expect(200, "PUT", f"/{user}/{name}", {"type": "stage", "volatile": "True", "bases": "", **config})
    client.user, client.index = user, f"{user}/{name}"
    return client


def signed_in(node: Node, other: Client) -> Client:
    """The same user at another node, with the token of the first."""
    client = Client(node.url)
    client.auth, client.user, client.index = other.auth, other.user, other.index
    return client
