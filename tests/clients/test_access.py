"""Indexes that not everybody may read: pip and uv with credentials, and every way in for those without."""

from __future__ import annotations

import base64
import io
import sys
import zipfile

import pytest
from conftest import PASSWORD, _numbers, make_index

from nodes import Client, wheel

GUEST = "guest"


@pytest.fixture(params=["master", "replica"])
def node(pair, request):
    return getattr(pair, request.param)


def settle(pair):
    pair.replica.wait_serial(pair.master.serial())


def basic(user, password=PASSWORD):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def restrict(index, *readers):
    with index.client(index.pair.master) as client:
        client.expect(200, "PATCH", f"/{index.name}", {"acl_pkg_read": list(readers)})
    settle(index.pair)


@pytest.fixture(scope="module")
def guest(pair):
    """A user who owns nothing."""
    with Client(pair.master.url) as client:
        client.ask("PUT", f"/{GUEST}", {"password": PASSWORD})
    settle(pair)
    return GUEST


@pytest.fixture
def closed(pair, guest):
    """An index with one wheel that only its owner may read."""
    index = make_index(pair)
    filename, content = wheel("hidden", "1.0")
    assert index.upload(pair.replica, "hidden", "1.0", filename, content).status == 200
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.html", "<html>of hidden-1.0</html>")
    doc = {":action": "doc_upload"}
    assert index.upload(pair.replica, "hidden", "1.0", "hidden.zip", packed.getvalue(), doc).status == 200
    restrict(index)
    return index


def addresses(index):
    with index.client(index.pair.master) as client:
        link = client.links(index.name, "hidden")["hidden-1.0-py3-none-any.whl"]["url"]
    pages = ["", "/", "?no_projects=", "/+simple/", "/+simple/hidden/", "/hidden", "/hidden/1.0"]
    pages += ["/+simple/nothing/", "/nothing", "/+simple/hidden/?explain"]
    pages += ["/pypi/hidden/json", "/pypi/hidden/1.0/json", "/hidden/json"]
    pages += ["/hidden/1.0/+d/index.html", "/hidden/latest/+doc/index.html", "/hidden/1.0/+d/nothing.html"]
    return [f"/{index.name}{page}" for page in pages], [link, f"{link}.metadata"]


ACCEPTED = ["application/json", "text/html", "application/vnd.pypi.simple.v1+json", "*/*"]
FORMS = [{"Accept": accept, "User-Agent": agent} for accept in ACCEPTED for agent in ("pip/25.0", "uv/0.9", "curl/8")]


def test_nobody_else_sees_any_of_it(closed, node, guest):
    pages, files = addresses(closed)
    with Client(node.url) as client:
        for headers in FORMS:
            # What the owner gets fills the caches; nobody else may find it there.
            for page in pages + files:
                for _ in range(2):
                    seen = client.ask("GET", page, headers={**headers, **basic(closed.user)})
                    assert seen.status in (200, 302, 404), (page, seen)
                    if seen.status == 200:
                        assert seen.headers["Cache-Control"].startswith("private")
            for page in pages + files:
                for method in ("GET", "HEAD"):
                    answer = client.ask(method, page, headers=headers)
                    assert answer.status == 401, (page, answer)
                    assert answer.headers["WWW-Authenticate"] == 'Basic realm="pypi"'
                    answer = client.ask(method, page, headers={**headers, **basic(guest)})
                    assert answer.status == 403, (page, answer)
                    assert b"hidden-1.0" not in answer.body
        assert client.ask("GET", pages[0], headers=basic(closed.user, "wrong")).status == 401


def test_an_open_index_shows_of_a_closed_base_what_the_asker_may_read(closed, node, guest):
    index = make_index(closed.pair)
    name, content = wheel("plain", "1.0")
    assert index.upload(node, "plain", "1.0", name, content).status == 200
    with index.client(closed.pair.master) as client:
        client.expect(200, "PATCH", f"/{index.name}", {"bases": closed.name})
    settle(closed.pair)
    with Client(node.url) as client:
        for headers in FORMS:
            simple = f"/{index.name}/+simple/"
            for who, is_shown in [({}, False), (basic(closed.user), True), (basic(guest), False), ({}, False)]:
                answer = client.expect(200, "GET", simple, headers={**headers, **who})
                assert (b"hidden" in answer.body, b"plain" in answer.body) == (is_shown, True)
                for page in (f"{simple}hidden/", f"/{index.name}/hidden", f"/{index.name}/hidden/1.0"):
                    answer = client.ask("GET", page, headers={**headers, **who})
                    # People are shown a version by the index that holds it.
                    is_elsewhere = page.endswith("/1.0") and answer.headers["Content-Type"].startswith("text/html")
                    if answer.status != 302:
                        wanted = 200 if is_shown and not is_elsewhere else 404
                        assert answer.status == wanted, (page, headers, answer)


def test_nobody_else_changes_or_asks_about_it(closed, node, guest):
    _, (file, _) = addresses(closed)
    index = closed.name
    with Client(node.url) as client:
        for method, path in [
            ("DELETE", f"/{index}/hidden"),
            ("DELETE", f"/{index}/hidden/1.0"),
            ("DELETE", file),
            ("POST", file),
            ("POST", f"/{index}/+simple/hidden/refresh"),
            ("POST", f"/{index}/"),
        ]:
            assert client.ask(method, path, {}).status == 401, path
            assert client.ask(method, path, {}, basic(guest)).status == 403, path
        assert client.ask("GET", f"/{index}/+api").status == 200
        assert client.ask("GET", f"/{index}/+api", headers=basic(guest)).status == 200
        for path, status in [(f"/{index}/+simple/hidden/", 401), (file, 401), (f"/{guest}", 200)]:
            headers = {"X-Original-URI": f"{node.url}{path}"}
            assert client.ask("GET", "/+authcheck", headers=headers).status == status
            told = 200 if status == 200 else 403
            assert client.ask("GET", "/+authcheck", headers={**headers, **basic(guest)}).status == told
            assert client.ask("GET", "/+authcheck", headers={**headers, **basic(closed.user)}).status == 200


