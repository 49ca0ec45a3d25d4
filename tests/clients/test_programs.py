"""The programs around the server, called as people and scripts call them."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from nodes import Client, Failed, Node, clean_env, command, run


@pytest.fixture
def node(tmp_path, binary):
    node = Node("node", tmp_path, binary, role="standalone")
    yield node
    node.stop()


def typed(line, text):
    return subprocess.run(line, input=text, capture_output=True, text=True, env=clean_env(), timeout=60)


def test_a_folder_is_made_once(node):
    node.init()
    with pytest.raises(Failed) as again:
        node.init()
    assert "ended with 1" in str(again.value)


@pytest.mark.ours
def test_a_folder_that_was_not_made_is_not_served(node):
    with pytest.raises(Failed, match="fatal: "):
        node.start()


def test_roots_password_is_the_one_given(node):
    node.init("--root-passwd", "first")
    node.start()
    with Client(node.url) as client:
        client.login("root", "first")
        client.expect(401, "POST", "/+login", {"user": "root", "password": ""})


def test_passwd_sets_a_password_from_two_lines(node):
    node.init()
    done = typed([*node.command("passwd"), "--serverdir", str(node.data), "root"], "brand-new\nbrand-new\n")
    assert done.returncode == 0, done.stderr
    node.start()
    with Client(node.url) as client:
        client.login("root", "brand-new")
        client.expect(401, "POST", "/+login", {"user": "root", "password": ""})


def test_passwd_with_two_different_lines_changes_nothing(node):
    node.init("--root-passwd", "first")
    done = typed([*node.command("passwd"), "--serverdir", str(node.data), "root"], "one\ntwo\n")
    assert done.returncode != 0
    node.start()
    with Client(node.url) as client:
        client.login("root", "first")


def test_gen_secret_makes_a_private_file_and_checks_it(binary, tmp_path):
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    secret = folder / "secret"
    line = [*command(binary, "gen-secret"), "--secretfile", secret]
    run(line)
    made = secret.read_bytes()
    assert len(made) >= 32 and stat.S_IMODE(secret.stat().st_mode) == 0o600
    run(line)
    assert secret.read_bytes() == made
    secret.chmod(0o644)
    assert run(line, check=False).returncode == 1
    secret.chmod(0o600)
    secret.write_text("short")
    assert run(line, check=False).returncode == 1


@pytest.mark.ours
def test_devpis_names_are_the_same_programs(binary, tmp_path):
    for name in ("devpi-server", "devpi-init", "devpi-gen-secret", "devpi-passwd"):
        os.symlink(binary, tmp_path / name)
        assert f"Usage: {name}" in run([tmp_path / name, "--help"]).stdout
    assert run([tmp_path / "devpi-server", "--version"]).stdout == "6.20.3\n"
    run([tmp_path / "devpi-init", f"--serverdir={tmp_path / 'data'}", "--no-root-pypi"])
    assert (tmp_path / "data/.nodeinfo").exists()


@pytest.mark.ours
@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--debug-macros"], 1, "not supported yet"),
        (["--trusted-proxy", "10.0.0.1"], 1, "not supported yet"),
        (["--storage", "pg8000"], 1, "sqlite"),
        (["--master-url", "http://a:b@c"], 1, "user name or password"),
        (["--master-url", "http://a", "--primary-url", "http://a"], 1, "give one of them"),
        (["--no-such-option"], 2, "--no-such-option"),
        (["--port", "many"], 2, "many"),
        (["--configfile", "/nonexistent.yml"], 4, "/nonexistent.yml"),
    ],
)
def test_what_cannot_be_done_is_refused(binary, tmp_path, options, status, says):
    done = run([binary, "serve", "--serverdir", tmp_path, *options], check=False)
    assert done.returncode == status, done.stdout
    assert says in done.stdout


@pytest.mark.ours
def test_options_come_from_the_file_and_the_environment(node, tmp_path):
    node.init()
    file = tmp_path / "options.yml"
    file.write_text("devpi-server:\n  outside-url: https://packages.example.org\n  restrict-modify: root\n")
    node.extra = ["--configfile", str(file)]
    node.start()
    with Client(node.url) as client:
        login = client.expect(200, "GET", "/+api").json()["result"]["login"]
        assert login == "https://packages.example.org/+login"
        assert client.ask("PUT", "/someone", {"password": "x"}).status in (401, 403)


@pytest.mark.ours
def test_init_mirrors_what_pip_uses_here(binary, tmp_path):
    env = clean_env(PIP_INDEX_URL="http://127.0.0.1:9/simple/")
    run([binary, "init", "--serverdir", tmp_path / "data"], env=env)
    node = Node("data", tmp_path, binary, role="standalone")
    node.start()
    try:
        with Client(node.url) as client:
            config = client.expect(200, "GET", "/root/pypi?no_projects=").json()["result"]
        assert config["type"] == "mirror"
        assert config["mirror_url"] == "http://127.0.0.1:9/simple/"
    finally:
        node.stop()


@pytest.mark.ours
def test_sigterm_ends_a_node_in_order(node):
    node.init()
    node.start()
    assert node.stop() == 0
