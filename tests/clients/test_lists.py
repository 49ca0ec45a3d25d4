"""Lists with as many projects as the largest indexes have: they take little memory, and outlive upstream and node."""

from __future__ import annotations

import json
import random

import pytest
from conftest import PASSWORD
from lying import JSON, Upstream, answer

from nodes import Client

pytestmark = pytest.mark.ours

PROJECTS = 750_000
RESIDENT_MIB_MAX = 150
SIMPLE = {"Accept": JSON}


@pytest.fixture(scope="module")
def names() -> list[str]:
    digits = random.Random(1)
    return sorted(f"{digits.getrandbits(44):x}-project".strip("-") for _ in range(PROJECTS))


@pytest.fixture
def upstream(names):
    upstream = Upstream()
    projects = [{"name": name.replace("-", "_").title(), "_last-serial": 12345678} for name in names]
    body = json.dumps({"meta": {"api-version": "1.4"}, "projects": projects}).encode()
    upstream.says["/simple/"] = answer(body, JSON)
    yield upstream
    upstream.stop()


def resident_mib(node) -> int:
    with open(f"/proc/{node.process.pid}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


def listed(node, index) -> tuple[list[str], bool]:
    """The names, and whether the answer is in doubt."""
    with Client(node.url) as client:
        said = client.expect(200, "GET", f"/{index}/+simple/", headers=SIMPLE)
    return [project["name"] for project in said.json()["projects"]], "no-store" in said.headers["Cache-Control"]


def test_the_longest_list_is_small_and_lasts(own_pair, upstream, names):
    wanted = sorted(set(names))
    master, replica = own_pair.master, own_pair.replica
    with Client(master.url) as client:
        client.expect(201, "PUT", "/lister", {"password": PASSWORD})
        client.login("lister", PASSWORD)
        client.expect(200, "PUT", "/lister/all", {"type": "mirror", "mirror_url": f"{upstream.root}/simple/"})
        client.expect(200, "PUT", "/lister/top", {"type": "stage", "bases": "lister/all"})
        filename = "zz_own-1.0.zip"
        assert client.upload("lister/top", "zz-own", "1.0", filename, b"x").status == 200
    replica.wait_serial(master.serial())
    assert listed(replica, "lister/top") == ([*wanted, "zz-own"], False)
    assert listed(replica, "lister/all") == (wanted, False)
    with Client(replica.url) as client:
        config = client.expect(200, "GET", "/lister/all").json()["result"]
        assert config["type"] == "mirror" and config["projects"] == wanted
        tag = client.expect(200, "GET", "/lister/all/+simple/", headers=SIMPLE).headers["ETag"]
        client.expect(304, "GET", "/lister/all/+simple/", headers={**SIMPLE, "If-None-Match": tag})
    assert upstream.asked["/simple/"] == 1
    for node in own_pair.master, own_pair.replica:
        assert resident_mib(node) < RESIDENT_MIB_MAX
    # Neither needs the other, nor the upstream, for what it has seen.
    upstream.stop()
    master.stop()
    replica.stop()
    replica.start()
    assert listed(replica, "lister/top")[0] == [*wanted, "zz-own"]
    master.start()
    assert listed(master, "lister/all")[0] == wanted
    # A list is that of one upstream.
    with Client(master.url) as client:
        client.login("lister", PASSWORD)
        client.expect(200, "PATCH", "/lister/all", {"mirror_url": "http://127.0.0.1:9/simple/"})
    assert listed(master, "lister/all") == ([], True)
