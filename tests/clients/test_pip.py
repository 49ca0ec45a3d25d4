"""pip installs and downloads, from the master and from the replica alike."""

from __future__ import annotations

import hashlib
import sys

import pytest

from nodes import run, wheel


@pytest.fixture(params=["master", "replica"])
def node(pair, request):
    return getattr(pair, request.param)


def put(index, name, version, content=b"", requires_python=""):
    """Puts a small wheel onto the index, through the replica; the form tells what twine would tell."""
    filename, content = wheel(name, version, content, requires_python)
    more = {"requires_python": requires_python} if requires_python else {}
    answer = index.upload(index.pair.replica, name, version, filename, content, more)
    assert answer.status == 200, answer
    return filename, content


def test_installs_a_project_that_twine_uploaded(index, node, project, twine, pip_install):
    twine(index, index.pair.replica, *project("twin-hello", "1.0"))
    place, done = pip_install(index.simple(node), "twin-hello")
    assert "Successfully installed twin-hello-1.0" in done.stdout
    assert run([place / "bin/twin-hello"], env={"PYTHONPATH": str(place)}).stdout == "twin-hello 1.0\n"


def test_takes_the_newest_version_and_the_one_named(index, node, pip_install):
    for version in ("1.9", "1.10", "1.11.dev1"):
        put(index, "ordered", version)
    assert "ordered-1.10" in pip_install(index.simple(node), "ordered")[1].stdout
    assert "ordered-1.9" in pip_install(index.simple(node), "ordered<1.10")[1].stdout
    assert "ordered-1.11.dev1" in pip_install(index.simple(node), "--pre", "ordered")[1].stdout


def test_passes_over_what_needs_another_python(index, node, pip_install):
    put(index, "choosy", "1.0", requires_python=">=3")
    put(index, "choosy", "2.0", requires_python=">=99")
    assert "choosy-1.0" in pip_install(index.simple(node), "choosy")[1].stdout


def test_names_are_found_in_every_spelling(index, node, pip_install):
    put(index, "Odd.Name_here", "1.0")
    for spelling in ("odd-name-here", "Odd.Name_here", "ODD__NAME.here"):
        assert "Successfully installed" in pip_install(index.simple(node), spelling)[1].stdout


def test_downloads_the_very_bytes(index, node, project, twine, tool, tmp_path):
    files = project("twin-hello", "1.0")
    twine(index, index.pair.master, *files)
    for file in files:
        kind = ["--no-binary", ":all:"] if file.suffix == ".gz" else ["--only-binary", ":all:"]
        place = tmp_path / file.name
        line = ["pip", "download", "--no-cache-dir", "--no-deps", "--no-build-isolation", "-d", place]
        tool(*line, *kind, "--index-url", index.simple(node), "twin-hello")
        assert [path.name for path in place.iterdir()] == [file.name]
        assert (place / file.name).read_bytes() == file.read_bytes()


def test_hashes_are_kept_to(index, node, tmp_path, pip_install):
    _, content = put(index, "pinned", "1.0")
    for digest, fits in ((hashlib.sha256(content).hexdigest(), True), ("0" * 64, False)):
        (tmp_path / "pins.txt").write_text(f"pinned==1.0 --hash=sha256:{digest}\n")
        line = ["--require-hashes", "-r", tmp_path / "pins.txt"]
        _, done = pip_install(index.simple(node), *line, check=False)
        assert (done.returncode == 0) is fits, done.stdout


def test_accepts_credentials_in_the_url(index, node, pip_install):
    put(index, "guarded", "1.0")
    assert "guarded-1.0" in pip_install(index.simple(node, with_password=True), "guarded")[1].stdout


def test_an_unknown_project_is_not_found(index, node, pip_install):
    _, done = pip_install(index.simple(node), "never-uploaded", check=False)
    assert done.returncode != 0
    assert "No matching distribution found" in done.stdout


def test_the_index_url_without_simple_does_too(index, node, pip_install):
    put(index, "short", "1.0")
    assert "short-1.0" in pip_install(f"{node.url}/{index.name}", "short")[1].stdout


def test_a_large_wheel_arrives_whole(index, node, pip_install):
    noise = b"data = '" + hashlib.shake_256(b"large").hexdigest(3_000_000).encode() + b"'\n"
    put(index, "large", "1.0", content=noise)
    place, _ = pip_install(index.simple(node), "large")
    assert (place / "large.py").read_bytes().endswith(noise)
    assert sys.getsizeof(noise) > 6_000_000
