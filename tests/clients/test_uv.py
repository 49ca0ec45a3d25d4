"""uv installs and publishes."""

from __future__ import annotations

import sys

import pytest

from nodes import wheel


@pytest.fixture(params=["master", "replica"])
def node(pair, request):
    return getattr(pair, request.param)


def publish(tool, index, node, *files, check=True, **more):
    line = ["uv", "publish", "--publish-url", index.upload_url(node)]
    for name, value in more.items():
        line += [f"--{name.replace('_', '-')}", value]
    return tool(*line, "--username", index.user, "--password", index.password, *files, check=check)


def install(tool, tmp_path, url, what):
    place = tmp_path / "uv-site"
    line = ["uv", "pip", "install", "--python", sys.executable, "--target", place, "--default-index", url, what]
    tool(*line)
    return place


def test_publishes_to_the_replica_and_installs(index, node, project, tool, tmp_path):
    publish(tool, index, index.pair.replica, *project("twin-hello", "1.0"))
    place = install(tool, tmp_path, index.simple(node), "twin-hello==1.0")
    assert (place / "twin_hello.py").exists()


def test_publishing_again_with_check_url_skips_what_is_there(fixed_index, node, project, tool):
    files = project("twin-hello", "1.0")
    publish(tool, fixed_index, node, *files)
    fixed_index.pair.replica.wait_serial(fixed_index.pair.master.serial())
    done = publish(tool, fixed_index, node, *files, check_url=fixed_index.simple(node))
    assert "already exists, skipping" in done.stdout


def test_a_refused_upload_shows_the_reason(fixed_index, tool, tmp_path):
    for content, fits in ((b"# one\n", True), (b"# two\n", False)):
        filename, packed = wheel("taken", "1.0", content)
        (tmp_path / filename).write_bytes(packed)
        done = publish(tool, fixed_index, fixed_index.pair.replica, tmp_path / filename, check=fits)
        assert (done.returncode == 0) is fits, done.stdout
    assert "409" in done.stdout


def test_compiles_a_lock_with_hashes(index, node, project, tool, tmp_path):
    publish(tool, index, index.pair.replica, *project("twin-hello", "1.0"))
    (tmp_path / "wanted.in").write_text("twin-hello\n")
    line = ["uv", "pip", "compile", "--python", sys.executable, "--generate-hashes", "--default-index"]
    done = tool(*line, index.simple(node), tmp_path / "wanted.in")
    assert "twin-hello==1.0" in done.stdout
    assert done.stdout.count("--hash=sha256:") == 2
