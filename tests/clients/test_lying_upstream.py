"""Upstreams that are slow, cut off, and lie: nothing wrong is kept, the client is told, and nobody else notices."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lying import HTML, JSON, Upstream, answer, chunked, head, packed, zeros

from nodes import Client, Node

pytestmark = pytest.mark.ours

REQUEST_TIMEOUT = 1
# A client is told within the time-out and the pauses between attempts.
ANSWER_SECONDS = 8
LOCAL_SECONDS = 1
SIMPLE = {"Accept": JSON}
CONTENT = bytes(range(256)) * 16


@pytest.fixture(scope="module")
def node(tmp_path_factory, binary):
    node = Node("mirror", tmp_path_factory.mktemp("mirror"), binary)
    node.extra = ["--request-timeout", str(REQUEST_TIMEOUT)]
    node.init()
    node.start()
    with root(node) as client:
        client.expect(200, "PUT", "/root/local", {"type": "stage", "bases": ""})
    yield node
    assert node.stop() == 0, node.tail()
    assert "panicked" not in node.tail(1 << 30)


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream()
    yield upstream
    upstream.stop()


def root(node) -> Client:
    client = Client(node.url)
    client.login("root", "")
    return client


def mirror(node, upstream, name: str, expiry: int = 0) -> str:
    """A mirror of a part of the upstream; it asks for each request unless told otherwise."""
    config = {"type": "mirror", "mirror_url": f"{upstream.root}/{name}/", "mirror_cache_expiry": expiry}
    with root(node) as client:
        client.expect(200, "PUT", f"/root/{name}", config)
    return f"root/{name}"


def page(project: str, *links: str) -> bytes:
    lines = "".join(f'<a href="{link}">{link}</a><br>\n' for link in links)
    return f"<!DOCTYPE html><html><head><title>{project}</title></head><body>\n{lines}</body></html>\n".encode()


def json_page(*links: str) -> dict:
    files = [{"filename": link.split("/")[-1], "url": link, "hashes": {}} for link in links]
    return {"meta": {"api-version": "1.0"}, "name": "x", "files": files}


class Watch:
    """Asks for local things all the while, and keeps the longest wait."""

    def __init__(self, node):
        self.node, self.longest, self.count, self.is_over = node, 0.0, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        with Client(self.node.url) as client:
            while not self.is_over.wait(0.05):
                for path in ("/+api", "/root/local/+simple/"):
                    begin = time.monotonic()
                    client.expect(200, "GET", path)
                    self.longest = max(self.longest, time.monotonic() - begin)
                    self.count += 1

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()
        assert 0 < self.count and self.longest < LOCAL_SECONDS, f"a local request took {self.longest:.2f} s"


def in_threads(work, items, threads=12) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def ask(node, path, accept="*/*"):
    """Status and body; the status of an answer that broke off is 0."""
    begin = time.monotonic()
    with Client(node.url) as client:
        try:
            said = client.ask("GET", path, headers={"Accept": accept})
            status, body = said.status, said.body
        except (http.client.HTTPException, OSError):
            status, body = 0, b""
    seconds = time.monotonic() - begin
    assert seconds < ANSWER_SECONDS, f"{path}: {status} after {seconds:.1f} s"
    return status, body


def stored(node, part: str) -> list[str]:
    """The files below the node's folder whose names hold `part`."""
    found = [name for _, _, names in os.walk(node.data) for name in names]
    return [name for name in found if part in name]


# ---- pages

GOOD = page("pkg", "pkg-1.0.zip", "pkg-2.0.zip")
GOOD_JSON = json.dumps(json_page("pkg-1.0.zip")).encode()


def loop(request):
    request.send(head(302, Location=request.path, Content_Length=0))


def silent(request):
    time.sleep(REQUEST_TIMEOUT + 1)


def stalls(request):
    request.send(answer(GOOD)[:-40])
    time.sleep(REQUEST_TIMEOUT + 1)


def drips(request):
    for byte in answer(GOOD):
        request.send(bytes([byte]))
        time.sleep(0.1)


def late(request):
    time.sleep(REQUEST_TIMEOUT + 0.5)
    request.send(answer(GOOD))


