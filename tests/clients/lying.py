"""A server on loopback that says what a test wants, byte by byte, and counts who asked for what."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections import Counter

HTML = "text/html; charset=utf-8"
JSON = "application/vnd.pypi.simple.v1+json"


def head(status: int, **fields) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(body: bytes, content_type: str = HTML, status: int = 200, length=True, **fields) -> bytes:
    """A whole answer; `length` may be a lie, or `None` for none."""
    length = len(body) if length is True else length
    return head(status, Content_Type=content_type, Content_Length=length, **fields) + body


def packed(body: bytes, content_type: str = HTML) -> bytes:
    return answer(body, content_type, Content_Encoding="gzip")


def chunked(body: bytes, ends: bool = True) -> bytes:
    pieces = [body[at : at + 50] for at in range(0, len(body), 50)]
    text = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head(200, Content_Type=HTML, Transfer_Encoding="chunked") + text + (b"0\r\n\r\n" if ends else b"")


def zeros(size_bytes: int) -> bytes:
    """Very little that unpacks to very much."""
    return gzip.compress(bytes(size_bytes), 9)


class Request:
    """One request, and the connection that its answer goes to."""

    def __init__(self, connection: socket.socket, path: str, fields: dict[str, str]):
        self.connection, self.path, self.fields = connection, path, fields

    def send(self, data: bytes):
        self.connection.sendall(data)

    def sleep(self, seconds: float, upstream: Upstream):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not upstream.is_over:
            time.sleep(0.05)


class Upstream:
    """`says[path]` is the bytes of an answer, or a function that is given the request; all else is 404."""

    def __init__(self):
        self.says: dict = {}
        self.asked: Counter[str] = Counter()
        self.is_over = False
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.root = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while not self.is_over:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket):
        with connection:
            try:
                self.reply(connection)
            except OSError:
                pass

    def reply(self, connection: socket.socket):
        connection.settimeout(60)
        text = b""
        while b"\r\n\r\n" not in text:
            piece = connection.recv(65536)
            if not piece:
                return
            text += piece
        first, *rest = text.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
        path = first.split(" ")[1]
        with self.lock:
            self.asked[path] += 1
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        said = self.says.get(path, answer(b"nothing here", status=404))
        if callable(said):
            said(Request(connection, path, fields))
        else:
            connection.sendall(said)

    def stop(self):
        self.is_over = True
        self.listener.close()
