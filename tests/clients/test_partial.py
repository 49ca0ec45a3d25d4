"""A replica of some indexes: what it has is served without the master, what it lacks is the master's to answer."""

from __future__ import annotations

import os
import time

import pytest

from conftest import PASSWORD, Index, Pair
from nodes import Client, Node, make_secret, run, wheel

pytestmark = pytest.mark.ours

PRIVATE = "not-on-the-laptop"


def make_indexes(master: Node):
    """Stages of ann: `dev` stands alone, `app` is based on `lib`, which holds a release; `shut` is for ann alone."""
    with Client(master.url) as client:
        client.expect(201, "PUT", "/ann", {"password": PASSWORD})
        client.basic("ann", PASSWORD)
        for name, more in (
            ("dev", {}),
            ("lib", {}),
            ("app", {"bases": "ann/lib"}),
            ("shut", {"acl_pkg_read": "ann"}),
        ):
            config = {"type": "stage", "volatile": "True", "bases": "", **more}
            client.expect(200, "PUT", f"/ann/{name}", config)
        assert client.upload("ann/lib", "first", "1.0", *wheel("first", "1.0")).status == 200


@pytest.fixture
def pair(tmp_path, binary):
    """A master with four indexes, and a replica of two of them that has all that is for it."""
    secret = make_secret(binary, tmp_path)
    master = Node("master", tmp_path, binary, secret=secret)
    replica = Node("laptop", tmp_path, binary, role="replica", master=master, secret=secret)
    master.init()
    master.start()
    make_indexes(master)
    replica.init()
    replica.extra = ["--replicate", "ann/dev,ann/app"]
    replica.start()
    replica.wait_serial(master.serial())
    yield Pair(master, replica)
    replica.stop()
    master.stop()


def index(pair: Pair, name: str) -> Index:
    return Index(pair, "ann", f"ann/{name}")


def position(node: Node):
    with Client(node.url) as client:
        return client.position()


def status(node: Node) -> dict:
    with Client(node.url) as client:
        return client.expect(200, "GET", "/+status").json()["result"]


def write(folder, name, version="1.0", content=b""):
    filename, packed = wheel(name, version, content)
    (folder / filename).write_bytes(packed)
    return folder / filename


def holds(node: Node, text: str) -> bool:
    """Whether a text is anywhere in a node's folder."""
    files = [path for path in node.data.rglob("*") if path.is_file()]
    return any(text.encode() in path.read_bytes() for path in files)


def test_installs_from_what_it_has_go_on_without_the_master(pair, tmp_path, twine, pip_install):
    dev, lib = index(pair, "dev"), index(pair, "lib")
    twine(dev, pair.replica, write(tmp_path, "held"))
    twine(lib, pair.replica, write(tmp_path, PRIVATE))
    assert "held-1.0" in pip_install(dev.simple(pair.replica), "held")[1].stdout
    assert PRIVATE in pip_install(lib.simple(pair.replica), PRIVATE)[1].stdout.lower()
    assert position(pair.replica) == position(pair.master)
    assert status(pair.replica)["replicate"] == ["ann/app", "ann/dev"]
    [seen] = status(pair.master)["polling_replicas"].values()
    assert seen["replicate"] == ["ann/app", "ann/dev"]
    assert holds(pair.master, PRIVATE) and not holds(pair.replica, PRIVATE)

    pair.master.stop()
    assert "held-1.0" in pip_install(dev.simple(pair.replica), "held")[1].stdout
    _, done = pip_install(lib.simple(pair.replica), PRIVATE, check=False)
    assert done.returncode != 0
    with Client(pair.replica.url) as client:
        # All indexes are known by name.
        indexes = client.expect(200, "GET", "/ann").json()["result"]["indexes"]
        assert set(indexes) == {"dev", "lib", "app"}, "all that the asker may read"
        client.expect(200, "GET", "/ann/dev")
        assert client.expect(200, "GET", "/ann/app?no_projects=").json()["result"]["bases"] == ["ann/lib"]
        for path in (
            "/ann/lib",
            "/ann/lib/+simple/",
            f"/ann/lib/+simple/{PRIVATE}/",
            f"/ann/lib/{PRIVATE}",
            f"/ann/lib/{PRIVATE}/1.0",
            f"/ann/lib/+f/123/4567890123456/{PRIVATE}-1.0.tar.gz",
            "/+changes?index=ann/lib",
            "/ann/lib/+changes",
            f"/ann/lib/{PRIVATE}/latest",
        ):
            for accept in ("application/json", "text/html", "*/*"):
                answer = client.ask("GET", path, headers={"Accept": accept})
                said = answer.body.decode()
                assert answer.status == 502, (path, accept, answer.status, said)
                is_page = accept == "text/html" and not path.endswith("/+simple/") and "+f" not in path
                assert answer.headers["Content-Type"].startswith("text/html") or not is_page, (path, said)
                assert "ann/lib is not replicated here: this node has ann/app,ann/dev" in said, said
                assert pair.master.url in said
        client.expect(200, "GET", "/ann/app/+changes")
        # A page that would lack what a base has is not made.
        answer = client.ask("GET", "/ann/app/+simple/")
        assert answer.status == 502 and "ann/lib is not replicated here" in answer.body.decode()