SLOW = (silent, stalls, drips, late)

# What is said for a page that was never seen, and the statuses that may come of it.
BAD = {502, 504}
PAGES = {
    "refused": (answer(b"no", status=500), BAD),
    "busy": (answer(b"no", status=503), BAD),
    "forbidden": (answer(b"no", status=403), BAD),
    "teapot": (answer(GOOD, status=299), BAD),
    "absent": (answer(GOOD, status=404), {404}),
    "login": (answer(b"<html><form action=/login><input type=password></form><a href=/x>forgotten?</a></html>"), BAD),
    "portal": (answer(b"<html><head><meta http-equiv=refresh content='0;url=/welcome'></head></html>"), BAD),
    "script": (answer(b"<html><script>location = '/sso'</script></html>"), BAD),
    "plain": (answer(GOOD, "text/plain"), BAD),
    "picture": (answer(b"\x89PNG\r\n\x1a\n\0\0", "image/png"), BAD),
    "otherjson": (answer(GOOD_JSON, "application/json"), BAD),
    "nojson": (answer(b"<html>", JSON), BAD),
    "cutjson": (answer(GOOD_JSON[:-9], JSON), BAD),
    "tailjson": (answer(GOOD_JSON + b"{}", JSON), BAD),
    "newjson": (answer(GOOD_JSON.replace(b'"1.0"', b'"2.0"'), JSON), BAD),
    "listjson": (answer(b"[]", JSON), BAD),
    "deepjson": (answer(b'{"files": ' + b"[" * 100_000, JSON), BAD),
    "nogzip": (answer(GOOD, Content_Encoding="gzip"), BAD),
    "cutgzip": (packed(gzip.compress(GOOD)[:-12]), BAD),
    "wronggzip": (packed(gzip.compress(GOOD)[:-8] + bytes(8)), BAD),
    "bomb": (packed(zeros(300 << 20)), BAD),
    "short": (answer(GOOD, length=len(GOOD) + 10), BAD),
    "long": (answer(GOOD, length=len(GOOD) - 40), BAD),
    "nochunk": (chunked(GOOD, ends=False), BAD),
    "badchunk": (head(200, Content_Type=HTML, Transfer_Encoding="chunked") + b"zz\r\n" + GOOD, BAD),
    "badlength": (answer(GOOD, length="many"), BAD),
    "loop": (loop, BAD),
    "elsewhere": (head(302, Location="file:///etc/passwd", Content_Length=0), BAD | {404}),
    "nowhere": (head(302, Location="http://127.0.0.1:9/", Content_Length=0), BAD),
    "noplace": (head(302, Content_Length=0), BAD),
    "nothttp": (b"SSH-2.0-OpenSSH_9.2\r\n", BAD),
    "nothing": (b"", BAD),
    "hugehead": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000, BAD),
    "silent": (silent, BAD),
    "stalls": (stalls, BAD),
    "drips": (drips, BAD),
    "late": (late, BAD),
}


def test_a_page_that_is_none_is_never_shown(node, upstream):
    names = list(PAGES)
    for name in names:
        mirror(node, upstream, name)
        upstream.says[f"/{name}/pkg/"] = PAGES[name][0]
    with Client(node.url) as client:
        before = client.expect(200, "GET", "/+api").serial

    def look(name):
        status, body = ask(node, f"/root/{name}/+simple/pkg/", JSON)
        if status not in PAGES[name][1]:
            return f"{name}: {status} {body[:200]!r}"
        return None if body and b"internal" not in body else f"{name}: {body[:200]!r}"

    with Watch(node):
        wrong = [said for said in in_threads(look, names, len(names)) if said]
    assert not wrong, "\n".join(wrong)
    with Client(node.url) as client:
        after = client.expect(200, "GET", "/+api").serial
    # Only the page that came late was kept; its second look may have been in time.
    assert after <= before + 1
    # None of it is in the way of the truth.
    for name in names:
        upstream.says[f"/{name}/pkg/"] = answer(GOOD)

    def settled(name):
        end = time.monotonic() + ANSWER_SECONDS
        while (said := ask(node, f"/root/{name}/+simple/pkg/", JSON))[0] != 200 and time.monotonic() < end:
            time.sleep(0.2)
        files = [file["filename"] for file in json.loads(said[1])["files"]] if said[0] == 200 else said
        return None if files == ["pkg-1.0.zip", "pkg-2.0.zip"] else f"{name}: {files}"

    # Those that take their time are still at their first answers.
    wrong = [said for said in in_threads(settled, [name for name in names if PAGES[name][0] not in SLOW]) if said]
    assert not wrong, "\n".join(wrong)


