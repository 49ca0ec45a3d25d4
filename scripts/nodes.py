"""Nodes as the demo and the tests run them: real processes on loopback, each with its own folder and log.

Only the standard library is used. A binary called devpi-server is taken for the reference: its programs lie
beside it and are called by their own names.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import uuid
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 60
STOP_SECONDS = 20
# Settings of the caller's own clients, and proxies, must not reach the ones that are run here.
FOREIGN = ("PIP_", "UV_", "TWINE_", "DEVPI_", "DEVPISERVER_", "PYTHON", "VIRTUAL_ENV", "RUST_LOG")
FOREIGN += ("SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def clean_env(**extra: str) -> dict[str, str]:
    """The caller's environment without what would change how nodes and clients behave."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    env.update(
        NO_PROXY="*",
        no_proxy="*",
        PYTHONUNBUFFERED="1",
        PYTHONDONTWRITEBYTECODE="1",
        # Cheap key derivation where the reference runs; both nodes must agree.
        DEVPISERVER_ARGON2_MEMORY_COST="64",
        DEVPISERVER_ARGON2_PARALLELISM="1",
        DEVPISERVER_ARGON2_TIME_COST="1",
    )
    env.update(extra)
    return env


_given: set[int] = set()


def free_port() -> int:
    """A loopback port that is free now and was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


class Failed(Exception):
    """A command or a node did not do what was expected; the text says what it said."""


@dataclass
class Answer:
    """What a node answered."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def serial(self) -> int:
        return int(self.headers["X-DEVPI-SERIAL"])


