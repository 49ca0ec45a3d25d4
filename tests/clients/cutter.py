"""A TCP proxy on loopback that ends the connection at a given byte of a change or of its answer."""

from __future__ import annotations

import socket
import threading

CHANGES = (b"PUT ", b"POST ", b"PATCH ", b"DELETE ", b"PUSH ")


class Cutter:
    """Passes everything on, but for the next `times` requests that change something: of these, or of their answers,
    only the first `offset` bytes."""

    def __init__(self, target_port: int):
        self.target = ("127.0.0.1", target_port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.lock = threading.Lock()
        self.side, self.offset, self.times = "", 0, 0
        # How long the last change and its answer were, as far as they came.
        self.seen = {"request": 0, "answer": 0}
        self.cuts = 0
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def cut(self, side: str, offset: int, times: int = 1):
        with self.lock:
            self.side, self.offset, self.times, self.cuts = side, offset, times, 0

    def close(self):
        self.listener.close()
        for connection in self.sockets:
            connection.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
            except OSError:
                return
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sockets.append(connection)
            Pipe(self, client, server).start()


class Pipe:
    """One connection. One request at a time is under way on it."""

    def __init__(self, cutter: Cutter, client: socket.socket, server: socket.socket):
        self.cutter, self.client, self.server = cutter, client, server
        self.is_change = False
        self.left: dict[str, int] = {}

    def start(self):
        threading.Thread(target=self.pump, args=("request", self.client, self.server), daemon=True).start()
        threading.Thread(target=self.pump, args=("answer", self.server, self.client), daemon=True).start()

    def begins(self, data: bytes):
        """Looks at the first bytes of a request."""
        cutter = self.cutter
        with cutter.lock:
            self.is_change, self.left = data.startswith(CHANGES), {}
            if self.is_change:
                cutter.seen = {"request": 0, "answer": 0}
                if 0 < cutter.times:
                    cutter.times -= 1
                    self.left = {cutter.side: cutter.offset}

    def pump(self, side: str, source: socket.socket, sink: socket.socket):
        try:
            while data := source.recv(1 << 16):
                if side == "request" and (data.startswith(CHANGES) or data.startswith((b"GET ", b"HEAD "))):
                    self.begins(data)
                if self.is_change:
                    self.cutter.seen[side] += len(data)
                if side in self.left:
                    data = data[: self.left[side]]
                    self.left[side] -= len(data)
                sink.sendall(data)
                if self.left.get(side) == 0:
                    self.cutter.cuts += 1
                    break
        except OSError:
            pass
        for connection in (self.client, self.server):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
