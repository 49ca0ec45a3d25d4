"""devpi's replication protocol as a client that is neither program: tokens, the three forms of the log."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import time
from pathlib import Path

import argon2.low_level
from devpi_server.fileutil import load, loads
from nodes import Client, Node

UUID = "0123456789abcdef0123456789abcdef"
STREAM = "application/x-devpi-replica-changes"
# What nodes.clean_env sets for both programs.
CHEAP = {"time_cost": 1, "memory_cost": 64, "parallelism": 1}


def token(secret: Path, age: int = 1) -> str:
    """What the replica UUID shows of itself."""
    raw = secret.read_bytes()
    kind = argon2.low_level.Type.ID
    key = argon2.low_level.hash_secret_raw(raw, b"devpi-server-replica", hash_len=16, type=kind, **CHEAP)
    stamp = (int(time.time()) - age).to_bytes(4, "big")
    value = f"{json.dumps(UUID)}.{plain(stamp)}"
    mac = hmac.new(hashlib.sha1(b"itsdangerous" + b"signer" + key).digest(), value.encode(), "sha1")
    return f"{value}.{plain(mac.digest())}"


def plain(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def ask(node: Node, target: str, accept: str = STREAM, **more):
    """One request to the log, as a replica of it."""
    headers = {
        "Accept": accept,
        "X-DEVPI-REPLICA-UUID": UUID,
        "X-DEVPI-EXPECTED-MASTER-ID": "",
        "X-DEVPI-EXPECTED-PRIMARY-ID": "",
        "Authorization": f"Bearer {token(node.secret)}",
        **more,
    }
    end = time.monotonic() + 30
    while True:
        with Client(node.url) as client:
            answer = client.ask("GET", f"/+changelog/{target}", headers=headers)
        # twinpi derives the key for such tokens when it is first shown one.
        if answer.status != 503 or end < time.monotonic():
            return answer
        time.sleep(0.1)


def log(node: Node) -> list[dict]:
    """All changes of a master's log."""
    answer = ask(node, "0-")
    assert (answer.status, answer.headers["Content-Type"]) == (200, STREAM), (answer.status, answer.body[:300])
    stream, entries = io.BytesIO(answer.body), []
    while stream.tell() < len(answer.body):
        assert load(stream) == len(entries)
        entries.append(load(stream)[0])
    return entries


def listed(node: Node) -> list[dict]:
    """The same in the form of a list, which may take several requests."""
    entries: list[dict] = []
    while True:
        answer = ask(node, f"{len(entries)}-?initial_fetch", accept="*/*")
        if answer.status == 202:
            return entries
        assert answer.status == 200, answer.body[:300]
        for serial, changes in loads(answer.body):
            assert serial == len(entries)
            entries.append(changes)


def single(node: Node, serial: int) -> dict:
    answer = ask(node, str(serial))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    return loads(answer.body)[0]