def test_lists_of_users_leave_it_out(closed, node, guest):
    with Client(node.url) as client:
        for who, is_shown in [({}, False), (basic(guest), False), (basic(closed.user), True), (basic("root", ""), True)]:
            users = client.expect(200, "GET", "/", headers=who).json()["result"]
            one = client.expect(200, "GET", f"/{closed.user}", headers=who).json()["result"]
            assert ("dev" in users[closed.user]["indexes"]) is is_shown
            assert ("dev" in one["indexes"]) is is_shown


def test_who_is_named_may_read_and_a_change_counts_at_once(closed, node, guest):
    with Client(node.url) as client:
        page = f"/{closed.name}/+simple/hidden/"
        for readers, statuses in [
            ([guest], (401, 200)),
            ([":AUTHENTICATED:"], (401, 200)),
            ([":ANONYMOUS:"], (200, 200)),
            ([], (401, 403)),
        ]:
            restrict(closed, *readers)
            assert (client.ask("GET", page).status, client.ask("GET", page, headers=basic(guest)).status) == statuses


def test_credentials_for_an_upstream_are_for_those_who_may_change_the_index(pair, node, guest):
    index = make_index(pair)
    secret = "http://me:hush@127.0.0.1:9/simple/"
    mirror = f"{index.user}/mirror"
    with index.client(pair.master) as owner:
        made = owner.expect(200, "PUT", f"/{mirror}", {"type": "mirror", "mirror_url": secret})
        assert made.json()["result"]["mirror_url"] == secret
    settle(pair)
    with Client(node.url) as client:
        for who, is_shown in [({}, False), (basic(guest), False), (basic(index.user), True), (basic("root", ""), True)]:
            for path in ("/", f"/{index.user}", f"/{mirror}?no_projects=", f"/{mirror}", f"/{mirror}/+simple/"):
                for accept in ACCEPTED:
                    answer = client.ask("GET", path, headers={**who, "Accept": accept})
                    assert is_shown or b"hush" not in answer.body, (path, who)
            config = client.expect(200, "GET", f"/{mirror}?no_projects=", headers=who).json()["result"]
            assert config["mirror_url"] == (secret if is_shown else secret.replace("me:hush@", ""))


def test_pip_and_uv_read_it_with_credentials(closed, node, pip_install, tool, tmp_path):
    url = closed.simple(node, with_password=True)
    assert "Successfully installed hidden-1.0" in pip_install(url, "hidden")[1].stdout
    place = tmp_path / "uv-site"
    line = ["uv", "pip", "install", "--python", sys.executable, "--target", place, "--default-index"]
    tool(*line, url, "hidden==1.0")
    assert (place / "hidden.py").exists()
    _, done = pip_install(closed.simple(node), "hidden", check=False)
    assert done.returncode != 0
    assert tool(*line, closed.simple(node), "--reinstall", "--refresh", "hidden==1.0", check=False).returncode != 0


def test_pip_finds_credentials_in_netrc(closed, node, pip_install, tmp_path):
    netrc = tmp_path / "home/.netrc"
    netrc.write_text(f"machine 127.0.0.1\nlogin {closed.user}\npassword {PASSWORD}\n")
    netrc.chmod(0o600)
    assert "Successfully installed hidden-1.0" in pip_install(closed.simple(node), "hidden")[1].stdout


def test_the_replica_holds_its_files(closed):
    """They come by the replica's own right, before anybody asked for them there."""
    _, files = addresses(closed)
    with Client(closed.pair.replica.url) as client:
        answer = client.expect(200, "GET", files[0], headers={"Accept": "*/*", **basic(closed.user)})
        assert answer.body[:2] == b"PK"


def test_devpi_client_works_with_a_closed_index(pair, tool, tmp_path, project):
    """All that its user does with an index that nobody else may read, through the replica."""

    def devpi(command, *line, check=True):
        return tool("devpi", command, "--clientdir", tmp_path / "client", *line, check=check).stdout

    user = f"closed{next(_numbers)}"
    devpi("use", pair.replica.url)
    devpi("user", "-c", user, f"password={PASSWORD}")
    devpi("login", user, f"--password={PASSWORD}")
    assert "acl_pkg_read" not in devpi("index", "-c", "dev", "bases=")
    assert "acl_pkg_read=guest" in devpi("index", f"{user}/dev", "acl_pkg_read=guest")
    devpi("use", f"{user}/dev")
    devpi("upload", *project("twin-hello", "1.0"))
    assert "twin_hello-1.0.tar.gz" in devpi("list", "twin-hello")
    assert "twin-hello" in devpi("list")
    assert f"{user}/dev" in devpi("use", "-l")
    devpi("logoff")
    assert "twin" not in devpi("list", check=False)
    assert f"{user}/dev" not in devpi("use", "-l")
    devpi("login", user, f"--password={PASSWORD}")
    assert "acl_pkg_read=" not in devpi("index", f"{user}/dev", "acl_pkg_read-=").replace("acl_pkg_read-=", "")
