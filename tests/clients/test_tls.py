"""A replica whose master is behind TLS, named and not numbered. `make dist` runs this on the static binary."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
import time

import pytest
import trustme

from conftest import make_index, Pair
from nodes import Node, make_secret, wheel

pytestmark = pytest.mark.ours


def pump(source, target):
    """Copies bytes one way until one side ends."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    for side in (source, target):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tls_in_front_of(port: int, authority: trustme.CA, client_authority: trustme.CA | None = None):
    """Ends TLS for `localhost` and passes bytes on to `port`, as a proxy would; gives its own port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        client_authority.configure_trust(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(plain):
        try:
            outer = context.wrap_socket(plain, server_side=True)
            inner = socket.create_connection(("127.0.0.1", port))
        except OSError:
            plain.close()
            return
        threading.Thread(target=pump, args=(inner, outer), daemon=True).start()
        pump(outer, inner)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                threading.Thread(target=serve, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


@pytest.fixture
def pair(tmp_path, binary):
    """A master that runs and a replica that is not set up yet."""
    secret = make_secret(binary, tmp_path)
    master = Node("master", tmp_path, binary, secret=secret)
    master.init()
    master.start()
    replica = Node("replica", tmp_path, binary, role="replica", master=master, secret=secret)
    yield Pair(master, replica)
    replica.stop()
    master.stop()


def follow(replica: Node, port: int):
    if replica.data.exists():
        shutil.rmtree(replica.data)
    replica.master_url = f"https://localhost:{port}"
    replica.init()
    replica.start()


@pytest.fixture
def authority(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


def check(pair: Pair):
    index = make_index(pair)
    filename, content = wheel("encrypted", "1.0", b"# " + b"x" * 300_000 + b"\n")
    answer = index.upload(pair.replica, "encrypted", "1.0", filename, content)
    assert answer.status == 200, answer.body
    assert index.content(pair.replica, "encrypted", filename) == content
    assert pair.replica.serial() == pair.master.serial()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_replica_follows_through_tls(pair, authority, tmp_path, variable):
    pair.replica.env = {variable: str(tmp_path / "ca.pem")}
    with tls_in_front_of(pair.master.port, authority) as port:
        follow(pair.replica, port)
        check(pair)


def test_a_replica_shows_its_certificate(pair, authority, tmp_path):
    visitors = trustme.CA()
    mine = visitors.issue_cert("replica.example")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "mine.pem")
    pair.replica.env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    pair.replica.extra = ["--replica-cert", str(tmp_path / "mine.pem")]
    with tls_in_front_of(pair.master.port, authority, visitors) as port:
        follow(pair.replica, port)
        check(pair)


def test_a_stranger_in_the_masters_place_is_not_followed(pair, authority, tmp_path):
    pair.replica.env = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    with tls_in_front_of(pair.master.port, trustme.CA()) as port:
        follow(pair.replica, port)
        time.sleep(2)
        assert pair.master.serial() == 0
        assert pair.replica.serial() == -1, pair.replica.tail()
        assert "ertificate" in pair.replica.tail(20_000)