def test_a_page_that_is_held_outlives_all_lies(node, upstream):
    names = [f"held-{name}" for name in PAGES if PAGES[name][0] not in SLOW]
    for name in names:
        mirror(node, upstream, name)
        upstream.says[f"/{name}/pkg/"] = answer(GOOD)
    first = in_threads(lambda name: ask(node, f"/root/{name}/+simple/pkg/", JSON), names)
    assert {status for status, _ in first} == {200}
    for name in names:
        upstream.says[f"/{name}/pkg/"] = PAGES[name.removeprefix("held-")][0]
    with Watch(node):
        then = in_threads(lambda name: ask(node, f"/root/{name}/+simple/pkg/", JSON), names)
    assert then == first
    with Client(node.url) as client:
        said = client.expect(200, "GET", f"/root/{names[0]}/+simple/pkg/", headers=SIMPLE)
    assert "no-store" in said.headers["Cache-Control"]


WHOLE = {"length": answer, "chunks": chunked, "neither": lambda body: answer(body, length=None)}
# Each mirror has threads of its own.
MIRRORS = 6


def test_a_page_cut_at_any_byte_shows_nothing_wrong(node, upstream):
    links = [f"cut%s-{version}.zip#md5={'0' * 31}{version}" for version in range(3)]
    cases = []
    for how, whole in WHOLE.items():
        for number in range(MIRRORS):
            mirror(node, upstream, f"cut-{how}-{number}", expiry=1800)
        size = len(whole(page("cut", *(link % "000" for link in links))))
        for offset in [*range(0, size, 23), *range(size - 12, size)]:
            name = f"cut-{how}-{len(cases) % MIRRORS}"
            body = page("cut", *(link % f"{offset:03}" for link in links))
            upstream.says[f"/{name}/cut{offset:03}/"] = whole(body)[:offset]
            cases.append((how, offset, f"/root/{name}/+simple/cut{offset:03}/"))

    def look(case):
        how, offset, path = case
        status, body = ask(node, path, JSON)
        if status in BAD:
            return None
        files = json.loads(body)["files"] if status == 200 else None
        # Without a length nobody can tell an end from a cut; what is shown must be right all the same.
        is_right = files is not None and (how == "neither" or len(files) == len(links)) and all(
            file["hashes"] == {"md5": "0" * 31 + file["filename"][-5]} for file in files
        )
        return None if is_right else f"{how} cut at {offset}: {status} {body[:300]!r}"

    wrong = [said for said in in_threads(look, cases, 48) if said]
    assert not wrong, "\n".join(wrong)


# ---- files

SHA256 = hashlib.sha256(CONTENT).hexdigest()


def file_answer(body: bytes = CONTENT, **more) -> bytes:
    return answer(body, "application/octet-stream", **more)


def file_stalls(request):
    request.send(file_answer()[:-100])
    time.sleep(REQUEST_TIMEOUT + 1)


FILES = {
    "wrong": (file_answer(CONTENT[::-1]), BAD),
    "onebyte": (file_answer(CONTENT[:-1] + b"x"), BAD),
    "empty": (file_answer(b""), BAD),
    "shorter": (file_answer(CONTENT[:-1]), BAD),
    "longer": (file_answer(CONTENT + b"x"), BAD),
    "cut": (file_answer()[:-1], BAD),
    "halfhead": (file_answer()[:30], BAD),
    "nochunk": (chunked(CONTENT, ends=False), BAD),
    "login": (answer(b"<html><input type=password></html>"), BAD),
    "refused": (file_answer(status=500), BAD),
    "forbidden": (file_answer(status=403), BAD),
    "part": (file_answer(status=206), BAD),
    "empty204": (head(204), BAD),
    "absent": (file_answer(status=404), {404}),
    "loop": (loop, BAD),
    # Taken for an address at the same server, where there is nothing.
    "elsewhere": (head(302, Location="file:///etc/passwd", Content_Length=0), BAD | {404}),
    "nothing": (b"", BAD),
    "silent": (silent, BAD),
    "stalls": (file_stalls, BAD),
}


