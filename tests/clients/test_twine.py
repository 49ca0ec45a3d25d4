"""twine uploads to the replica, and what it shows when an upload is refused."""

from __future__ import annotations

import hashlib

from nodes import Client, wheel


def digests(index, node, project):
    return {name: link["hashes"]["sha256"] for name, link in index.links(node, project).items()}


def test_an_upload_through_the_replica_is_on_both_at_once(index, project, twine):
    files = project("twin-hello", "1.0")
    done = twine(index, index.pair.replica, *files)
    assert "Uploading twin_hello-1.0.tar.gz" in done.stdout
    wanted = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert digests(index, index.pair.replica, "twin-hello") == wanted
    assert digests(index, index.pair.master, "twin-hello") == wanted
    for node in (index.pair.replica, index.pair.master):
        for file in files:
            assert index.content(node, "twin-hello", file.name) == file.read_bytes()


def test_an_upload_to_the_master_reaches_the_replica(index, project, twine):
    files = project("twin-hello", "1.1")
    twine(index, index.pair.master, *files)
    index.pair.replica.wait_serial(index.pair.master.serial())
    assert len(digests(index, index.pair.replica, "twin-hello")) == len(files)


def test_the_same_file_again_is_no_error(fixed_index, project, twine):
    files = project("twin-hello", "1.0")
    for _ in range(2):
        twine(fixed_index, fixed_index.pair.replica, *files)


def write(tmp_path, version, content):
    filename, packed = wheel("taken", version, content)
    (tmp_path / filename).write_bytes(packed)
    return tmp_path / filename


def test_another_file_of_that_name_is_refused_with_the_reason(fixed_index, twine, tmp_path):
    twine(fixed_index, fixed_index.pair.replica, write(tmp_path, "1.0", b"# one\n"))
    before = digests(fixed_index, fixed_index.pair.replica, "taken")
    done = twine(fixed_index, fixed_index.pair.replica, write(tmp_path, "1.0", b"# two\n"), check=False)
    assert done.returncode != 0
    assert "409" in done.stdout and "already exists in non-volatile index" in done.stdout
    assert digests(fixed_index, fixed_index.pair.master, "taken") == before


def test_a_volatile_index_takes_the_new_file(index, twine, tmp_path):
    for content in (b"# one\n", b"# two\n"):
        file = write(tmp_path, "1.0", content)
        twine(index, index.pair.replica, file)
        assert index.content(index.pair.replica, "taken", file.name) == file.read_bytes()


def test_a_wrong_password_is_refused(index, twine, tmp_path):
    done = twine(index, index.pair.replica, write(tmp_path, "1.0", b""), password="wrong", check=False)
    assert done.returncode != 0 and "401" in done.stdout
    assert digests(index, index.pair.replica, "taken") == {}


def test_another_users_index_is_refused_with_the_reason(index, fixed_index, twine, tmp_path):
    done = twine(index, index.pair.replica, write(tmp_path, "1.0", b""), user=fixed_index.user, check=False)
    assert done.returncode != 0
    assert "403" in done.stdout and "no permission to submit" in done.stdout


def test_a_file_that_does_not_fit_its_name_is_refused_with_the_reason(index):
    with index.client(index.pair.replica) as client:
        answer = client.upload(index.name, "taken", "2.0", *wheel("taken", "1.0"))
    assert answer.status == 400
    assert "does not contain version" in answer.reason


def test_reading_needs_no_login(index, twine, tmp_path):
    file = write(tmp_path, "1.0", b"")
    twine(index, index.pair.replica, file)
    with Client(index.pair.replica.url) as client:
        assert client.ask("GET", f"/{index.name}/+simple/taken/", headers={"Accept": "text/html"}).status == 200
