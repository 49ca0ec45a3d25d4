"""A replica whose master stands behind nginx with TLS, which asks for a certificate: what works through it, and what is
said when a certificate is wrong."""

from __future__ import annotations

import threading
import time

import pytest
import trustme

from conftest import Pair, make_index
from nginx import RECOMMENDED, Nginx, pem
from nodes import Client, Node, free_port, make_secret, run, wheel

pytestmark = pytest.mark.ours


@pytest.fixture
def nodes(tmp_path, binary):
    """A master that runs and a replica that is not set up yet."""
    secret = make_secret(binary, tmp_path)
    master = Node("master", tmp_path, binary, secret=secret)
    master.init()
    master.start()
    replica = Node("replica", tmp_path, binary, role="replica", master=master, secret=secret)
    yield Pair(master, replica)
    replica.stop()
    master.stop()


@pytest.fixture
def authority(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


def follow(replica: Node, url: str, tmp_path, ca: str | None = "ca.pem", cert: bytes | None = None):
    replica.master_url = url
    replica.env = {"REQUESTS_CA_BUNDLE": str(tmp_path / ca)} if ca else {}
    if cert:
        (tmp_path / "replica.pem").write_bytes(cert)
        replica.extra = ["--replica-cert", str(tmp_path / "replica.pem")]
    replica.init()
    replica.start()


# nginx's own defaults, but for what no upload of any size could do without.
DEFAULTS = "client_max_body_size 0;"


@pytest.mark.parametrize("settings", [RECOMMENDED, DEFAULTS], ids=["recommended", "defaults"])
def test_all_paths_of_a_replica_go_through_nginx_with_certificates(nodes, authority, tmp_path, settings):
    visitors = trustme.CA()
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost"), visitors, settings) as nginx:
        follow(nodes.replica, nginx.url, tmp_path, cert=pem(visitors, "replica.example"))
        index = make_index(nodes)
        filename, content = wheel("large", "1.0", bytes(range(256)) * 40_000)
        # A relay of a large body, and the file through the replica before it has it.
        answer = index.upload(nodes.replica, "large", "1.0", filename, content)
        assert answer.status == 200, answer.body
        assert index.content(nodes.replica, "large", filename) == content
        # A refusal arrives as the master said it.
        other = wheel("large", "1.0", b"other")[1]
        with index.client(nodes.replica) as client:
            client.expect(200, "PATCH", f"/{index.name}", ["volatile=False"])
        refused = index.upload(nodes.replica, "large", "1.0", filename, other)
        assert refused.status == 409 and "already exists" in refused.reason + refused.body.decode()
        # A poll that is parked behind nginx is woken at once.
        small, bytes_ = wheel("small", "1.0")
        serial = index.upload(nodes.master, "small", "1.0", small, bytes_).serial
        began = time.monotonic()
        with Client(nodes.replica.url) as client:
            client.expect(200, "GET", f"/+wait?serial={serial}&timeout=10")
            assert time.monotonic() - began < 2
            client.expect(200, "GET", f"/+wait?serial={serial}&nodes=all&timeout=10")
            status = client.expect(200, "GET", "/+status").json()["result"]
        assert status["replication-state"] == "following", status
        assert index.content(nodes.replica, "small", small) == bytes_


def refused_by(nodes: Pair, *words: str) -> str:
    """Waits until status and log of the replica say all words; gives what a relay is told."""
    end = time.monotonic() + 15
    while True:
        with Client(nodes.replica.url) as client:
            status = client.expect(200, "GET", "/+status").json()["result"]
            reason = status["replication-state-reason"] or ""
        missing = [word for word in words if word not in reason]
        if not missing:
            break
        assert time.monotonic() < end, f"{missing} not in: {reason}"
        time.sleep(0.1)
    assert status["replication-state"] in ("unreachable", "refused"), status
    assert all(word in nodes.replica.tail(20_000) for word in words), nodes.replica.tail()
    assert nodes.replica.serial() == -1
    with Client(nodes.replica.url) as client:
        answer = client.ask("POST", "/+login", {"user": "root", "password": ""})
    assert 500 <= answer.status, answer
    return answer.body.decode()


def test_an_authority_that_is_not_trusted_is_named_with_the_file_to_look_at(nodes, authority, tmp_path):
    with Nginx(tmp_path, nodes.master.port, pem(trustme.CA(), "localhost")) as nginx:
        follow(nodes.replica, nginx.url, tmp_path)
        words = (nginx.url, "authority", "not trusted", "REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert "not trusted" in refused_by(nodes, *words)


def test_no_file_of_authorities_at_all_names_the_variables(nodes, authority, tmp_path):
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost")) as nginx:
        follow(nodes.replica, nginx.url, tmp_path, ca=None)
        refused_by(nodes, nginx.url, "not trusted", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def test_a_certificate_for_another_name_tells_both_names(nodes, authority, tmp_path):
    with Nginx(tmp_path, nodes.master.port, pem(authority, "pypi.example")) as nginx:
        follow(nodes.replica, nginx.url, tmp_path)
        assert "pypi.example" in refused_by(nodes, nginx.url, "pypi.example", "not for localhost", "--master-url")


@pytest.mark.parametrize(("days", "word"), [(-2, "expired"), (40, "not valid yet")])
def test_a_certificate_out_of_its_time_is_told_with_the_clock_as_the_other_suspect(nodes, authority, tmp_path, days, word):
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost", days)) as nginx:
        follow(nodes.replica, nginx.url, tmp_path)
        assert word in refused_by(nodes, nginx.url, word, "clock")


def test_a_missing_client_certificate_names_the_option(nodes, authority, tmp_path):
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost"), trustme.CA()) as nginx:
        follow(nodes.replica, nginx.url, tmp_path)
        refused_by(nodes, nginx.url, "asks for a client certificate", "--replica-cert")


@pytest.mark.parametrize("how", ["stranger", "expired"])
def test_a_client_certificate_that_is_not_accepted_names_its_file(nodes, authority, tmp_path, how):
    visitors = trustme.CA()
    cert = pem(trustme.CA(), "replica.example") if how == "stranger" else pem(visitors, "replica.example", -2)
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost"), visitors) as nginx:
        follow(nodes.replica, nginx.url, tmp_path, cert=cert)
        refused_by(nodes, nginx.url, "does not accept the client certificate", str(tmp_path / "replica.pem"))


def test_a_master_that_nginx_cannot_reach_is_told_from_one_that_refuses(nodes, authority, tmp_path):
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost")) as nginx:
        nodes.master.stop()
        follow(nodes.replica, nginx.url, tmp_path)
        refused_by(nodes, "502", "proxy", nginx.url)
        nodes.master.start()
        nodes.replica.wait_serial(nodes.master.serial())


def test_a_proxy_that_cuts_idle_connections_early_costs_no_change(nodes, authority, tmp_path):
    """Polls are parked for 30 s; this one gives up after 2, as if nobody had read what is recommended."""
    settings = RECOMMENDED.replace("330s", "2s")
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost"), settings=settings) as nginx:
        follow(nodes.replica, nginx.url, tmp_path)
        index = make_index(nodes)
        for n in range(3):
            time.sleep(2.2)
            filename, content = wheel("idle", f"{n}.0")
            serial = index.upload(nodes.master, "idle", f"{n}.0", filename, content).serial
            nodes.replica.wait_serial(serial, 15)
        log = nodes.replica.tail(20_000)
        assert "504" in log and "proxy" in log and "proxy_read_timeout" in log, log


def test_a_change_that_the_proxy_gave_up_on_is_settled_by_its_receipt(nodes, authority, tmp_path):
    """nginx answers 504 while the master stands still; the upload, carried out later, is told as done, and stands once."""
    settings = RECOMMENDED.replace("330s", "1s")
    with Nginx(tmp_path, nodes.master.port, pem(authority, "localhost"), settings=settings) as nginx:
        follow(nodes.replica, nginx.url, tmp_path)
        index = make_index(nodes)
        filename, content = wheel("late", "1.0")
        with index.client(nodes.replica) as client:
            before = nodes.master.serial()
            nodes.master.process.send_signal(19)
            wake = threading.Timer(1.6, lambda: nodes.master.process.send_signal(18))
            wake.start()
            answer = client.upload(index.name, "late", "1.0", filename, content)
            wake.join()
            assert answer.status == 200, answer.reason.encode() + answer.body
            assert filename in client.links(index.name, "late")
        assert "504" in (nginx.folder / "access.log").read_text()
        nodes.replica.wait_serial(before + 1)
        assert nodes.master.serial() == before + 1


@pytest.mark.parametrize("name", ["nginx-devpi.conf", "nginx-devpi-caching.conf"])
def test_nginx_takes_the_files_that_are_made_for_it(nodes, tmp_path, name):
    port = free_port()
    options = ["--serverdir", nodes.master.data, "--port", nodes.master.port, "--outside-url", f"http://localhost:{port}"]
    run([*nodes.master.command("gen-config"), *options], cwd=tmp_path)
    made = (tmp_path / "gen-config" / name).read_text().replace("/var/cache/nginx/twinpi", str(tmp_path / "cache"))
    with Nginx(tmp_path, nodes.master.port, pem(trustme.CA(), "localhost"), beside=made):
        index = make_index(Pair(nodes.master, nodes.master))
        filename, content = wheel("large", "1.0", bytes(range(256)) * 4000)
        index.upload(nodes.master, "large", "1.0", filename, content)
        with Client(f"http://localhost:{port}") as client:
            for asked in range(2):
                link = client.links(index.name, "large")[filename]
                answer = client.ask("GET", link["url"], headers={"Accept": "*/*"})
                assert answer.body == content
                kept = {"nginx-devpi.conf": None, "nginx-devpi-caching.conf": ["MISS", "HIT"][asked]}[name]
                assert answer.headers.get("X-Cached") == kept
            root = client.expect(200, "GET", "/+api").json()["result"]
            assert root["login"] == f"http://localhost:{port}/+login"