def prepare_files(node, upstream, name, files: dict, spec: str) -> dict[str, str]:
    """A mirror with one file per entry; gives the address of each here."""
    index = mirror(node, upstream, name, expiry=1800)
    names = {entry: f"{name}-{number}.zip" for number, entry in enumerate(files)}
    links = [f"/{name}/files/{file}{spec}" for file in names.values()]
    upstream.says[f"/{name}/{name}/"] = answer(page(name, *links))
    for entry, file in names.items():
        upstream.says[f"/{name}/files/{file}"] = files[entry]
    with Client(node.url) as client:
        shown = client.links(index, name)
    return {entry: shown[file]["url"] for entry, file in names.items()}


def test_a_file_that_is_another_one_is_neither_shown_nor_kept(node, upstream):
    urls = prepare_files(node, upstream, "lies", {name: said for name, (said, _) in FILES.items()}, f"#sha256={SHA256}")

    def look(entry):
        status, body = ask(node, urls[entry])
        # An answer that had begun is cut off; nobody takes that for a file.
        return None if status in FILES[entry][1] | {0} else f"{entry}: {status} {len(body)} bytes"

    with Watch(node):
        wrong = [said for said in in_threads(look, FILES, len(FILES)) if said]
    assert not wrong, "\n".join(wrong)
    assert stored(node, "lies-") == []
    asked = dict(upstream.asked)
    for entry, url in urls.items():
        upstream.says[f"/lies/files/{url.split('/')[-1]}"] = file_answer()
    for entry, (status, body) in zip(urls, in_threads(lambda entry: ask(node, urls[entry]), urls)):
        assert (status, body) == (200, CONTENT), entry
    assert all(asked[path] < upstream.asked[path] for path in (f"/lies/files/{url.split('/')[-1]}" for url in urls.values()))


def test_a_file_without_hash_must_be_whole(node, upstream):
    files = {name: FILES[name][0] for name in ("cut", "halfhead", "nochunk", "refused", "nothing", "part", "empty204")}
    urls = prepare_files(node, upstream, "bare", files, "")
    answers = in_threads(lambda entry: ask(node, urls[entry]), urls)
    assert {status for status, _ in answers} <= BAD | {0}, dict(zip(urls, answers))
    assert stored(node, "bare-") == []


def test_a_file_that_breaks_off_once_arrives_whole(node, upstream):
    offsets = [0, 1, 40, *range(60, len(file_answer()), 400), len(file_answer()) - 1]
    broken = set()

    def cut(offset):
        def said(request):
            start = int(request.fields.get("range", "bytes=0-")[6:].split("-")[0])
            if offset not in broken:
                broken.add(offset)
                return request.send(file_answer()[:offset])
            if start:
                part = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
                return request.send(file_answer(CONTENT[start:], status=206, Content_Range=part))
            request.send(file_answer())

        return said

    urls = prepare_files(node, upstream, "once", {offset: cut(offset) for offset in offsets}, f"#sha256={SHA256}")
    for offset, (status, body) in zip(urls, in_threads(lambda offset: ask(node, urls[offset]), urls)):
        assert (status, body) == (200, CONTENT), f"cut at {offset}: {status}, {len(body)} bytes"
    # A file's end is handed out once its hash was right; its place follows.
    end = time.monotonic() + 10
    while len(stored(node, "once-")) < len(offsets) and time.monotonic() < end:
        time.sleep(0.01)
    assert len(stored(node, "once-")) == len(offsets)


# ---- many at once

CROWD = 50
# More than wait for other servers at the same time.
TARRY = 110


def slowly(said: bytes):
    def answer_late(request):
        time.sleep(0.5)
        request.send(said)

    return answer_late


