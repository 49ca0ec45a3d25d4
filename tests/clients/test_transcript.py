"""A day with the devpi command against a replica, from `use` to `refresh`, as a transcript (`make test-transcript`).

Every change is relayed to the master, every read is the replica's own.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
import zipfile

import pytest
from conftest import PASSWORD, PROGRAMS, Index

from nodes import Client, run, wheel

pytestmark = pytest.mark.transcript

BACKEND = '''\
import zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    info = "twin_tested-1.0.dist-info"
    files = {
        "twin_tested.py": open("twin_tested.py").read(),
        f"{info}/METADATA": open("PKG-INFO").read(),
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"])
    name = "twin_tested-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return name
'''
TOX_INI = """\
[tox]
envlist = py
[testenv]
commands = python -c "import twin_tested; assert twin_tested.VERSION == '1.0'"
"""


def sdist(folder):
    """A source archive that tox can install and test without asking any index."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: twin-tested\nVersion: 1.0\nSummary: For a test\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND,
        "twin_tested.py": 'VERSION = "1.0"\n',
        "tox.ini": TOX_INI,
    }
    path = folder / "twin_tested-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"twin_tested-1.0/{name}")
            entry.size, entry.mtime = len(text.encode()), int(time.time())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def doc_zip(folder):
    path = folder / "twin_tested-1.0.doc.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.html", "<html><body>How twins are tested</body></html>")
    return path


class Shell:
    """Runs devpi and prints what a person would see."""

    def __init__(self, tool, folder):
        self.tool, self.client = tool, folder / "client"

    def __call__(self, command, *line, check=True, **env) -> str:
        shown = " ".join(str(part) for part in (command, *line)).replace(PASSWORD, "...")
        done = self.tool("devpi", command, "--clientdir", self.client, *line, check=check, **env)
        print(f"\n$ devpi {shown}\n{done.stdout.rstrip()}" + ("" if check else f"\n[exit {done.returncode}]"))
        assert check or done.returncode != 0, "it was to fail"
        return done.stdout


@pytest.fixture
def devpi(tool, tmp_path):
    return Shell(tool, tmp_path)


def log_in(devpi, pair):
    """A user with an index to work in, one to release to, and one that stands for another server."""
    shown = devpi("use", pair.replica.url)
    assert f"using server: {pair.replica.url}" in shown
    assert "user created: tess" in devpi("user", "-c", "tess", f"password={PASSWORD}", "email=tess@example.org")
    assert "logged in 'tess'" in devpi("login", "tess", f"--password={PASSWORD}")
    assert "volatile=True" in devpi("index", "-c", "dev", "bases=")
    assert "volatile=False" in devpi("index", "-c", "prod", "volatile=False", "bases=")
    devpi("index", "-c", "elsewhere", "bases=")
    assert "current devpi index: " in (shown := devpi("use", "tess/dev")) and "tess/dev" in shown
    return Index(pair, "tess", "tess/dev")


def upload(devpi, index, folder):
    filename, packed = wheel("twin-tested", "1.0")
    (folder / filename).write_bytes(packed)
    shown = devpi("upload", sdist(folder), folder / filename, doc_zip(folder))
    assert shown.count("file_upload of") == 2 and shown.count("doc_upload of") == 1, shown
    # What the replica answers right after is what was uploaded.
    with Client(index.pair.replica.url) as client:
        page = client.expect(200, "GET", "/tess/dev/twin-tested/latest/+doc/index.html", headers={"Accept": "*/*"})
    assert b"How twins are tested" in page.body
    shown = devpi("list", "-v")
    assert "twin-tested==1.0" in shown.replace("_", "-"), shown
    shown = devpi("list", "twin-tested")
    assert f"{index.pair.replica.url}/tess/dev/+f/" in shown and filename in shown
    return filename, packed


def run_tests(devpi):
    path = os.pathsep.join([str(PROGRAMS), os.environ["PATH"]])
    shown = devpi("test", "twin-tested", PATH=path)
    assert "posting tox result data to" in shown and "success" in shown, shown
    assert "tests passed" in devpi("list", "-t", "twin-tested")


def push(devpi, index, home, filename, packed):
    shown = devpi("push", "twin-tested==1.0", "tess/prod")
    assert "200 register twin-tested 1.0 -> tess/prod" in shown
    assert shown.count("200 store_releasefile tess/prod/+f/") == 2
    assert "200 store_toxresult" in shown and "200 store_doczip" in shown
    assert "409" in devpi("push", "twin-tested==1.0", "tess/prod", check=False)
    home.mkdir(exist_ok=True)
    (home / ".pypirc").write_text(
        f"[distutils]\nindex-servers = other\n[other]\nrepository: {index.pair.master.url}/tess/elsewhere/\n"
        f"username: tess\npassword: {PASSWORD}\n"
    )
    shown = devpi("push", "twin-tested==1.0", "pypi:other")
    assert shown.count("200 upload ") == 2 and "200 docfile" in shown, shown
    assert PASSWORD not in shown
    other = Index(index.pair, "tess", "tess/elsewhere")
    index.pair.replica.wait_serial(index.pair.master.serial())
    assert other.content(index.pair.replica, "twin-tested", filename) == packed
    assert "twin-tested" in devpi("list", "--index", "tess/elsewhere")


def remove_and_install(devpi, folder):
    assert "deleting release 1.0 of twin-tested" in devpi("remove", "-y", "twin-tested==1.0")
    assert "twin-tested" not in devpi("list")
    assert "403" in devpi("remove", "-y", "--index", "tess/prod", "twin-tested", check=False)
    # The bytes were shared; what was pushed stays.
    devpi("use", "tess/prod")
    run([sys.executable, "-m", "venv", folder / "venv"])
    shown = devpi("install", "--venv", folder / "venv", "twin-tested")
    assert "Successfully installed twin-tested-1.0" in shown
    said = run([folder / "venv/bin/python", "-c", "import twin_tested; print(twin_tested.version)"]).stdout
    assert said == "1.0\n"


def refresh(devpi, index):
    """A mirror of an index of the same server, which learns of a new file when it is told to look."""
    source = Index(index.pair, "tess", "tess/elsewhere")
    shown = devpi("index", "-c", "mirror", "type=mirror", f"mirror_url={source.simple(index.pair.master)}")
    assert "type=mirror" in shown
    devpi("use", "tess/mirror")
    assert "twin_tested-1.0-py3-none-any.whl" in devpi("list", "--all", "twin-tested")
    filename, packed = wheel("twin-tested", "1.1")
    assert source.upload(index.pair.master, "twin-tested", "1.1", filename, packed).status == 200
    assert filename not in devpi("list", "--all", "twin-tested")
    assert "Refreshed twin-tested" in devpi("refresh", "twin-tested")
    assert filename in devpi("list", "--all", "twin-tested")


def test_the_devpi_command_against_a_replica(devpi, pair, tmp_path):
    index = log_in(devpi, pair)
    filename, packed = upload(devpi, index, tmp_path)
    run_tests(devpi)
    push(devpi, index, tmp_path / "home", filename, packed)
    remove_and_install(devpi, tmp_path)
    refresh(devpi, index)
