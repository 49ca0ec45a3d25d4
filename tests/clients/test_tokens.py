"""Access tokens for programs: what they let real clients do on both nodes, and what they never do."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from conftest import PASSWORD, make_index

from nodes import Client, clean_env, wheel

ANY_USER = "__token__"


@pytest.fixture(params=["master", "replica"])
def node(pair, request):
    return getattr(pair, request.param)


def settle(pair):
    pair.replica.wait_serial(pair.master.serial())


@pytest.fixture
def index(pair):
    """An index that only its owner may read."""
    index = make_index(pair)
    with index.client(pair.master) as client:
        client.expect(200, "PATCH", f"/{index.name}", {"acl_pkg_read": []})
    settle(pair)
    return index


def make(index, node, *permissions, **more):
    with index.client(node) as client:
        wish = {"permissions": list(permissions), "indexes": [index.name], **more}
        answer = client.expect(201, "POST", f"/{index.user}/+tokens", wish)
        settle(index.pair)
        made = answer.json()
        assert made["type"] == "token" and made["result"]["token"].startswith("twp_")
        return made["result"]


def holder(node, token, user=ANY_USER):
    client = Client(node.url)
    client.basic(user, token["token"])
    return client


def put(client, index, name="hidden", version="1.0"):
    filename, content = wheel(name, version)
    return client.upload(index.name, name, version, filename, content)


def fill(index):
    with index.client(index.pair.master) as client:
        for name in ("hidden", "other"):
            assert put(client, index, name).status == 200
        settle(index.pair)
        return client.links(index.name, "hidden")["hidden-1.0-py3-none-any.whl"]["url"]


def with_token(index, node, token, user=ANY_USER):
    return f"{node.url}/{index.name}/+simple/".replace("://", f"://{user}:{token['token']}@")


def test_twine_publishes_and_pip_installs_by_token(index, node, project, twine, pip_install):
    token = make(index, node, "upload", "read")
    twine(index, node, *project("twin-hello", "1.0"), user=ANY_USER, password=token["token"])
    settle(index.pair)
    for user in (ANY_USER, index.user):
        done = pip_install(with_token(index, node, token, user), "twin-hello")[1]
        assert "Successfully installed twin-hello-1.0" in done.stdout


def test_uv_publishes_and_installs_by_token(index, node, project, tool, tmp_path):
    token = make(index, node, "upload", "read")
    line = ["uv", "publish", "--publish-url", index.upload_url(node), "--token", token["token"]]
    tool(*line, *project("twin-hello", "1.0"))
    settle(index.pair)
    line = ["uv", "pip", "install", "--python", sys.executable, "--target", tmp_path / "site", "--default-index"]
    tool(*line, with_token(index, node, token), "twin-hello==1.0")
    assert (tmp_path / "site/twin_hello.py").exists()


def test_a_token_does_what_it_is_for_and_no_more(index, node):
    file = fill(index)
    page = f"/{index.name}/+simple/hidden/"
    with holder(node, make(index, node, "read")) as client:
        for path in (page, f"/{index.name}", f"/{index.name}/+simple/", file):
            client.expect(200, "GET", path)
        assert put(client, index, "third").status == 403
        assert "dev" in client.expect(200, "GET", f"/{index.user}").json()["result"]["indexes"]
    with holder(node, make(index, node, "upload")) as client:
        assert put(client, index, "third").status == 200
        assert client.ask("GET", page).status == 403
        assert client.ask("GET", file).status == 403
        client.expect(200, "GET", f"/{index.name}/+api")


def test_a_token_never_manages_anything(index, node):
    fill(index)
    token = make(index, node, "read", "upload", indexes=["*"])
    user, name = index.user, index.name
    with holder(node, token, user) as client:
        assert client.expect(200, "GET", "/+api").json()["result"]["authstatus"] == ["ok", user, []]
        for method, path, body in [
            ("POST", f"/{user}/+tokens", {"permissions": ["read"], "indexes": ["*"]}),
            ("GET", f"/{user}/+tokens", None),
            ("DELETE", f"/{user}/+tokens/{token['id']}", None),
            ("PATCH", f"/{user}", {"password": "mine"}),
            ("PATCH", f"/{user}", {"email": "mine"}),
            ("DELETE", f"/{user}", None),
            ("PUT", f"/{user}/new", {}),
            ("PUT", f"/{user}more", {"password": "x"}),
            ("PATCH", f"/{name}", {"title": "mine"}),
            ("DELETE", f"/{name}", None),
            ("DELETE", f"/{name}/hidden", None),
            ("DELETE", f"/{name}/hidden/1.0", None),
        ]:
            assert client.ask(method, path, body).status == 403, (method, path)
        login = {"user": user, "password": token["token"]}
        assert client.ask("POST", "/+login", login).status == 401


def test_a_token_is_for_its_indexes_and_projects(index, node, twine, tmp_path):
    file = fill(index)
    other = make_index(index.pair)
    token = make(index, node, "read", "upload", projects=["Hidden"])
    with holder(node, token) as client:
        client.expect(200, "GET", f"/{index.name}/+simple/hidden/")
        client.expect(200, "GET", file)
        for path in ("/+simple/other/", "/+simple/", "", "/other", "/other/1.0"):
            assert client.ask("GET", f"/{index.name}{path}").status == 403, path
        assert put(client, index, "hidden", "2.0").status == 200
        answer = put(client, index, "other", "2.0")
        assert answer.status == 403 and "not for the project other" in answer.reason
        assert put(client, other).status == 403
    filename, content = wheel("other", "3.0")
    (tmp_path / filename).write_bytes(content)
    done = twine(index, node, tmp_path / filename, user=ANY_USER, password=token["token"], check=False)
    assert done.returncode != 0 and "not for the project other" in done.stdout


def test_a_token_grants_no_more_than_its_owner_has(index, node):
    other = make_index(index.pair)
    token = make(index, node, "read", "upload", indexes=["*"])
    with holder(node, token) as client, other.client(node) as owner:
        assert put(client, other).status == 403
        owner.expect(200, "PATCH", f"/{other.name}", {"acl_upload": [index.user], "acl_pkg_read": []})
        settle(index.pair)
        assert put(client, other).status == 200
        client.expect(200, "GET", f"/{other.name}/+simple/hidden/")
        owner.expect(200, "PATCH", f"/{other.name}", {"acl_upload": []})
        settle(index.pair)
        assert put(client, other, version="2.0").status == 403
        assert client.ask("GET", f"/{other.name}/+simple/hidden/").status == 403


def test_revoked_expired_and_orphaned_tokens_end_at_once(index, node):
    fill(index)
    page = f"/{index.name}/+simple/hidden/"
    token, brief, orphan = (make(index, node, "read", "upload", **more) for more in ({}, {"expires_in": 2}, {}))
    with index.client(node) as owner, holder(node, token) as client:
        client.expect(200, "GET", page)
        owner.expect(200, "DELETE", f"/{index.user}/+tokens/{token['id']}")
        answer = client.expect(401, "GET", page)
        assert "unknown here" in answer.json()["message"] and answer.headers["WWW-Authenticate"]
        answer = put(client, index)
        assert answer.status == 401 and token["id"] in answer.reason
        assert owner.ask("DELETE", f"/{index.user}/+tokens/{token['id']}").status == 404
        settle(index.pair)
        for other in (index.pair.master, index.pair.replica):
            with holder(other, token) as elsewhere:
                elsewhere.expect(401, "GET", page)
    time.sleep(2)
    with holder(node, brief) as client:
        assert "ended at" in client.expect(401, "GET", page).json()["message"]
        assert "ended at" in put(client, index).reason
    with index.client(node) as owner, holder(node, orphan) as client:
        client.expect(200, "GET", page)
        owner.expect(200, "DELETE", f"/{index.user}")
        settle(index.pair)
        owner.basic("root", "")
        owner.expect(201, "PUT", f"/{index.user}", {"password": PASSWORD})
        owner.expect(200, "PUT", f"/{index.name}", {"acl_pkg_read": []})
        settle(index.pair)
        client.expect(401, "GET", f"/{index.name}/+simple/")


def test_a_mistyped_token_is_told_so(index, node):
    token = make(index, node, "read")
    token["token"] = token["token"][:-1] + ("A" if token["token"][-1] != "A" else "E")
    with holder(node, token) as client:
        answer = client.expect(401, "GET", f"/{index.name}")
        assert "mistyped" in answer.json()["message"]
    with holder(node, make(index, node, "read"), "somebody") as client:
        assert ANY_USER in client.expect(401, "GET", f"/{index.name}").json()["message"]


def test_tokens_are_listed_without_secrets_and_to_nobody_else(index, node):
    token = make(index, node, "read", note="CI of hidden", expires="never")
    make(index, node, "upload", projects=["a"])
    with index.client(node) as owner:
        listed = owner.expect(200, "GET", f"/{index.user}/+tokens")
        assert listed.json()["type"] == "tokens"
        first, second = listed.json()["result"]
        assert first == {key: value for key, value in token.items() if key != "token"}
        assert (first["note"], first["expires"], second["projects"]) == ("CI of hidden", None, ["a"])
        assert token["token"].encode() not in listed.body and b"hash" not in listed.body
        for path in ("/", f"/{index.user}"):
            assert b"twinpi_tokens" not in owner.expect(200, "GET", path).body
    with Client(node.url) as client:
        path = f"/{index.user}/+tokens"
        assert client.ask("GET", path).status == 401
        assert client.ask("POST", path, {}).status == 401
        other = make_index(index.pair)
        client.login(other.user, PASSWORD)
        assert [client.ask(method, path, body).status for method, body in (("GET", None), ("POST", {}))] == [403, 403]
        assert client.ask("DELETE", f"{path}/{token['id']}").status == 403
        client.login("root", "")
        client.expect(200, "DELETE", f"{path}/{token['id']}")


def test_the_command_makes_lists_and_revokes(index, node, binary):
    fill(index)
    env = clean_env(TWINPI_URL=node.url, TWINPI_USER=index.user, TWINPI_PASSWORD=PASSWORD)

    def token(*line, check=True, **more):
        return subprocess.run(
            [binary, "token", *line], env={**env, **more}, check=check, capture_output=True, text=True, input=f"{PASSWORD}\n"
        )

    made = token("create", "--permission=read", "--index", index.name, "--expires", "1h", "--note", "of a test")
    text = made.stdout.strip()
    assert text.startswith("twp_") and "\n" not in text and text not in made.stderr
    settle(index.pair)
    page = f"/{index.name}/+simple/hidden/"
    with holder(node, {"token": text}) as client:
        client.expect(200, "GET", page)
        listed = token("list").stdout
        assert "read on" in listed and "of a test" in listed and text not in listed
        token("revoke", listed.split()[0])
        client.expect(401, "GET", page)
    assert token("list").stdout == ""
    made = json.loads(token("create", "--permission=upload", "--index=*", "--json", TWINPI_USER="root", TWINPI_PASSWORD="").stdout)
    assert (made["user"], made["permissions"], made["projects"]) == ("root", ["upload"], ["*"])
    line = ["create", "--owner", index.user, "--permission=upload", "--index=*", "--project=a", "--project=b,C", "--json"]
    made = json.loads(token(*line, TWINPI_USER="root", TWINPI_PASSWORD="").stdout)
    assert (made["user"], made["projects"]) == (index.user, ["a", "b", "c"])
    wrong = token("create", "--permission=upload", "--index=nobody/nothing", check=False)
    assert wrong.returncode == 1 and "there is no index" in wrong.stderr and not wrong.stdout
    assert "401" in token("list", check=False, TWINPI_PASSWORD="wrong").stderr
    assert token("--help").returncode == 0 and "__token__" in token("--help").stdout
    del env["TWINPI_PASSWORD"]
    assert made["id"] in token("list").stdout


def test_wishes_that_make_no_sense_are_refused(index, node):
    hidden = make_index(index.pair)
    with hidden.client(node) as client:
        client.expect(200, "PATCH", f"/{hidden.name}", {"acl_pkg_read": []})
    with index.client(node) as client:
        for wish in [
            {},
            {"permissions": ["read"]},
            {"permissions": ["all"], "indexes": ["*"]},
            {"permissions": ["read"], "indexes": [f"{index.user}/nothing"]},
            {"permissions": ["read"], "indexes": [hidden.name]},
            {"permissions": ["read"], "indexes": ["*"], "expires_in": 10**9},
        ]:
            assert client.ask("POST", f"/{index.user}/+tokens", wish).status == 400, wish
        assert client.expect(200, "GET", f"/{index.user}/+tokens").json()["result"] == []


def test_a_push_needs_both_rights_and_the_project(index, node):
    fill(index)
    with index.client(node) as owner:
        owner.expect(200, "PUT", f"/{index.user}/prod", {"acl_pkg_read": []})
        settle(index.pair)
    prod = f"{index.user}/prod"

    def push(token, name="hidden"):
        with holder(node, token) as client:
            body = {"name": name, "version": "1.0", "targetindex": prod}
            return client.ask("POST", f"/{index.name}", body).status

    both = [index.name, prod]
    assert push(make(index, node, "read", indexes=both)) == 401
    assert push(make(index, node, "upload", indexes=both)) == 403
    assert push(make(index, node, "read", "upload")) == 401
    assert push(make(index, node, "read", "upload", indexes=both, projects=["other"])) == 403
    token = make(index, node, "read", "upload", indexes=both, projects=["hidden"])
    assert push(token, "other") == 403
    assert push(token) == 200
    settle(index.pair)
    with holder(node, token) as client:
        client.expect(200, "GET", f"/{prod}/+simple/hidden/")