def test_a_base_that_is_not_here_is_the_masters_to_answer(pair, tmp_path, twine, pip_install):
    twine(index(pair, "app"), pair.replica, write(tmp_path, "top"))
    twine(index(pair, "lib"), pair.master, write(tmp_path, "below"))
    app = index(pair, "app")
    assert "below-1.0" in pip_install(app.simple(pair.replica), "top", "below")[1].stdout
    assert "ann/app is based on ann/lib, which --replicate does not name" in pair.replica.log.read_text()
    assert set(app.links(pair.replica, "below")) == set(app.links(pair.master, "below"))
    with Client(pair.replica.url) as client:
        names = client.expect(200, "GET", "/ann/app/+simple/").body.decode()
    assert "top" in names and "below" in names
    # Once it is no base any more, the pages are made here.
    with Client(pair.replica.url) as client:
        client.login("ann", PASSWORD)
        client.expect(200, "PATCH", "/ann/app", ["bases="])
    pair.master.stop()
    assert "top-1.0" in pip_install(app.simple(pair.replica), "top")[1].stdout


SEARCH = b"""<?xml version='1.0'?><methodCall><methodName>search</methodName><params>
<param><value><struct><member><name>name</name><value><array><data><value><string>first</string></value></data></array>
</value></member></struct></value></param><param><value><string>or</string></value></param></params></methodCall>"""


def test_a_search_is_the_masters_to_answer(pair):
    def found(client):
        return [item["name"] for item in client.expect(200, "GET", "/+search?query=first").json()["result"]["items"]]

    with Client(pair.replica.url) as client:
        end = time.monotonic() + 20
        while "first" not in found(client):
            assert time.monotonic() < end, "the master's index does not catch up"
            time.sleep(0.05)
        rpc = client.ask("POST", "/ann/app", SEARCH, {"Content-Type": "text/xml", "Accept": "text/xml"})
        assert rpc.status == 200 and b"first" in rpc.body, rpc.body
        pair.master.stop()
        answer = client.ask("GET", "/+search?query=first")
        assert answer.status == 502 and "this node has ann/app,ann/dev only" in answer.body.decode()


def test_large_files_and_parts_of_them_come_through(pair, tmp_path):
    content = os.urandom(3 << 20)
    lib = index(pair, "lib")
    assert lib.upload(pair.replica, "large", "1.0", "large-1.0.tar.gz", content).status == 200
    assert lib.content(pair.replica, "large", "large-1.0.tar.gz") == content
    with Client(pair.replica.url) as client:
        url = client.links("ann/lib", "large")["large-1.0.tar.gz"]["url"]
        part = client.ask("GET", url, headers={"Accept": "*/*", "Range": "bytes=1000000-2000000"})
        assert (part.status, part.body) == (206, content[1000000:2000001])
        about = client.expect(200, "GET", url).json()
        assert about["type"] == "releasefilemeta" and about["result"]["project"] == "large"
        assert client.ask("GET", "/ann/lib/+f/123/4567890123456/none-1.0.tar.gz").status == 404


