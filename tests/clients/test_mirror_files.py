"""Files of mirrors through both nodes: an upstream that stumbles, a master that is away, deletion and quarantine."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import make_index

from nodes import Client

pytestmark = pytest.mark.ours

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
ANY = {"Accept": "*/*"}


class Upstream(ThreadingHTTPServer):
    """Has one project, `big`. With `stumbles`, most answers are refused, cut, or end in the middle."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, files: dict[str, bytes], stumbles: bool = False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.dice, self.stumbles = files, random.Random(1), stumbles
        self.status: str | None = None
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def page(self) -> bytes:
        files = [
            {"filename": name, "url": f"/files/{name}", "hashes": {"sha256": sha256(content)}}
            for name, content in self.files.items()
        ]
        page = {"meta": {"api-version": "1.4"}, "name": "big", "files": files}
        if self.status:
            page["project-status"] = {"status": self.status}
        return json.dumps(page).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Range"]))
        if self.path == "/simple/big/":
            return self.answer(200, self.server.page(), **{"Content-Type": SIMPLE_JSON})
        content = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if content is None:
            return self.answer(404, b"")
        chance = self.server.dice.random() if self.server.stumbles else 1
        if chance < 0.15:
            return self.answer(503, b"")
        if chance < 0.25:
            self.close_connection = True
            return None
        part = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        first = int(part[1]) if part else 0
        fields = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if part else {}
        left = content[first:]
        return self.answer(206 if part else 200, left, len(left) * 2 // 3 if chance < 0.6 else None, **fields)

    def answer(self, status: int, body: bytes, cut_at: int | None = None, **fields):
        self.send_response(status)
        for name, value in {**fields, "ETag": '"one"', "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut_at])
        if cut_at is not None:
            self.close_connection = True


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def upstream():
    made = []

    def make(sizes, stumbles=False) -> Upstream:
        dice = random.Random(2)
        files = {f"big-{n}.0.zip": dice.randbytes(size) for n, size in enumerate(sizes)}
        made.append(Upstream(files, stumbles))
        return made[-1]

    yield make
    for server in made:
        server.shutdown()


@pytest.fixture
def mirror(own_pair):
    """Makes a mirror; gives its owner's client on the master, and the address of each file."""

    def make(upstream: Upstream, **config):
        index = make_index(own_pair)
        client = index.client(own_pair.master)
        name = f"{index.user}/mir"
        config = {"type": "mirror", "mirror_url": f"{upstream.url}/simple/", **config}
        client.expect(200, "PUT", f"/{name}", config)
        own_pair.replica.wait_serial(own_pair.master.serial())
        paths = {}
        for filename, content in upstream.files.items():
            digest = sha256(content)
            paths[filename] = f"/{name}/+f/{digest[:3]}/{digest[3:16]}/{filename}"
        return client, paths

    return make


def test_nobody_sees_an_upstream_stumble(own_pair, upstream, mirror):
    server = upstream([10, 100_000, 300_000, 3_000_000, 400_000, 2_000_000], stumbles=True)
    _, paths = mirror(server)
    ranges = {None: slice(None), "bytes=-7": slice(-7, None), "bytes=3-8": slice(3, 9)}
    jobs = [
        (node, filename, wanted)
        for node in (own_pair.master, own_pair.replica)
        for filename in paths
        for wanted in [None] * 10 + ["bytes=-7", "bytes=3-8"]
    ]
    random.Random(3).shuffle(jobs)

    def fetch(job):
        node, filename, wanted = job
        headers = {**ANY, "Range": wanted} if wanted else ANY
        with Client(node.url) as client:
            answer = client.ask("GET", paths[filename], headers=headers)
        is_right = answer.body == server.files[filename][ranges[wanted]]
        return is_right and answer.status == (206 if wanted else 200) or (job, answer.status)

    # Nobody looked at the page before: the addresses are as from a lock file.
    with ThreadPoolExecutor(40) as pool:
        assert [failed for failed in pool.map(fetch, jobs) if failed is not True] == []
    assert len(server.asked) < len(jobs) / 2, "each file came once, whatever it took"
    assert any(wanted for path, wanted in server.asked if path.startswith("/files/")), "parts were asked for"


def test_a_file_that_is_new_comes_without_the_master(own_pair, upstream, mirror):
    server = upstream([400_000, 500_000])
    _, paths = mirror(server)
    first, second = paths
    with Client(own_pair.replica.url) as client:
        assert client.ask("GET", paths[first], headers=ANY).body == server.files[first]
        own_pair.master.stop(kill=True)
        assert client.ask("GET", paths[second], headers=ANY).body == server.files[second]
        server.files.clear()
        for filename, path in paths.items():
            answer = client.ask("GET", path, headers=ANY)
            assert answer.status == 200, f"{filename} is kept"


def test_what_is_deleted_on_the_master_goes_from_the_replica(own_pair, upstream, mirror):
    server = upstream([1000])
    owner, paths = mirror(server)
    ((filename, path),) = paths.items()
    project = "/".join(path.split("/")[:3]) + "/big"
    for deletion in (f"{project}/0.0", project):
        with Client(own_pair.replica.url) as client:
            assert client.ask("GET", path, headers=ANY).body == server.files[filename]
            place = own_pair.replica.data / "+files" / path[1:]
            wait_until(place.exists)
            owner.expect(200, "DELETE", deletion)
            own_pair.replica.wait_serial(own_pair.master.serial())
            wait_until(lambda: not place.exists())
            client.expect(200, "GET", f"{project.rsplit('/', 1)[0]}/+simple/big/", headers={"Accept": SIMPLE_JSON})
            own_pair.replica.wait_serial(own_pair.master.serial())
            assert client.ask("GET", path, headers=ANY).body == server.files[filename]


def test_a_project_in_quarantine_hands_out_nothing(own_pair, upstream, mirror):
    server = upstream([1000, 2000])
    _, paths = mirror(server, mirror_cache_expiry=0)
    here, absent = paths.values()
    page = "/".join(here.split("/")[:3]) + "/+simple/big/"
    nodes = (own_pair.master, own_pair.replica)
    for node in nodes:
        with Client(node.url) as client:
            client.expect(200, "GET", here, headers=ANY)
    server.status = "quarantined"
    for node in nodes:
        with Client(node.url) as client:
            client.expect(200, "GET", page, headers={"Accept": SIMPLE_JSON})
            own_pair.replica.wait_serial(own_pair.master.serial())
            for path in (here, absent):
                refused = client.expect(403, "GET", path, headers=ANY)
                assert b"quarantine" in refused.body
    server.status = None
    with Client(own_pair.master.url) as client:
        client.expect(200, "GET", page, headers={"Accept": SIMPLE_JSON})
        client.expect(200, "GET", here, headers=ANY)


def test_a_quarantine_holds_on_all_nodes_soon_after_anybody_looks(own_pair, upstream, mirror):
    """Whoever looks at the page once it is stale is the last who may get the file, at whichever node."""
    expiry, slack = 1, 3
    server = upstream([1000])
    _, paths = mirror(server, mirror_cache_expiry=expiry)
    (here,) = paths.values()
    page = "/".join(here.split("/")[:3]) + "/+simple/big/"
    nodes = (own_pair.master, own_pair.replica)
    for looker in nodes:
        for node in nodes:
            with Client(node.url) as client:
                client.expect(200, "GET", page, headers={"Accept": SIMPLE_JSON})
                client.expect(200, "GET", here, headers=ANY)
        server.status = "quarantined"
        began, left, took = time.monotonic(), set(), 0
        while len(left) < len(nodes):
            assert (took := time.monotonic() - began) < expiry + slack, left
            with Client(looker.url) as client:
                client.expect(200, "GET", page, headers={"Accept": SIMPLE_JSON})
            for node in nodes:
                with Client(node.url) as client:
                    if client.ask("GET", here, headers=ANY).status == 403:
                        left.add(node.name)
            time.sleep(0.02)
        print(f"looked at through {looker.name}: no node hands it out after {took:.2f} s, of which {expiry} s is the page's age")
        server.status = None
        time.sleep(expiry + 0.1)


def wait_until(is_so, seconds: float = 20):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
