"""A TCP proxy on loopback that does to connections what networks do to them.

What it does is one `Trouble`, which may be changed while connections are open. `only` limits it to the exchanges whose
request begins with one of some prefixes; other exchanges pass. One request at a time is under way on a connection, as
all clients here have it.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

CHUNK = 1 << 14
PAGE = b"<!DOCTYPE html><html><body>Please log in to the guest network.</body></html>"
CAPTIVE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(PAGE), PAGE)
# Requests that change something, as the first bytes of a connection or of the next request on it.
CHANGES = (b"PUT ", b"POST ", b"PATCH ", b"DELETE ", b"PUSH ")
READS = (b"GET ", b"HEAD ")
REPLICATION = (b"GET /+changelog", b"GET /+changes")


@dataclass
class Trouble:
    """What happens; the default is nothing."""

    # Which exchanges it is for, by how their request begins; empty for all.
    only: tuple[bytes, ...] = ()
    # Seconds before each piece is passed on, each way.
    delay: float = 0
    # Bytes a second, each way.
    rate: float = 0
    # The share of pieces that come 0.2 s later each, as if they had been sent again.
    loss: float = 0
    # What is swallowed while connections stay open: "requests", "answers", "both".
    mute: str = ""
    # New connections are ended at once.
    is_refusing: bool = False
    # The connection is reset after this many bytes of an answer, or of a request.
    cut_answer: int | None = None
    cut_request: int | None = None
    # How often that happens; negative: each time.
    cuts: int = -1
    # Bytes of an answer, counted from the end of its head, in which one bit is turned; and how often in all.
    flip: int | None = None
    flips: int = -1
    # Every request is answered with somebody's log-in page.
    is_captive: bool = False
    # What each answer's head is put through.
    head: object = None


NOTHING = Trouble()


@dataclass
class Proxy:
    """Stands before the port `target` of this machine."""

    target: int
    seed: int = 0
    trouble: Trouble = field(default_factory=Trouble)

    def __post_init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.random = random.Random(self.seed)
        self.lock = threading.Lock()
        self.open: set[socket.socket] = set()
        # How often each thing was done, and how many bytes went which way.
        self.done: dict[str, int] = {}
        self.passed = {"requests": 0, "answers": 0}
        self.requests: list[bytes] = []
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, what: str):
        with self.lock:
            self.done[what] = self.done.get(what, 0) + 1

    def reset(self):
        """Ends every connection that is open, hard."""
        with self.lock:
            ended = list(self.open)
        for connection in ended:
            end(connection)

    def heal(self):
        """Nothing happens any more; connections that suffered are ended."""
        self.trouble = NOTHING
        self.reset()

    def close(self):
        self.heal()
        end(self.listener)
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.trouble.is_refusing:
                self.count("refused")
                end(client)
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
                server.settimeout(None)
            except OSError:
                end(client)
                client.close()
                continue
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.open |= {client, server}
            Exchange(self, client, server).start()

    def take(self, name: str) -> bool:
        """Whether something that is limited in number may happen once more."""
        with self.lock:
            left = getattr(self.trouble, name)
            if left == 0:
                return False
            if 0 < left:
                setattr(self.trouble, name, left - 1)
            return True


class Exchange:
    """One connection: two threads that pass pieces on, and what they know of the request under way."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket):
        self.proxy, self.client, self.server = proxy, client, server
        self.request = b""
        # Bytes of the request and of the answer under way, the head of the answer as far as it came, its length.
        self.seen = {"requests": 0, "answers": 0}
        self.head: bytes | None = b""
        self.body = 0
        self.ends = 0

    def start(self):
        for side, source, sink in (("requests", self.client, self.server), ("answers", self.server, self.client)):
            threading.Thread(target=self.pump, args=(side, source, sink), daemon=True).start()

    def is_meant(self, trouble: Trouble) -> bool:
        return not trouble.only or self.request.startswith(trouble.only)

    def pump(self, side: str, source: socket.socket, sink: socket.socket):
        try:
            while data := source.recv(CHUNK):
                if side == "requests" and data.startswith(CHANGES + READS):
                    self.begin(data)
                trouble = self.proxy.trouble
                if self.is_meant(trouble):
                    data = self.suffer(trouble, side, data)
                if data is None:
                    break
                self.seen[side] += len(data)
                self.proxy.passed[side] += len(data)
                sink.sendall(data)
        except OSError:
            pass
        for connection in (self.client, self.server):
            end(connection)
        self.ends += 1
        if self.ends == 2:
            with self.proxy.lock:
                self.proxy.open -= {self.client, self.server}
            self.client.close()
            self.server.close()

    def begin(self, data: bytes):
        self.request = data[:2000]
        self.seen = {"requests": 0, "answers": 0}
        self.head, self.body = b"", 0
        self.proxy.requests.append(data.split(b"\r\n", 1)[0])
        del self.proxy.requests[:-2000]

    def suffer(self, trouble: Trouble, side: str, data: bytes) -> bytes | None:
        """What becomes of a piece; `None` ends the connection."""
        if trouble.is_captive and side == "requests":
            self.proxy.count("captive")
            self.client.sendall(CAPTIVE)
            return b""
        if trouble.mute in (side, "both"):
            self.proxy.count("muted")
            return b""
        pause = trouble.delay + (len(data) / trouble.rate if trouble.rate else 0)
        if trouble.loss and self.proxy.random.random() < trouble.loss:
            pause += 0.2
        if pause:
            self.proxy.count("slowed")
            time.sleep(pause)
        if side == "answers":
            data = self.answer(trouble, data)
        return self.cut(trouble, side, data)

    def answer(self, trouble: Trouble, data: bytes) -> bytes:
        """Changes the head and the body of an answer."""
        if self.head is not None:
            if trouble.head is None and trouble.flip is None:
                return data
            self.head += data
            head, mark, data = self.head.partition(b"\r\n\r\n")
            if not mark:
                return b""
            self.head = None
            changed = trouble.head(head) if trouble.head else head
            return changed + mark + self.flipped(trouble, data)
        return self.flipped(trouble, data)

    def flipped(self, trouble: Trouble, data: bytes) -> bytes:
        at, self.body = self.body, self.body + len(data)
        if trouble.flip is None or not at <= trouble.flip < self.body or not self.proxy.take("flips"):
            return data
        self.proxy.count("flipped")
        data = bytearray(data)
        data[trouble.flip - at] ^= 1 << (trouble.flip % 7)
        return bytes(data)

    def cut(self, trouble: Trouble, side: str, data: bytes) -> bytes | None:
        limit = trouble.cut_answer if side == "answers" else trouble.cut_request
        if limit is None or self.seen[side] + len(data) < limit or not self.proxy.take("cuts"):
            return data
        self.proxy.count("cut")
        rest = data[: max(0, limit - self.seen[side])]
        sink = self.client if side == "answers" else self.server
        sink.sendall(rest)
        self.proxy.passed[side] += len(rest)
        return None


def end(connection: socket.socket):
    """Ends a connection for both threads that use it; its peer sees it end."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def reset_hard(connection: socket.socket):
    """Closes a connection with a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