def test_who_may_not_read_is_told_so_and_who_may_reads(pair, tmp_path, twine, pip_install):
    shut = index(pair, "shut")
    twine(shut, pair.replica, write(tmp_path, "hidden"))
    with Client(pair.replica.url) as client:
        for path in ("/ann/shut/+simple/hidden/", "/ann/shut/hidden", "/ann/shut"):
            assert client.ask("GET", path).status == 401, path
        client.login("ann", PASSWORD)
        url = client.links("ann/shut", "hidden")["hidden-1.0-py3-none-any.whl"]["url"]
    with Client(pair.replica.url) as client:
        assert client.ask("GET", url, headers={"Accept": "*/*"}).status == 401
    assert "hidden-1.0" in pip_install(shut.simple(pair.replica, with_password=True), "hidden")[1].stdout


def fails(node: Node, *options) -> str:
    """What a node says that does not start with these options."""
    extra, node.extra = node.extra, list(options)
    node.start(wait=False)
    assert node.process.wait(30) not in (0, None)
    node.process, node.extra = None, extra
    return node.tail()


def test_a_folder_keeps_what_it_was_begun_with(pair, binary, tmp_path):
    replica = pair.replica
    replica.stop()
    for names in ("ann/dev", "ann/dev,ann/app,ann/lib"):
        said = fails(replica, "--replicate", names)
        assert "this folder replicates ann/app,ann/dev" in said and "empty --serverdir" in said
    assert "--replicate" in fails(replica, "--replicate", "ann")
    # Left out, it is what it was; also by the environment.
    replica.extra, replica.env = [], {"DEVPISERVER_REPLICATE": "ann/app, ann/dev"}
    replica.start()
    assert status(replica)["replicate"] == ["ann/app", "ann/dev"]
    replica.stop()
    replica.env = {}
    replica.start()
    assert status(replica)["replicate"] == ["ann/app", "ann/dev"]
    said = run([binary, "verify", "--serverdir", replica.data, "--secretfile", replica.secret]).stdout
    assert "all in order" in said and "replicates some indexes only" in said
    done = run([binary, "export", "--serverdir", replica.data, tmp_path / "export"], check=False)
    assert done.returncode != 0 and "replicates ann/app,ann/dev only" in done.stdout
    # A folder with all indexes does not forget some of them.
    whole = Node("whole", tmp_path, binary, role="replica", master=pair.master, secret=replica.secret)
    whole.init()
    whole.start()
    whole.wait_serial(pair.master.serial())
    whole.stop()
    assert "this folder replicates all indexes" in fails(whole, "--replicate", "ann/dev")
    pair.master.stop()
    assert "--replicate is for replicas" in fails(pair.master, "--replicate", "ann/dev")
    pair.master.start()


def test_it_becomes_the_master_only_with_the_loss_accepted(pair, binary, tmp_path, twine):
    twine(index(pair, "dev"), pair.replica, write(tmp_path, "held"))
    pair.master.stop()
    replica = pair.replica
    done = run([binary, "promote", "--serverdir", replica.data], check=False)
    assert done.returncode != 0 and "only a part of the indexes (ann/app,ann/dev)" in done.stdout
    replica.stop()
    replica.role, replica.master = "master", None
    assert "promote --accept-loss" in fails(replica)
    run([binary, "promote", "--serverdir", replica.data, "--accept-loss"])
    # Its old options name the filter still.
    replica.start()
    answer = index(pair, "dev").upload(replica, "held", "1.1", *wheel("held", "1.1"))
    assert answer.status == 200, answer.body
    fresh = Node("fresh", tmp_path, binary, role="replica", master=replica, secret=replica.secret)
    fresh.init()
    fresh.start()
    try:
        said = status(fresh)
        assert said["replication-state"] == "gone", said
        assert fresh.serial() == -1
    finally:
        fresh.stop()


