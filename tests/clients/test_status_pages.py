"""Pages of what happened and of how nodes stand, and what programs ask of their health."""

from __future__ import annotations

import re
import threading
import time

import pytest

from conftest import PASSWORD, Index, make_index
from nodes import Client, wheel

pytestmark = pytest.mark.ours
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def page(client: Client, path: str, status: int = 200) -> str:
    answer = client.expect(status, "GET", path, headers=HTML)
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    return answer.body.decode()


def part(html: str, name: str) -> str:
    """The part of a page that is replaced by its newer self."""
    begin = html.index(f'id="{name}" data-live')
    return html[begin : html.index("</main>", begin)]


def mark(html: str) -> str:
    return re.search(r'data-live-mark="([^"]+)"', html)[1]


def serials(html: str) -> list[int]:
    return [int(key) for key in re.findall(r'data-key="(\d+)"', html)]


def put(index: Index, node, name: str, version: str = "1.0") -> int:
    filename, content = wheel(name, version)
    answer = index.upload(node, name, version, filename, content)
    assert answer.status == 200, answer.body
    return answer.serial


def eventually(look, seconds: float = 20):
    """What `look` gives once it gives anything but `None` or False."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
    return found


def test_changes_tell_who_did_what_when_and_where_it_is(pair, index):
    serial = put(index, pair.replica, "told")
    with Client(pair.master.url) as client:
        whole = lambda: ": all of it" in (row := of(page(client, f"/{index.name}/+changes"), serial)) and row  # noqa: E731
        row = eventually(whole)
    assert f"{index.user} uploaded told-1.0-py3-none-any.whl to {index.name}" in row
    assert f'href="/{index.user}"' in row
    assert re.search(r'<time datetime="20\d\d-\d\d-\d\dT[\d:]+Z">(just now|\d+ s ago)', row)
    assert "this master" in row
    with Client(pair.replica.url) as client:
        assert "this replica" in of(page(client, "/+changes"), serial)


def of(html: str, serial: int) -> str:
    """The row of a change."""
    begin = html.index(f'<tr data-key="{serial}">')
    return html[begin : html.index("</tr>", begin)]


def test_changes_are_paged_by_serial_both_ways(pair, index):
    wanted = [put(index, pair.master, "paged", f"{n}.0") for n in range(60)]
    with Client(pair.master.url) as client:
        first = page(client, f"/{index.name}/+changes")
        assert serials(first) == wanted[:9:-1] and mark(first)
        older = re.search(r'href="([^"]+before=\d+)"', first)[1]
        second = page(client, older)
        assert serials(second)[:10] == wanted[9::-1] and "data-live-mark" not in second
        newer = re.search(r'href="([^"]+since=\d+)"', second)[1]
        assert serials(page(client, newer)) == wanted[:9:-1]
        for bad in ("before=x", "since=99999999999"):
            assert client.ask("GET", f"/+changes?{bad}", headers=HTML).status == 400, bad
        told = client.expect(200, "GET", f"/{index.name}/+changes?limit=2").json()["result"]["changes"]
        assert {name for change in told for name in change["indexes"]} == {index.name}


def test_changes_of_a_closed_index_are_for_its_readers(pair, index):
    with index.client(pair.master) as owner, Client(pair.master.url) as stranger:
        owner.expect(200, "PATCH", f"/{index.name}", [f"acl_pkg_read={index.user}"])
        serial = put(index, pair.master, "concealed")
        assert serial in serials(page(owner, "/+changes"))
        assert serial in serials(page(owner, f"/{index.name}/+changes"))
        seen = page(stranger, "/+changes")
        assert serial not in serials(seen) and "concealed" not in seen
        for headers in (HTML, {}):
            refused = stranger.ask("GET", f"/{index.name}/+changes", headers=headers)
            assert refused.status == 401 and b"concealed" not in refused.body
        assert stranger.ask("GET", "/nobody/none/+changes", headers=HTML).status == 404


def test_a_page_hears_of_an_upload_through_the_replica_within_a_second(pair, index):
    with Client(pair.master.url) as client:
        heard = {"page": page(client, f"/{index.name}/+changes")}

        def wait():
            # As the script on the page does: what moves may be something else, such as word of earlier files.
            while "heard-1.0" not in part(heard["page"], "changes"):
                client.expect(200, "GET", f"/+live?mark={mark(heard['page'])}&timeout=30")
                heard["page"], heard["at"] = page(client, f"/{index.name}/+changes"), time.monotonic()

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        serial = put(index, pair.replica, "heard")
        done = time.monotonic()
        thread.join(10)
        assert heard["at"] - done < 1
        assert serial in serials(part(heard["page"], "changes"))
        # Then word comes that the replica has it, with its file.
        row = lambda: (html := page(client, f"/{index.name}/+changes")) and (of(html, serial), mark(html))  # noqa: E731
        said, at = row()
        while ": all of it" not in said:
            answer = client.expect(200, "GET", f"/+live?mark={at}&timeout=10").json()["result"]
            assert answer["mark"] != at
            said, at = row()


def test_a_mark_that_is_none_is_refused_and_a_wait_ends(pair):
    with Client(pair.master.url) as client:
        for bad in ("", "?mark=1", "?mark=x.y", "?mark=0.0&timeout=x"):
            assert client.ask("GET", f"/+live{bad}").status == 400, bad
        at = client.expect(200, "GET", "/+live?mark=-1.0").json()["result"]["mark"]
        began = time.monotonic()
        client.expect(200, "GET", f"/+live?mark={at}&timeout=1")
        assert time.monotonic() - began < 5


def ready(client: Client, query: str = "") -> tuple[int, dict]:
    answer = client.ask("GET", f"/+health/ready{query}")
    return answer.status, answer.json()["result"]


def badge(client: Client) -> str:
    answer = client.expect(200, "GET", "/+badge.svg")
    assert answer.headers["Content-Type"] == "image/svg+xml" and answer.headers["Cache-Control"] == "no-store"
    return re.search(r"<title>([^<]+)</title>", answer.body.decode())[1]


def test_the_status_page_tells_how_nodes_stand(pair, index):
    serial = put(index, pair.replica, "standing")
    with Client(pair.master.url) as master, Client(pair.replica.url) as replica:
        uuid = replica.expect(200, "GET", "/+status").json()["result"]["uuid"]

        def settled():
            html = page(master, "/+status")
            rows = part(html, "replicas")
            return f"</span>{serial}</td>" in rows and rows.count("nothing") == 2 and "waits for news" in rows and html

        html = eventually(settled)
        assert uuid[:8] in part(html, "replicas")
        assert "This master is well" in part(html, "verdict") and 'class="mark ok"' in html
        theirs = page(replica, "/+status")
        assert pair.master.url in part(theirs, "master") and "following" in part(theirs, "master")
        assert 'role="img" aria-label="How far this replica was behind' in part(theirs, "plot")
        assert badge(master) == "master: ok" and badge(replica) == "replica: ok"
        for client in (master, replica):
            assert client.expect(200, "GET", "/+health/live").json()["result"]["alive"] is True
            assert (told := ready(client, "?max-lag=30"))[0] == 200 and told[1]["state"] == "ok"
        # Programs get what they always got, and so do people who ask for it.
        plain = master.expect(200, "GET", "/+status?format=json", headers=HTML).json()["result"]
        assert plain["serial"] >= serial and plain["role"] == "MASTER"


def test_a_replica_says_that_its_master_is_away_and_serves_on(own_pair):
    index = make_index(own_pair)
    serial = put(index, own_pair.replica, "served")
    own_pair.master.stop()
    with Client(own_pair.replica.url) as client:
        words = lambda: (html := page(client, "/+status")) and "has not answered" in part(html, "verdict") and html  # noqa: E731
        html = eventually(words)
        assert "promote" in part(html, "verdict") and "unreachable" in part(html, "master")
        assert 'class="mark degraded"' in page(client, f"/{index.name}")
        assert badge(client) == "replica: degraded"
        assert serial in serials(page(client, "/+changes"))
        status, told = ready(client)
        assert status == 200 and told["state"] == "degraded" and "has not answered" in told["verdict"]
        time.sleep(1.1)
        status, told = ready(client, "?max-lag=1")
        assert status == 503 and told["ready"] is False and "behind the master" in told["reason"]
        own_pair.master.start()
        eventually(lambda: badge(client) == "replica: ok", 30)


def test_a_master_says_which_replica_is_away(own_pair):
    make_index(own_pair)
    with Client(own_pair.master.url) as client, Client(own_pair.replica.url) as replica:
        uuid = replica.expect(200, "GET", "/+status").json()["result"]["uuid"]
        own_pair.replica.stop()
        html = eventually(lambda: (html := page(client, "/+status")) and "away for" in part(html, "replicas") and html, 30)
        assert f"Replica {uuid[:8]} has asked for nothing for" in part(html, "verdict")
        assert eventually(lambda: badge(client) == "master: degraded", 3)
        assert ready(client)[0] == 200
        own_pair.replica.start()
        eventually(lambda: badge(client) == "master: ok")


def test_the_status_page_names_no_files_of_closed_indexes(own_pair):
    index = make_index(own_pair)
    with index.client(own_pair.master) as owner, Client(own_pair.replica.url) as stranger:
        owner.expect(200, "PATCH", f"/{index.name}", [f"acl_pkg_read={index.user}"])
        own_pair.replica.stop()
        filename, content = wheel("veiled", "1.0")
        assert index.upload(own_pair.master, "veiled", "1.0", filename, content).status == 200
        # The bytes go before anybody has fetched them.
        for path in own_pair.master.data.rglob("*"):
            if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
                path.unlink()
        own_pair.replica.start()
        with index.client(own_pair.replica) as reader:
            seen = eventually(lambda: "veiled" in (html := page(reader, "/+status")) and html)
        assert "could not be brought" in seen
        assert "veiled" not in page(stranger, "/+status")
