"""A day's work with the devpi command: users, stages, a mirror, files, documentation, test results, pushes, deletions."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from nodes import Client, Node, wheel

PASSWORD = "twin-secret"
TOX = b'{"testenvs": {"py311": {"test": [{"retcode": "0", "output": "ok"}]}}}'


class Shell:
    """The devpi command and the folder where its files are."""

    def __init__(self, call, folder: Path):
        self.call, self.folder = call, folder

    def __call__(self, command, *line, check=True) -> str:
        return self.call(command, *line, check=check)

    def file(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def wheel(self, name: str, version: str, content: bytes = b"") -> Path:
        return self.file(*wheel(name, version, content))


def doc_zip(text: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.html", f"<html><body>{text}</body></html>")
    return packed.getvalue()


def make_history(devpi: Shell, node: Node, upstream):
    """Works at this node. What is left: ann with dev, prod, base and mir; tom with one index; eve is gone."""
    fill_upstream(upstream)
    devpi("use", node.url)
    for user in ("ann", "tom", "eve"):
        devpi("user", "-c", user, f"password={PASSWORD}", f"email={user}@example.org")
    devpi("login", "tom", f"--password={PASSWORD}")
    devpi("index", "-c", "own", "bases=", "volatile=False")
    devpi("login", "ann", f"--password={PASSWORD}")
    devpi("index", "-c", "mir", "type=mirror", f"mirror_url={upstream.url}", "mirror_cache_expiry=0")
    devpi("index", "-c", "base", "bases=")
    devpi("index", "-c", "dev", "bases=ann/base,ann/mir", "mirror_whitelist=six")
    devpi("index", "-c", "prod", "bases=", "volatile=False", "acl_upload=ann,tom")
    upload(devpi, node)
    devpi("index", "ann/dev", "title=Development", "acl_upload=ann,tom")
    devpi("user", "-m", "ann", "title=Ann", "email=ann2@example.org")
    devpi("push", "six==2.0", "ann/prod")
    devpi("remove", "-y", "seven==1.0")
    devpi("remove", "-y", "eight")
    upload_again(devpi)
    mirror(node)
    devpi("index", "-c", "late", "bases=ann/dev")
    devpi("upload", "--index", "ann/late", devpi.wheel("nine", "1.0"))
    devpi("index", "-y", "--delete", "ann/late")
    devpi("login", "eve", f"--password={PASSWORD}")
    devpi("index", "-c", "gone", "bases=")
    devpi("user", "-y", "--delete", "eve")


def fill_upstream(upstream):
    upstream.put("six", *wheel("six", "1.0", b"# upstream\n"))
    upstream.put("six", *wheel("six", "1.1", b"# upstream\n"), kind="md5")
    upstream.put("odd-name", *wheel("odd_name", "3.0", b"# upstream\n"), kind="")
    upstream.put("odd-name", *wheel("odd_name", "3.1", b"# upstream\n"))


def upload(devpi: Shell, node: Node):
    devpi("use", "ann/dev")
    made = [devpi.wheel("six", version, b"# ours\n") for version in ("2.0", "2.1", "2.2")]
    made += [devpi.wheel("seven", version) for version in ("1.0", "1.1")]
    made += [devpi.wheel("eight", "1.0"), devpi.file("six-2.0.doc.zip", doc_zip("how six works"))]
    devpi("upload", *made)
    with Client(node.url) as client:
        client.login("ann", PASSWORD)
        path = client.links("ann/dev", "six")["six-2.0-py3-none-any.whl"]["url"].removeprefix(node.url).split("#")[0]
        for _ in range(2):
            client.expect(200, "POST", path, TOX)


def upload_again(devpi: Shell):
    """Replaces a file on the volatile index, brings one back that was deleted, and replaces documentation."""
    made = [devpi.wheel("six", "2.1", b"# better\n"), devpi.wheel("seven", "1.0")]
    devpi("upload", *made, devpi.file("six-2.0.doc.zip", doc_zip("how six really works")))


def mirror(node: Node):
    """Looks at the mirror's list and pages, and takes a file of each kind through it."""
    with Client(node.url) as client:
        client.expect(200, "GET", "/ann/mir/+simple/", headers={"Accept": "text/html"})
        for project in ("six", "odd-name"):
            for link in list(client.links("ann/mir", project).values())[:2]:
                path = link["url"].removeprefix(node.url).split("#")[0]
                client.expect(200, "GET", path, headers={"Accept": "*/*"})