def test_nobody_follows_a_replica_of_some_indexes(pair, binary, tmp_path):
    below = Node("below", tmp_path, binary, role="replica", master=pair.replica, secret=pair.replica.secret)
    below.init()
    below.start()
    try:
        said = status(below)
        assert said["replication-state"] == "refused", said
        assert "replicates ann/app,ann/dev only" in said["replication-state-reason"]
    finally:
        below.stop()
    # Nor is a history compared with it, of which it has a part.
    line = [binary, "demote", "--serverdir", below.data, "--primary-url", pair.replica.url]
    done = run([*line, "--secretfile", below.secret], check=False)
    assert done.returncode != 0 and "replicates ann/app,ann/dev only" in done.stdout, done.stdout


def test_it_follows_a_whole_replica_too(pair, tmp_path, twine, pip_install):
    # The laptop is led to a replica in between.
    between = Node("between", tmp_path, pair.master.binary, role="replica", master=pair.master, secret=pair.master.secret)
    between.init()
    between.start()
    laptop = pair.replica
    laptop.stop()
    laptop.master = between
    laptop.start()
    try:
        twine(index(pair, "dev"), laptop, write(tmp_path, "held"))
        twine(index(pair, "lib"), laptop, write(tmp_path, PRIVATE))
        assert PRIVATE in pip_install(index(pair, "lib").simple(laptop), PRIVATE)[1].stdout.lower()
        assert position(laptop) == position(between) == position(pair.master)
        [seen] = status(between)["polling_replicas"].values()
        assert seen["replicate"] == ["ann/app", "ann/dev"]
        assert holds(between, PRIVATE) and not holds(laptop, PRIVATE)
        # What it passes on is answered halfway up.
        pair.master.stop()
        assert PRIVATE in pip_install(index(pair, "lib").simple(laptop), PRIVATE)[1].stdout.lower()
    finally:
        between.stop()


def test_a_mirror_that_is_not_here_is_the_masters_to_ask(pair, tmp_path, twine, pip_install):
    """The upstream of the mirror is a third server of ours."""
    upstream = Node("upstream", tmp_path, pair.master.binary, role="standalone")
    upstream.init()
    upstream.start()
    try:
        make_indexes(upstream)
        with Client(pair.master.url) as client:
            client.basic("ann", PASSWORD)
            config = {"type": "mirror", "mirror_url": f"{upstream.url}/ann/lib/+simple/", "volatile": "False"}
            client.expect(200, "PUT", "/ann/far", config)
            client.expect(200, "PATCH", "/ann/dev", ["bases=ann/far"])
        pair.replica.wait_serial(pair.master.serial())
        dev = index(pair, "dev")
        twine(dev, pair.replica, write(tmp_path, "held"))
        assert "first-1.0" in pip_install(dev.simple(pair.replica), "held", "first")[1].stdout
        assert position(pair.replica) == position(pair.master)
        assert not holds(pair.replica, "first-1.0"), "nothing of the mirror is kept"
        assert "ann/dev is based on ann/far" in pair.replica.log.read_text()
    finally:
        upstream.stop()


def test_a_token_reads_through_it_what_it_may(pair, tmp_path, twine):
    shut = index(pair, "shut")
    for name in ("one", "two"):
        twine(shut, pair.replica, write(tmp_path, name))
    with Client(pair.replica.url) as client:
        client.login("ann", PASSWORD)
        wish = {"permissions": ["read"], "indexes": ["ann/shut"], "projects": ["one"]}
        token = client.expect(201, "POST", "/ann/+tokens", wish).json()["result"]["token"]
    with Client(pair.replica.url) as client:
        client.basic("__token__", token)
        url = client.links("ann/shut", "one")["one-1.0-py3-none-any.whl"]["url"]
        client.expect(200, "GET", url, headers={"Accept": "*/*"})
        assert client.ask("GET", "/ann/shut/+simple/two/").status == 403
