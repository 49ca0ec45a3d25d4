"""Reads the database of a node that was stopped."""

from __future__ import annotations

import hashlib
import sqlite3

from nodes import Failed, Node


def check_log(node: Node) -> tuple[int, str, str]:
    """Reads the stopped node's database: dense serials, and a chain that is the hash of the log it stands for.

    Gives the last serial, the chain, and a digest of all current values.
    """
    database = sqlite3.connect(f"file:{node.data}/twinpi.sqlite?mode=ro", uri=True)
    chain, serial = bytes(32), -1
    entries = database.execute("SELECT serial, chain, is_manifest, data FROM changelog ORDER BY serial")
    for serial, (at, linked, is_manifest, data) in enumerate(entries):
        if at != serial:
            raise Failed(f"serial {serial} is missing on the {node.name}")
        entry = whole(database, data) if is_manifest else data
        chain = hashlib.sha256(chain + at.to_bytes(8, "big") + entry).digest()
        if chain != linked:
            raise Failed(f"the chain is broken at serial {serial} of the {node.name}")
    values = hashlib.sha256()
    for *row, is_manifest, value in database.execute(
        "SELECT key, keyname, serial, is_manifest, value FROM kv ORDER BY key"
    ):
        value = whole(database, value) if is_manifest else value
        values.update(repr((row, value)).encode())
    database.close()
    return serial, chain.hex(), values.hexdigest()


def whole(database: sqlite3.Connection, manifest: bytes) -> bytes:
    """Puts bytes together that are stored in segments (src/store/rope.rs has the form)."""
    parts, at = [], 0
    while at < len(manifest):
        tag, length = manifest[at], int.from_bytes(manifest[at + 1 : at + 5], "big")
        at += 5
        if tag == 0:
            parts.append(manifest[at : at + length])
            at += length
        else:
            number = int.from_bytes(manifest[at : at + 8], "big")
            (segment,) = database.execute("SELECT data FROM segment WHERE id = ?", (number,)).fetchone()
            if tag != 1 or len(segment) != length:
                raise Failed(f"segment {number} is not what a manifest says")
            parts.append(segment)
            at += 8
    return b"".join(parts)
