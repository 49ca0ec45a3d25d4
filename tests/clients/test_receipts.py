"""Changes that are carried out once, however often they are sent, and whatever becomes of the connections."""

from __future__ import annotations

import http.client
import os
import secrets
import threading

import pytest

from conftest import PASSWORD, Pair, make_index
from cutter import Cutter
from nodes import Client, Node, make_secret, wheel

pytestmark = pytest.mark.ours

# Each byte is tried if this is 1; the connection of a test run is cut at some.
STEP = int(os.environ.get("TWINPI_CUT_STEP", "29"))


class Scene:
    """Two nodes with a cutter between them, and one before the replica."""

    def __init__(self, folder, binary):
        secret = make_secret(binary, folder)
        master = Node("master", folder, binary, secret=secret)
        master.init()
        master.start()
        self.between = Cutter(master.port)
        replica = Node("replica", folder, binary, role="replica", master=master, secret=secret, master_url=self.between.url)
        replica.init()
        replica.start()
        self.before = Cutter(replica.port)
        self.pair = Pair(master, replica)
        self.index = make_index(self.pair)
        self.count = 0
        with self.index.client(replica) as client:
            self.auth = client.auth

    def close(self):
        self.pair.stop()
        self.before.close()
        self.between.close()

    def serial(self) -> int:
        return self.pair.master.serial()

    def client(self, url: str) -> Client:
        client = Client(url, timeout=20)
        client.auth = self.auth
        return client

    def change(self, url: str, key: str | None = None, body=None):
        """Sends a change that nobody made before."""
        self.count += 1
        body = body or {"title": f"title {self.count:08}"}
        headers = {"X-TWINPI-RECEIPT": key} if key else {}
        with self.client(url) as client:
            return client.ask("PATCH", f"/{self.index.name}", body, headers)

    def receipt(self, node: Node, key: str) -> dict:
        with Client(node.url) as client:
            return client.expect(200, "GET", f"/+receipt/{key}").json()

    def offsets(self, cutter: Cutter, url: str, key: str | None, step: int):
        """At which bytes to cut, by how long a change and its answer are that pass."""
        cutter.cut("", 0, 0)
        assert self.change(url, key).status == 200
        seen = dict(cutter.seen)
        for side in ("request", "answer"):
            assert 100 < seen[side]
            # The last byte of a request cut off, and the request whole without any answer.
            yield from ((side, at) for at in sorted({*range(1, seen[side], step), seen[side] - 1}))
        yield "request", seen["request"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory, binary):
    scene = Scene(tmp_path_factory.mktemp("receipts"), binary)
    yield scene
    scene.close()


def new_key() -> str:
    return secrets.token_hex(16)


def test_a_cut_between_the_nodes_is_not_seen_by_the_client(scene):
    replica = scene.pair.replica
    for side, at in list(scene.offsets(scene.between, replica.url, None, STEP)):
        before = scene.serial()
        scene.between.cut(side, at)
        answer = scene.change(replica.url)
        assert scene.between.cuts == 1, (side, at)
        assert (answer.status, answer.serial) == (200, before + 1), (side, at, answer)
        assert scene.serial() == before + 1, (side, at)


def test_a_client_that_was_cut_off_repeats_and_one_change_stands(scene):
    key = new_key()
    for side, at in list(scene.offsets(scene.before, scene.before.url, key, STEP)):
        before, key = scene.serial(), new_key()
        body = {"title": f"cut {side} {at:05} {key}"}
        scene.before.cut(side, at)
        try:
            answer = scene.change(scene.before.url, key, body)
            # This client takes a head that ends early for one without a body.
            assert len(answer.body) == 0, (side, at)
        except (http.client.HTTPException, OSError):
            pass
        assert scene.before.cuts == 1, (side, at)
        answer = scene.change(scene.before.url, key, body)
        assert (answer.status, answer.serial) == (200, before + 1), (side, at, answer)
        assert answer.json()["result"]["title"] == body["title"]
        assert scene.serial() == before + 1, (side, at)


@pytest.mark.parametrize("side, at", [("request", 5), ("request", 400), ("answer", 0), ("answer", 3), ("answer", 300)])
def test_a_connection_that_breaks_each_time_is_answered_truthfully(scene, side, at):
    replica, before, key = scene.pair.replica, scene.serial(), new_key()
    body = {"title": f"always {side} {at} {key}"}
    scene.between.cut(side, max(at, 1) if side == "request" else at, times=20)
    answer = scene.change(replica.url, key, body)
    scene.between.cut("", 0, 0)
    if side == "request":
        assert answer.status == 502 and f"{replica.url}/+receipt/{key}" in answer.body.decode()
        assert scene.serial() == before
        assert scene.receipt(replica, key)["state"] == "unknown"
    else:
        assert (answer.status, answer.serial) == (200, before + 1), answer
        state = scene.receipt(replica, key)
        assert state.items() >= {"state": "committed", "serial": before + 1, "status": 200, "visible_here": True}.items()
    again = scene.change(replica.url, key, body)
    assert (again.status, again.serial) == (200, before + 1)
    assert again.json()["result"]["title"] == body["title"]
    assert scene.serial() == before + 1


