"""Pages of what somebody uploaded to harm those who look at it: nothing runs, nothing loads, nothing leaves its place."""

from __future__ import annotations

import re
import time
import urllib.parse
from pathlib import Path

import hostile
import pytest
from conftest import PASSWORD, make_index, start_pair

from nodes import Client

pytestmark = pytest.mark.ours

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "User-Agent": "Mozilla/5.0"}
# A page of ours answers within this, also on a machine with other work; a slow one takes minutes.
SECONDS_MAX = 20


@pytest.fixture(scope="module")
def scene(tmp_path_factory, binary):
    """A pair whose index holds everything hostile, and the folder that both nodes live in."""
    folder = tmp_path_factory.mktemp("hostile")
    pair = start_pair(folder, binary)
    index = make_index(pair)
    with Client(pair.master.url, timeout=120) as client:
        client.login(index.user, PASSWORD)
        filled = hostile.fill(client, index.user, index.name)
    pair.replica.wait_serial(pair.master.serial())
    yield pair, filled, folder
    assert (pair.replica.stop(), pair.master.stop()) == (0, 0), pair.master.tail() + pair.replica.tail()


@pytest.mark.parametrize("role", ["master", "replica"])
def test_nothing_in_pages_runs_or_loads(scene, role):
    pair, filled, _ = scene
    node = getattr(pair, role)
    wrong, shown = [], 0
    with Client(node.url, timeout=120) as client:
        for page in filled.pages:
            start = time.monotonic()
            answer = client.ask("GET", page, headers=BROWSER)
            took = time.monotonic() - start
            kind = answer.headers.get("Content-Type", "")
            if answer.status >= 500 or took > SECONDS_MAX or "x-evil" in {name.lower() for name in answer.headers}:
                wrong.append((page, answer.status, f"{took:.1f} s"))
            if not kind.startswith("text/html"):
                if answer.status < 300 and kind != "application/json":
                    wrong.append((page, answer.status, kind))
                continue
            shown += answer.status == 200
            policy = answer.headers.get("Content-Security-Policy", "")
            if "default-src 'none'" not in policy or "unsafe" in policy or answer.headers.get("X-Content-Type-Options") != "nosniff":
                wrong.append((page, policy))
            said = hostile.complaints(answer.body.decode(), urllib.parse.urlsplit(node.url).netloc)
            wrong += [(page, text[:300]) for text in said]
    assert not wrong, "\n".join(map(str, wrong[:20]))
    # At least the pages of all that was accepted are there.
    assert shown > 2 * len(hostile.DESCRIPTIONS), shown


@pytest.mark.parametrize("role", ["master", "replica"])
def test_documentation_is_confined_and_stays_in_its_zip(scene, role):
    pair, filled, _ = scene
    served = 0
    with Client(getattr(pair, role).url, timeout=120) as client:
        for page in filled.documents:
            answer = client.ask("GET", page, headers=BROWSER)
            assert answer.status in (200, 302, 400, 404), (page, answer.status)
            assert b"root:" not in answer.body and answer.body != b"escaped", page
            if answer.status == 200 and "/+doc/" in page:
                served += 1
                policy = answer.headers.get("Content-Security-Policy", "")
                assert policy.startswith("sandbox") and "allow-same-origin" not in policy, (page, policy)
                assert answer.headers["X-Content-Type-Options"] == "nosniff", page
                assert len(answer.body) < 1 << 20, page
    # All pages of the zip whose only fault is what its pages say, and the first pages of others.
    assert served >= 6, served


def test_nothing_lies_where_it_does_not_belong(scene):
    pair, _, folder = scene
    outside = [path for path in folder.rglob("*") if re.search("escaped", path.name)]
    assert not outside and not list(Path("/tmp").glob("escaped*")), outside
    for node in (pair.master, pair.replica):
        links = [path for path in node.data.rglob("*") if path.is_symlink()]
        assert not links, links


def test_the_check_finds_what_it_looks_for():
    for text in (
        "<script>x</script>",
        "<script src='//evil/x.js'></script>",
        "<p onclick=x>",
        "<p style='color:red'>",
        "<a href='java\tscript:x'>",
        "<a href='data:text/html,x'>",
        "<img src='http://evil/x'>",
        "<svg><a xlink:href='javascript:x'>",
        "<iframe src='x'></iframe>",
        "<form action='http://evil/'>",
        "<base href=x>",
        "<style>x</style>",
        "<svg onload=x>",
    ):
        assert hostile.complaints(f"<!DOCTYPE html><body>{text}", "h"), text
    fine = "<link rel=stylesheet href=/+static/a.css><script type=module src=/+static/a.js></script><a href='http://evil/'>x</a>"
    fine += "<iframe sandbox='allow-scripts' src='../+doc/x'></iframe>&lt;script&gt;"
    assert hostile.complaints(f"<!DOCTYPE html><body>{fine}", "h") == []