def test_a_crowd_costs_the_upstream_one_request(node, upstream):
    index = mirror(node, upstream, "crowd", expiry=1800)
    link = f"/crowd/files/crowd-1.0.zip#sha256={SHA256}"
    names = [{"name": f"project-{number:05}"} for number in range(5_000)]
    upstream.says["/crowd/crowd/"] = slowly(answer(page("crowd", link)))
    upstream.says["/crowd/files/crowd-1.0.zip"] = slowly(file_answer())
    listed = json.dumps({"meta": {"api-version": "1.0"}, "projects": names}).encode()
    upstream.says["/crowd/"] = slowly(answer(listed, JSON))
    with Watch(node):
        pages = in_threads(lambda _: ask(node, f"/{index}/+simple/crowd/", JSON), range(CROWD), CROWD)
        assert len(set(pages)) == 1 and pages[0][0] == 200, {status for status, _ in pages}
        url = f"/{index}/+f/{SHA256[:3]}/{SHA256[3:16]}/crowd-1.0.zip"
        files = in_threads(lambda _: ask(node, url), range(CROWD), CROWD)
        assert set(files) == {(200, CONTENT)}
        lists = in_threads(lambda _: ask(node, f"/{index}/+simple/", JSON), range(CROWD), CROWD)
        assert {status for status, _ in lists} == {200} and len(set(lists)) == 1
        assert len(json.loads(lists[0][1])["projects"]) == 5_001
    asked = {path: count for path, count in upstream.asked.items() if path.startswith("/crowd/")}
    assert asked == {"/crowd/crowd/": 1, "/crowd/files/crowd-1.0.zip": 1, "/crowd/": 1}


def test_a_crowd_that_waits_for_nothing_holds_up_nobody(node, upstream):
    for number in range(8):
        mirror(node, upstream, f"tar-{number}")

    def wait(request):
        request.sleep(REQUEST_TIMEOUT + 1, upstream)

    for number in range(TARRY):
        upstream.says[f"/tar-{number % 8}/pkg-{number}/"] = wait
    with Watch(node) as watch:
        answers = in_threads(lambda n: ask(node, f"/root/tar-{n % 8}/+simple/pkg-{n}/", JSON)[0], range(TARRY), TARRY)
        assert set(answers) <= {502, 503, 504}, set(answers)
    assert watch.longest < LOCAL_SECONDS


# ---- lists

LISTED = b"<html><body><a href='one/'>one</a><a href='two/'>two</a></body></html>"


def test_a_list_that_is_none_hides_nothing(node, upstream):
    lies = {name: said for name, (said, _) in PAGES.items() if said not in SLOW and name != "bomb"}
    lies["absent"] = answer(b"no list", status=404)
    lies["long"] = answer(LISTED, length=len(LISTED) - 20)
    for name in lies:
        mirror(node, upstream, f"list-{name}")
        upstream.says[f"/list-{name}/pkg/"] = answer(GOOD)
        upstream.says[f"/list-{name}/"] = lies[name]

    def listed(name):
        with Client(node.url) as client:
            client.expect(200, "GET", f"/root/list-{name}/+simple/pkg/", headers=SIMPLE)
            said = client.expect(200, "GET", f"/root/list-{name}/+simple/", headers=SIMPLE)
        names = [project["name"] for project in said.json()["projects"]]
        return names, "no-store" in said.headers["Cache-Control"]

    with Watch(node):
        shown = dict(zip(lies, in_threads(listed, lies)))
    # What is held is known without the upstream; the answer says that it may not be all.
    assert {name: said for name, said in shown.items() if said != (["pkg"], True)} == {}
    for name in lies:
        upstream.says[f"/list-{name}/"] = answer(LISTED)
    shown = dict(zip(lies, in_threads(listed, lies)))
    assert {name: said for name, said in shown.items() if said != (["one", "pkg", "two"], False)} == {}
    for name in lies:
        upstream.says[f"/list-{name}/"] = lies[name]
    shown = dict(zip(lies, in_threads(listed, lies)))
    assert {name: said for name, said in shown.items() if said != (["one", "pkg", "two"], True)} == {}
