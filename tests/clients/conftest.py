"""A master and a replica as real processes, and the real clients that talk to them.

TWINPI_BINARY names the program (default: target/release/twinpi). Most scenes share one pair and make a user and an
index of their own; those that stop nodes start a pair of their own.
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from nodes import Client, Node, client_env, make_secret, run  # noqa: E402

PROGRAMS = Path(sys.executable).parent
PASSWORD = "twin-secret"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("TWINPI_BINARY") or ROOT / "target/release/twinpi").absolute()
    assert os.access(path, os.X_OK), f"there is no program {path}; `make build` makes it"
    return path


@dataclass
class Pair:
    master: Node
    replica: Node

    def stop(self):
        self.replica.stop()
        self.master.stop()


def start_pair(folder: Path, binary: Path) -> Pair:
    secret = make_secret(binary, folder)
    master = Node("master", folder, binary, secret=secret)
    replica = Node("replica", folder, binary, role="replica", master=master, secret=secret)
    for node in (master, replica):
        node.init()
        node.start()
    return Pair(master, replica)


@pytest.fixture(scope="session")
def pair(tmp_path_factory, binary):
    """The pair that scenes share; both end in order with status 0."""
    pair = start_pair(tmp_path_factory.mktemp("pair"), binary)
    yield pair
    statuses = (pair.replica.stop(), pair.master.stop())
    if binary.name != "devpi-server":
        assert statuses == (0, 0), pair.master.tail() + pair.replica.tail()


@pytest.fixture
def own_pair(tmp_path, binary):
    """A pair whose nodes a scene may stop and start."""
    pair = start_pair(tmp_path, binary)
    yield pair
    pair.stop()


@dataclass
class Index:
    """An index with its owner, and the pair that serves it."""

    pair: Pair
    user: str
    name: str
    password: str = PASSWORD

    def simple(self, node: Node, with_password: bool = False) -> str:
        url = node.url
        if with_password:
            url = url.replace("://", f"://{self.user}:{self.password}@")
        return f"{url}/{self.name}/+simple/"

    def upload_url(self, node: Node) -> str:
        return f"{node.url}/{self.name}/"

    def client(self, node: Node) -> Client:
        client = Client(node.url)
        client.login(self.user, self.password)
        return client

    def upload(self, node: Node, name: str, version: str, filename: str, content: bytes, more=None):
        with self.client(node) as client:
            return client.upload(self.name, name, version, filename, content, more)

    def links(self, node: Node, project: str) -> dict[str, dict]:
        with Client(node.url) as client:
            return client.links(self.name, project)

    def content(self, node: Node, project: str, filename: str) -> bytes:
        with Client(node.url) as client:
            link = client.links(self.name, project)[filename]
            return client.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body


def make_index(pair: Pair, volatile: bool = True) -> Index:
    user = f"user{next(_numbers)}"
    with Client(pair.replica.url) as client:
        client.expect(201, "PUT", f"/{user}", {"password": PASSWORD})
        client.login(user, PASSWORD)
        config = {"type": "stage", "volatile": str(volatile), "bases": ""}
        client.expect(200, "PUT", f"/{user}/dev", config)
    return Index(pair, user, f"{user}/dev")


@pytest.fixture
def index(pair) -> Index:
    """A volatile index on the shared pair, made through the replica."""
    return make_index(pair)


@pytest.fixture
def fixed_index(pair) -> Index:
    """One that is not volatile."""
    return make_index(pair, volatile=False)


@pytest.fixture
def tool(tmp_path):
    """Runs a client program of the venv with a home of its own."""
    env = client_env(tmp_path / "home")

    def call(*line, check=True, **extra):
        program = [sys.executable, "-m", "pip"] if line[0] == "pip" else [PROGRAMS / line[0]]
        return run([*program, *line[1:]], check=check, cwd=tmp_path, env={**env, **extra})

    return call


@pytest.fixture
def twine(tool):
    def call(index: Index, node: Node, *files, user=None, password=None, check=True):
        names = {
            "TWINE_USERNAME": user or index.user,
            "TWINE_PASSWORD": password or index.password,
            "TWINE_NON_INTERACTIVE": "1",
        }
        line = ["twine", "upload", "--disable-progress-bar", "--repository-url", index.upload_url(node)]
        return tool(*line, *files, check=check, **names)

    return call


@pytest.fixture
def pip_install(tool, tmp_path):
    """Installs with pip into a folder, from one index and nowhere else; gives the folder."""

    def call(url: str, *what, check=True):
        place = tmp_path / f"site-{next(_numbers)}"
        line = ["pip", "install", "--no-cache-dir", "--target", place, "--index-url", url, *what]
        done = tool(*line, check=check)
        return (place, done) if check else (None, done)

    return call


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """Builds a real project's sdist and wheel, once per name and version."""
    made: dict[tuple[str, str], list[Path]] = {}

    def build(name: str, version: str) -> list[Path]:
        if (name, version) not in made:
            folder = tmp_path_factory.mktemp("project")
            module = name.replace("-", "_")
            (folder / "pyproject.toml").write_text(
                '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
                f'[project]\nname = "{name}"\nversion = "{version}"\ndescription = "For a test"\n'
                f'scripts = {{ {name} = "{module}:main" }}\n[tool.setuptools]\npy-modules = ["{module}"]\n'
            )
            (folder / f"{module}.py").write_text(f'def main():\n    print("{name} {version}")\n')
            line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder]
            run(line, env=client_env(folder / "home"))
            made[name, version] = sorted((folder / "dist").iterdir())
        return made[name, version]

    return build