def test_a_large_upload_is_looked_up_by_its_receipt(scene):
    replica = scene.pair.replica
    with scene.client(replica.url) as client:
        for n, (side, at) in enumerate([("answer", 1), ("answer", 200), ("request", 900_000)]):
            before, key = scene.serial(), new_key()
            filename, _ = wheel("large", f"{n}.0")
            content = secrets.token_bytes(3 << 20)
            scene.between.cut(side, at)
            form = upload_form(filename, f"{n}.0", content)
            answer = client.ask("POST", f"/{scene.index.name}/", *with_key(form, key))
            if side == "answer":
                assert (answer.status, answer.serial) == (200, before + 1), answer
            else:
                # Whether the replica can rule out that all of it arrived depends on what lay in buffers.
                assert answer.status == 502 and scene.serial() == before
                client.close()
            again = client.ask("POST", f"/{scene.index.name}/", *with_key(form, key))
            assert (again.status, again.serial, scene.serial()) == (200, before + 1, before + 1)
            assert (again.headers["X-TWINPI-REPEATED"] == "yes") == (side == "answer")


def upload_form(filename: str, version: str, content: bytes) -> tuple[bytes, dict]:
    mark = secrets.token_hex(8)
    fields = {":action": "file_upload", "name": "large", "version": version, "filetype": "bdist_wheel", "pyversion": "py3"}
    form = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items())
    form += f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="{filename}"\r\n\r\n'
    whole = form.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return whole, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def with_key(form: tuple[bytes, dict], key: str) -> tuple[bytes, dict]:
    return form[0], {**form[1], "X-TWINPI-RECEIPT": key}


def test_a_key_is_good_for_one_request(scene):
    master, key = scene.pair.master, new_key()
    headers = {"X-TWINPI-RECEIPT": key}
    path, body = f"/{scene.index.name}", {"title": f"first {key}"}
    assert scene.receipt(master, key)["state"] == "unknown"
    with scene.client(master.url) as client:
        first = client.expect(200, "PATCH", path, body, headers)
        serial = scene.serial()
        again = client.expect(200, "PATCH", path, body, headers)
        assert (again.body, again.serial, again.headers["X-TWINPI-REPEATED"]) == (first.body, serial, "yes")
        assert again.headers["Content-Type"] == first.headers["Content-Type"]
        client.expect(422, "PATCH", path, {"title": f"other {key}"}, headers)
        client.expect(422, "DELETE", path, None, headers)
        client.expect(422, "PATCH", f"{path}?error_on_noop", body, headers)
        client.basic(scene.index.user, "another password")
        client.expect(422, "PATCH", path, body, headers)
        client.auth = None
        client.expect(422, "PATCH", path, body, headers)
        client.expect(400, "PATCH", path, body, {"X-TWINPI-RECEIPT": "short"})
        client.expect(400, "GET", "/+receipt/short")
    assert scene.serial() == serial


def test_what_was_refused_is_looked_at_again(scene):
    key, user = new_key(), f"late{secrets.token_hex(4)}"
    headers = {"X-TWINPI-RECEIPT": key}
    with scene.client(scene.pair.replica.url) as client:
        client.expect(404, "PUT", f"/{user}/dev", {}, headers)
        assert scene.receipt(scene.pair.master, key)["state"] == "unknown"
        client.expect(201, "PUT", f"/{user}", {"password": PASSWORD})
        refused = client.ask("PUT", f"/{user}/dev", {}, headers)
        assert refused.status == 403 and "X-TWINPI-REPEATED" not in refused.headers


def test_secrets_are_not_kept_with_a_receipt(scene):
    key = new_key()
    headers = {"X-TWINPI-RECEIPT": key}
    with scene.client(scene.pair.master.url) as client:
        path = f"/{scene.index.user}/+tokens"
        wish = {"permissions": ["read"], "indexes": ["*"]}
        made = client.expect(201, "POST", path, wish, headers)
        token = made.json()["result"]["token"]
        before = scene.serial()
        again = client.ask("POST", path, wish, headers)
        assert again.status == 201 and token not in again.body.decode()
        assert f"serial {before}" in again.json()["message"]
        assert scene.serial() == before
    stored = b"".join(path.read_bytes() for path in scene.pair.master.data.glob("twinpi.sqlite*"))
    assert token.encode() not in stored and key.encode() not in stored


def test_many_at_once_with_one_key_are_one_change(scene):
    before, key = scene.serial(), new_key()
    body, answers = {"title": f"together {key}"}, []
    nodes = [scene.pair.replica, scene.pair.master] * 6
    threads = [threading.Thread(target=lambda n=n: answers.append(scene.change(n.url, key, body))) for n in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * len(nodes)
    assert {answer.serial for answer in answers} == {before + 1}
    assert sum("X-TWINPI-REPEATED" not in answer.headers for answer in answers) == 1
    assert scene.serial() == before + 1


def test_a_receipt_survives_its_master_and_a_replica_tells_what_it_knows(scene):
    master, replica = scene.pair.master, scene.pair.replica
    before, key = scene.serial(), new_key()
    body = {"title": f"lasting {key}"}
    first = scene.change(replica.url, key, body)
    assert (first.status, first.serial) == (200, before + 1)
    master.stop(kill=True)
    state = scene.receipt(replica, key)
    assert state["state"] == "committed" and state["visible_here"] is True and "master" in state["known_from"]
    assert scene.receipt(replica, new_key())["state"] == "unknown"
    master.start()
    again = scene.change(master.url, key, body)
    assert (again.status, again.serial, again.body) == (200, before + 1, first.body)
    assert again.headers["X-TWINPI-REPEATED"] == "yes"
    assert scene.serial() == before + 1
