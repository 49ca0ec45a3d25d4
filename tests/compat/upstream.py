"""A package index for mirrors, on loopback: two projects, one link without a hash, one with md5 alone."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JSON = "application/vnd.pypi.simple.v1+json"


class Upstream:
    """`files[project][filename]` is the bytes and the kind of hash that its link has: sha256, md5 or none."""

    def __init__(self):
        self.files: dict[str, dict[str, tuple[bytes, str]]] = {}
        self.asked: Counter[str] = Counter()
        self.is_down = False
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                upstream.asked[self.path] += 1
                status, content_type, body = (503, "text/plain", b"") if upstream.is_down else upstream.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, project: str, filename: str, content: bytes, kind: str = "sha256"):
        self.files.setdefault(project, {})[filename] = (content, kind)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        parts = path.strip("/").split("/")
        if parts == ["simple"]:
            names = [{"name": name} for name in self.files]
            return 200, JSON, json.dumps({"meta": {"api-version": "1.0"}, "projects": names}).encode()
        if parts[0] == "simple" and len(parts) == 2 and parts[1] in self.files:
            return 200, "text/html", self.page(parts[1]).encode()
        if parts[0] == "files" and len(parts) == 3 and parts[2] in self.files.get(parts[1], {}):
            return 200, "application/octet-stream", self.files[parts[1]][parts[2]][0]
        return 404, "text/plain", b"no such page"

    def page(self, project: str) -> str:
        lines = []
        for filename, (content, kind) in self.files[project].items():
            mark = f"#{kind}={hashlib.new(kind, content).hexdigest()}" if kind else ""
            lines.append(f'<a href="/files/{project}/{filename}{mark}">{filename}</a><br>')
        return "<!DOCTYPE html><html><body>" + "\n".join(lines) + "</body></html>"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
