"""The devpi command, against the replica: every change is relayed, every read is the replica's own."""

from __future__ import annotations

import sys

import pytest

from conftest import PASSWORD, _numbers
from nodes import run, wheel


@pytest.fixture
def devpi(tool, tmp_path, pair):
    """The devpi command with its own client folder, using the replica."""

    def call(command, *line, check=True):
        return tool("devpi", command, "--clientdir", tmp_path / "client", *line, check=check).stdout

    call("use", pair.replica.url)
    return call


@pytest.fixture
def user(devpi):
    """A user who is made by the command, and logged in."""
    name = f"client{next(_numbers)}"
    assert f"user created: {name}" in devpi("user", "-c", name, f"password={PASSWORD}", "email=a@example.org")
    assert "logged in" in devpi("login", name, f"--password={PASSWORD}")
    return name


@pytest.fixture
def dev(devpi, user):
    """An index of that user, in use."""
    devpi("index", "-c", "dev", "volatile=True", "bases=")
    devpi("use", f"{user}/dev")
    return f"{user}/dev"


def test_use_shows_the_server_and_the_login(devpi, user, pair):
    shown = devpi("use")
    assert pair.replica.url in shown
    assert f"logged in as {user}" in shown


def test_users_are_made_changed_and_deleted(devpi, user):
    assert "email=a@example.org" in devpi("user", user)
    devpi("user", "-m", user, "email=b@example.org")
    assert "email=b@example.org" in devpi("user", user)
    assert user in devpi("user", "-l").split()
    devpi("user", "-y", "--delete", user)
    assert user not in devpi("user", "-l").split()


def test_a_changed_password_is_the_one_that_counts(devpi, user):
    devpi("user", "-m", user, "password=another")
    devpi("logoff")
    assert "401" in devpi("login", user, f"--password={PASSWORD}", check=False)
    assert "logged in" in devpi("login", user, "--password=another")


def test_indexes_are_made_changed_and_deleted(devpi, user, dev):
    shown = devpi("index", dev)
    assert "volatile=True" in shown and f"acl_upload={user}" in shown
    assert "volatile=False" in devpi("index", dev, "volatile=False")
    assert "acl_upload=root" in devpi("index", dev, "acl_upload+=root").replace(f"{user},", "")
    assert f"acl_upload={user}" in devpi("index", dev, "acl_upload-=root")
    assert "title=Hello there" in devpi("index", dev, "title=Hello there")
    assert dev in devpi("index", "-l").split()
    assert "403" in devpi("index", "-y", "--delete", dev, check=False)
    devpi("index", dev, "volatile=True")
    devpi("index", "-y", "--delete", dev)
    assert dev not in devpi("index", "-l").split()


def test_what_is_uploaded_is_listed_and_removed(devpi, dev, project, pair):
    for version in ("1.0", "1.1"):
        shown = devpi("upload", *project("twin-hello", version))
        assert shown.count("file_upload of") == 2, shown
    assert "twin-hello" in devpi("list")
    shown = devpi("list", "--all", "twin-hello")
    assert "twin_hello-1.0.tar.gz" in shown and "twin_hello-1.1-py3-none-any.whl" in shown
    devpi("remove", "-y", "twin-hello==1.0")
    shown = devpi("list", "--all", "twin-hello")
    assert "1.1" in shown and "twin_hello-1.0.tar.gz" not in shown
    devpi("remove", "-y", "twin-hello")
    assert "twin-hello" not in devpi("list")


def test_a_refused_upload_shows_the_reason(devpi, dev, tmp_path):
    devpi("index", dev, "volatile=False")
    for content in (b"# one\n", b"# two\n"):
        filename, packed = wheel("taken", "1.0", content)
        (tmp_path / filename).write_bytes(packed)
        shown = devpi("upload", tmp_path / filename, check=False)
    assert "409" in shown and "already exists in non-volatile index" in shown


def test_removing_from_a_fixed_index_needs_force(devpi, dev, project):
    devpi("upload", *project("twin-hello", "1.0"))
    devpi("index", dev, "volatile=False")
    assert "403" in devpi("remove", "-y", "twin-hello==1.0", check=False)
    assert "twin-hello" in devpi("list")
    devpi("remove", "-y", "-f", "twin-hello==1.0")
    assert "twin-hello" not in devpi("list")


def test_install_runs_pip_against_the_index(devpi, dev, project, tmp_path):
    devpi("upload", *project("twin-hello", "1.0"))
    run([sys.executable, "-m", "venv", tmp_path / "venv"])
    shown = devpi("install", "--venv", tmp_path / "venv", "twin-hello")
    assert "Successfully installed twin-hello-1.0" in shown
    assert run([tmp_path / "venv/bin/twin-hello"]).stdout == "twin-hello 1.0\n"
