"""Search by what people and programs send, on either node."""

from __future__ import annotations

import time
import urllib.parse
import xmlrpc.client

import pytest

from conftest import make_index
from nodes import Client, wheel

pytestmark = pytest.mark.ours


def ask(node, query, auth="", path="/+search", page=None):
    target = f"{path}?" + urllib.parse.urlencode({"query": query} | ({"page": page} if page else {}))
    with Client(node.url) as client:
        client.auth = auth
        return client.expect(200, "GET", target, headers={"Accept": "application/json"}).json()["result"]


def found(node, query, auth=""):
    return [f"{item['index']}/{item['name']}" for item in ask(node, query, auth)["items"]]


def eventually(ask, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if got := ask():
            return got
        time.sleep(0.05)
    raise AssertionError("it did not come")


@pytest.fixture
def index(pair):
    return make_index(pair)


def put(index, node, name, summary, version="1.0"):
    filename, content = wheel(name, version)
    with index.client(node) as client:
        assert client.upload(index.name, name, version, filename, content, {"summary": summary}).status == 200


def test_what_one_node_takes_is_found_on_both_and_gone_with_the_project(pair, index):
    put(index, pair.replica, "quollfinder", "finds rare numbats")
    for node in (pair.master, pair.replica):
        for query in ("quollfinder", "quoll", "finder", "numbat", f"numbats path:/{index.name}/*"):
            eventually(lambda: f"{index.name}/quollfinder" in found(node, query))
    with index.client(pair.replica) as client:
        client.expect(200, "DELETE", f"/{index.name}/quollfinder")
    for node in (pair.master, pair.replica):
        eventually(lambda: found(node, "numbats") == [])


def test_a_closed_index_is_neither_shown_nor_counted_nor_suggested(pair, index):
    put(index, pair.master, "bandicootery", "keeps bandicoots")
    for node in (pair.master, pair.replica):
        eventually(lambda: found(node, "bandicoots"))
    with index.client(pair.master) as client:
        client.expect(200, "PATCH", f"/{index.name}", [f"acl_pkg_read={index.user}"])
        auth = client.auth
    for node in (pair.master, pair.replica):
        eventually(lambda: found(node, "bandicoots") == [])
        assert ask(node, "bandicootery")["total"] == 0
        assert ask(node, "band", path="/+search/suggest") == []
        assert found(node, "bandicoots", auth) == [f"{index.name}/bandicootery"]
        assert [hit["name"] for hit in ask(node, "band", auth, "/+search/suggest")] == ["bandicootery"]


def test_pip_search_is_answered_by_a_replica_alone(own_pair):
    index = make_index(own_pair)
    put(index, own_pair.master, "wombatry", "of wombats & others <all>")
    replica = own_pair.replica
    eventually(lambda: found(replica, "wombatry"))
    own_pair.master.stop()
    body = xmlrpc.client.dumps(({"name": ["wombatry"], "summary": ["wombatry"]}, "or"), "search")
    with Client(replica.url) as client:
        answer = client.expect(200, "POST", f"/{index.name}/", body.encode(), {"Content-Type": "text/xml"})
        (hits,), _ = xmlrpc.client.loads(answer.body)
        assert [(hit["name"], hit["version"]) for hit in hits] == [("wombatry", "1.0")]
        assert hits[0]["summary"] == f"[{index.name}] of wombats & others <all>"
        answer = client.expect(200, "POST", "/no/such/", body.encode(), {"Content-Type": "text/xml"})
        with pytest.raises(xmlrpc.client.Fault):
            xmlrpc.client.loads(answer.body)
    assert found(replica, "wombats") == [f"{index.name}/wombatry"]
    own_pair.master.start()


def test_more_than_a_page_is_paged(pair, index):
    for number in range(12):
        put(index, pair.master, f"pagedthing{number}", "one of many")
    eventually(lambda: ask(pair.replica, "pagedthing")["total"] == 12)
    first, second = ask(pair.replica, "pagedthing"), ask(pair.replica, "pagedthing", page=2)
    assert (len(first["items"]), len(second["items"])) == (10, 2)
    names = {item["name"] for item in first["items"] + second["items"]}
    assert names == {f"pagedthing{number}" for number in range(12)}


def test_a_page_of_another_site_changes_nothing(pair, index):
    with index.client(pair.master) as client:
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            client.expect(status, "PATCH", f"/{index.name}", {"title": site}, {"Sec-Fetch-Site": site})
