"""Who may push what to where, and what a push shares on disk."""

from __future__ import annotations

import pytest
from conftest import make_index

from nodes import Client, wheel

pytestmark = pytest.mark.ours


@pytest.fixture
def released(index):
    """An index with two projects; they are also on the replica."""
    for name in ("pkg", "other"):
        assert index.upload(index.pair.replica, name, "1.0", *wheel(name, "1.0")).status == 200
    return index


def target_of(index, name="prod", **config) -> str:
    with index.client(index.pair.replica) as client:
        client.expect(200, "PUT", f"/{index.user}/{name}", {"bases": "", **config})
    return f"{index.user}/{name}"


def push(client, index, target, name="pkg"):
    order = {"name": name, "version": "1.0", "targetindex": target}
    return client.ask("PUSH", f"/{index.name}", order)


def test_a_pushed_file_shares_its_bytes_until_one_is_deleted(released):
    pair, target = released.pair, target_of(released)
    with released.client(pair.replica) as client:
        assert push(client, released, target).status == 200
        (place,) = (pair.master.data / "+files" / target).glob("+f/*/*/pkg-1.0*.whl")
        assert place.stat().st_nlink == 2
        client.expect(200, "DELETE", f"/{released.name}/pkg")
        assert place.stat().st_nlink == 1
        assert not list((pair.master.data / ".staging").iterdir())
        link = client.links(target, "pkg")["pkg-1.0-py3-none-any.whl"]
        assert client.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body == wheel("pkg", "1.0")[1]
        assert link["size"] == place.stat().st_size and place.with_name(f"{place.name}.metadata").is_file()


def test_a_closed_index_is_pushed_from_by_its_readers_only(released):
    stranger = make_index(released.pair)
    with released.client(released.pair.replica) as client:
        client.expect(200, "PATCH", f"/{released.name}", [f"acl_pkg_read={released.user}"])
    with stranger.client(released.pair.replica) as client:
        assert push(client, released, stranger.name).status == 403
        client.auth = None
        assert push(client, released, stranger.name).status == 401
        # Not even whether there is such a release.
        assert push(client, released, stranger.name, "nothing").status == 401


def test_a_token_pushes_what_it_is_for_and_to_where_it_may_upload(released):
    target, closed = target_of(released), target_of(released, "closed")
    wish = {"permissions": ["read", "upload"], "indexes": [released.name, target], "projects": ["pkg"]}
    with released.client(released.pair.replica) as client:
        made = client.expect(201, "POST", f"/{released.user}/+tokens", wish).json()["result"]
    with Client(released.pair.replica.url) as client:
        client.basic("__token__", made["token"])
        assert push(client, released, target, "other").status == 403
        assert push(client, released, closed).status == 401
        assert push(client, released, target).status == 200


def test_json_is_taken_for_a_push_whatever_it_is_called(released):
    target = target_of(released)
    order = f'{{"name": "pkg", "version": "1.0", "targetindex": "{target}"}}'.encode()
    kinds = ("application/x-www-form-urlencoded", "application/json", "text/plain")
    with released.client(released.pair.replica) as client:
        for kind in kinds:
            answer = client.ask("POST", f"/{released.name}", order, {"Content-Type": kind})
            assert answer.status == 200 and answer.json()["type"] == "actionlog", kind
        answer = client.ask("POST", f"/{released.name}", b"x=1", {"Content-Type": kinds[0]})
        assert answer.status == 400
