"""Documentation through both nodes: read out of its zip, confined, and fetched by a replica that does not hold it."""

from __future__ import annotations

import io
import random
import uuid
import zipfile

import pytest
from conftest import make_index, start_pair

from nodes import Client, wheel

pytestmark = pytest.mark.ours

LONG = random.Random(7).randbytes(900_000)
PAGES = {
    "index.html": b"<html><body>front</body></html>",
    "sub/index.html": b"<html><body>sub</body></html>",
    "_static/font.woff2": b"font",
    "long.bin": LONG,
}


def packed(pages: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pages.items():
            archive.writestr(name, content)
    return made.getvalue()


def upload_docs(client: Client, index: str, content: bytes, name="pkg", version="1.0"):
    mark = uuid.uuid4().hex
    fields = {":action": "doc_upload", "name": name, "version": version}
    head = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items())
    head += f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="d.zip"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}", "Accept": "*/*"}
    return client.ask("POST", f"/{index}/", body, headers)


def get(client: Client, path: str, method="GET", **headers):
    return client.ask(method, path, headers={"Accept": "*/*", **headers})


@pytest.fixture
def documented(index):
    with index.client(index.pair.replica) as client:
        assert upload_docs(client, index.name, packed(PAGES)).status == 200
        assert index.upload(index.pair.replica, "pkg", "1.1", *wheel("pkg", "1.1")).status == 200
        yield client, index.name


def test_pages_are_read_out_of_the_zip(documented):
    client, index = documented
    for name, content in PAGES.items():
        answer = get(client, f"/{index}/pkg/1.0/+doc/{name}")
        assert (answer.status, answer.body) == (200, content), name
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("sandbox ") and "allow-same-origin" not in policy
    assert get(client, f"/{index}/pkg/latest/+doc/index.html").status == 200
    for word, place in (("+doc", "+doc/index.html"), ("+d/", "+d/index.html"), ("+doc/sub", "+doc/sub/index.html")):
        answer = get(client, f"/{index}/pkg/1.0/{word}")
        assert answer.status == 302 and answer.headers["Location"].endswith(f"/{index}/pkg/1.0/{place}")
    assert get(client, f"/{index}/PKG/1.0/+doc/sub/index.html").headers["Location"].endswith("/pkg/1.0/+doc/sub/index.html")


def test_nothing_outside_the_zip_is_reached(documented):
    client, index = documented
    for name in ("..%2f..%2f..%2fetc%2fpasswd", "sub%2f..%2findex.html", "%2fetc%2fpasswd", "sub%5cindex.html", "%2e%2e/x"):
        assert get(client, f"/{index}/pkg/1.0/+doc/{name}").status in (400, 404), name
    for version in ("1.1", "2.0", "stable%2f", "..%2f1.0"):
        assert get(client, f"/{index}/pkg/{version}/+doc/index.html").status in (400, 404), version


def test_a_page_that_did_not_change_is_not_sent_again(documented):
    client, index = documented
    path = f"/{index}/pkg/1.0/+doc/long.bin"
    whole = get(client, path)
    assert whole.headers["Cache-Control"] == "max-age=60"
    again = get(client, path, **{"If-None-Match": whole.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    head = get(client, path, method="HEAD")
    assert (head.status, head.body, int(head.headers["Content-Length"])) == (200, b"", len(LONG))


def test_the_frame_is_ours_and_strict(documented):
    client, index = documented
    answer = get(client, f"/{index}/pkg/1.0/+d/sub/index.html?a=%22%3E%3Cscript%3E")
    text = answer.body.decode()
    assert answer.status == 200 and 'src="../../+doc/sub/index.html?a=' in text
    assert "><script>" not in text and "not the newest release" in text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert get(client, f"/{index}/pkg/1.0/+d/nothing.html").status == 404


def test_zips_that_could_not_be_shown_are_refused_with_the_reason(index):
    bomb = packed({"index.html": b"x", "bomb": bytes(50 << 20)})
    with index.client(index.pair.replica) as client:
        for content, reason in [
            (b"no zip", "not a zip"),
            (packed({"../up.html": b"x"}), "leads elsewhere"),
            (packed({"/etc/passwd": b"x"}), "leads elsewhere"),
            (bomb, "would unpack"),
        ]:
            answer = upload_docs(client, index.name, content)
            assert answer.status == 400 and reason in answer.reason, answer.reason


def test_a_replica_brings_what_it_does_not_hold(tmp_path, binary):
    pair = start_pair(tmp_path, binary)
    try:
        pair.replica.stop()
        pair.replica.extra = ["--file-replication-skip-indexes", "all"]
        pair.replica.start()
        index = make_index(pair)
        with index.client(pair.replica) as client:
            assert upload_docs(client, index.name, packed(PAGES)).status == 200
        with Client(pair.replica.url) as client:
            for name in ("long.bin", "index.html"):
                answer = get(client, f"/{index.name}/pkg/1.0/+doc/{name}")
                assert (answer.status, answer.body) == (200, PAGES[name])
            pair.master.stop()
            assert get(client, f"/{index.name}/pkg/latest/+doc/sub/index.html").body == PAGES["sub/index.html"]
    finally:
        pair.stop()


def test_a_closed_index_shows_its_documentation_to_its_readers_only(documented):
    client, index = documented
    client.expect(200, "PATCH", f"/{index}", ["acl_pkg_read=" + index.split("/")[0]])
    answer = get(client, f"/{index}/pkg/1.0/+doc/index.html")
    assert (answer.status, answer.body) == (200, PAGES["index.html"])
    assert "private" in answer.headers["Cache-Control"]
    client.auth = None
    for kind in ("+doc", "+d"):
        assert get(client, f"/{index}/pkg/1.0/{kind}/index.html").status == 401