class Client:
    """One kept-alive connection to a node."""

    def __init__(self, url: str, timeout: float = 60):
        parts = urllib.parse.urlsplit(url)
        self.prefix = parts.path.rstrip("/")
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        self.auth: str | None = None

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, method: str, path: str, body=None, headers=None) -> Answer:
        """Sends one request; `body` is JSON unless it is bytes."""
        path = urllib.parse.urlsplit(path)
        target = self.prefix + urllib.parse.urlunsplit(("", "", path.path, path.query, ""))
        sent = {"Accept": "application/json", **(headers or {})}
        if self.auth:
            sent["Authorization"] = self.auth
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            self.connection.request(method, target, body, sent)
            response = self.connection.getresponse()
            return Answer(response.status, response.reason, response.headers, response.read())
        except BaseException:
            self.connection.close()
            raise

    def expect(self, status: int, method: str, path: str, body=None, headers=None) -> Answer:
        answer = self.ask(method, path, body, headers)
        if answer.status != status:
            said = answer.body[:500].decode(errors="replace")
            raise Failed(f"{method} {path}: {answer.status} {answer.reason}, not {status}: {said}")
        return answer

    def login(self, user: str, password: str):
        """Puts the user's token on every request from now on."""
        token = self.expect(200, "POST", "/+login", {"user": user, "password": password}).json()["result"]["password"]
        self.basic(user, token)

    def basic(self, user: str, password: str):
        self.auth = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def upload(self, index: str, name: str, version: str, filename: str, content: bytes, more=None) -> Answer:
        """Uploads one file by form, as twine does; `more` are further fields."""
        return self.ask("POST", f"/{index}/", *self.form(name, version, filename, content, more))

    @staticmethod
    def form(name: str, version: str, filename: str, content: bytes, more=None) -> tuple[bytes, dict[str, str]]:
        """The body of an upload, and the header fields that belong to it."""
        fields = {
            ":action": "file_upload",
            "protocol_version": "1",
            "metadata_version": "2.1",
            "name": name,
            "version": version,
            "filetype": "bdist_wheel" if filename.endswith(".whl") else "sdist",
            "pyversion": "py3" if filename.endswith(".whl") else "source",
            "sha256_digest": hashlib.sha256(content).hexdigest(),
            **(more or {}),
        }
        mark = uuid.uuid4().hex
        form = io.BytesIO()
        for key, value in fields.items():
            form.write(f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode())
        form.write(
            f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
        )
        form.write(content + f"\r\n--{mark}--\r\n".encode())
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}", "Accept": "*/*"}
        return form.getvalue(), headers

    def links(self, index: str, project: str) -> dict[str, dict]:
        """The files of a project on its simple page, by name."""
        headers = {"Accept": "application/vnd.pypi.simple.v1+json"}
        answer = self.ask("GET", f"/{index}/+simple/{project}/", headers=headers)
        if answer.status == 404:
            return {}
        if answer.status != 200:
            raise Failed(f"simple page of {project}: {answer.status} {answer.reason}")
        base = f"{self.prefix}/{index}/+simple/{project}/"
        return {entry["filename"]: {**entry, "url": urllib.parse.urljoin(base, entry["url"])} for entry in answer.json()["files"]}

    def position(self) -> tuple[int, str]:
        """The serial and the chain that the node has come to."""
        position = self.expect(200, "GET", "/+status").json()["result"]["position"]
        return position["serial"], position["chain"]


@dataclass
class Node:
    """One node: `init` once, then `start` and `stop` as often as wanted."""

    name: str
    folder: Path
    binary: Path
    role: str = "master"
    master: Node | None = None
    secret: Path | None = None
    port: int = field(default_factory=free_port)
    extra: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    master_url: str | None = None
    # Whether the node inherits that SIGXFSZ is ignored, so that a limit on file sizes is an error and no end.
    ignore_signals: bool = False
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def follows(self) -> str:
        """The master's address as the replica is told it; another one if something stands between."""
        return self.master_url or self.master.url

    @property
    def data(self) -> Path:
        return self.folder / self.name

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def command(self, name: str) -> list[str]:
        return command(self.binary, name)

    def init(self, *extra: str):
        """Makes the folder; root's password is empty and there is no mirror."""
        line = [*self.command("init"), "--serverdir", str(self.data)]
        line += ["--role", "replica", "--master-url", self.follows] if self.master else ["--no-root-pypi", *extra]
        run(line)

    def start(self, wait: bool = True) -> Node:
        line = [*self.command("serve"), "--serverdir", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)]
        line += ["--role", self.role]
        if self.master:
            line += ["--master-url", self.follows]
        if self.secret:
            line += ["--secretfile", str(self.secret)]
        with self.log.open("ab") as log:
            # A session of its own: a key press in the terminal ends the demo in order, not the nodes at once.
            self.process = subprocess.Popen(
                [*line, *self.extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_env(**self.env),
                start_new_session=True,
                restore_signals=not self.ignore_signals,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            try:
                with Client(self.url, timeout=5) as client:
                    client.expect(200, "GET", "/+api")
                return
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
        raise Failed(f"{self.name} did not answer within {START_SECONDS} s:\n{self.tail()}")

    def stop(self, kill: bool = False) -> int | None:
        """Ends the process; gives its exit status."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"{self.name} did not end within {STOP_SECONDS} s of SIGTERM:\n{self.tail()}") from None

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def serial(self) -> int | None:
        """The serial that the node has come to; `None` if it does not answer."""
        try:
            with Client(self.url, timeout=10) as client:
                return client.expect(200, "GET", "/+api").serial
        except (OSError, http.client.HTTPException):
            return None

    def wait_serial(self, serial: int, seconds: float = 30):
        """Waits until the node has come to `serial`."""
        end = time.monotonic() + seconds
        while (at := self.serial()) is None or at < serial:
            if end < time.monotonic():
                raise Failed(f"{self.name} is at serial {at}, not {serial}:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, size: int = 3000) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace") if self.log.exists() else ""


def command(binary: Path, name: str) -> list[str]:
    """How a program of the suite is called."""
    if binary.name == "devpi-server":
        theirs = {"serve": "server"}.get(name, name)
        return [str(binary.with_name(f"devpi-{theirs}"))]
    return [str(binary), name]


def make_secret(binary: Path, folder: Path) -> Path:
    """A secret file in a folder that only the owner may write to."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    run([*command(binary, "gen-secret"), "--secretfile", str(private / "secret")])
    return private / "secret"


def run(line: list, check: bool = True, cwd=None, env=None, seconds: float = 180) -> subprocess.CompletedProcess:
    """Runs a command to its end and keeps what it printed."""
    done = subprocess.run(
        [str(part) for part in line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env=env or clean_env(),
        timeout=seconds,
    )
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(str(part) for part in line)}\nended with {done.returncode}:\n{done.stdout}")
    return done


def client_env(home: Path, **extra: str) -> dict[str, str]:
    """An environment in which clients find no settings but the ones given."""
    home.mkdir(parents=True, exist_ok=True)
    return clean_env(
        HOME=str(home),
        XDG_CONFIG_HOME=str(home / "config"),
        XDG_CACHE_HOME=str(home / "cache"),
        PIP_CONFIG_FILE=os.devnull,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INPUT="1",
        PIP_RETRIES="1",
        PIP_TIMEOUT="30",
        UV_NO_CONFIG="1",
        UV_CACHE_DIR=str(home / "uv-cache"),
        UV_PYTHON_DOWNLOADS="never",
        NO_COLOR="1",
        COLUMNS="200",
        PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring",
        **extra,
    )


def wheel(name: str, version: str, content: bytes = b"", requires_python: str = "") -> tuple[str, bytes]:
    """A small real wheel with one module; its file name and its bytes."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if requires_python:
        metadata += f"Requires-Python: {requires_python}\n"
    files = {
        f"{module}.py": f"version = {version!r}\n".encode() + content,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: twinpi\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    files[f"{info}/RECORD"] = record.encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
    return f"{module}-{version}-py3-none-any.whl", packed.getvalue()
