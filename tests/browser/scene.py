"""What the nodes of the browser tests and of the screenshots hold: real uploads by several users."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from nodes import Client, Failed, Node, make_secret, wheel  # noqa: E402

PASSWORD = "twin-secret"
# More projects than one page of an index shows.
MANY = 130

MARKDOWN = """# plotline

Draws **line charts** from tables, without a window system. It reads CSV, Parquet and plain lists.

```python
import plotline

chart = plotline.Chart(title="Rainfall", width=640)
chart.add([("Mon", 3.1), ("Tue", 0.0), ("Wed", 7.4)], label="Station 4")
chart.save("rainfall.svg")
```

## What it does

- scales that begin where the *data* begins
- [x] labels that never cover each other
- colours that stay apart in print

| Format | Read | Written |
| ------ | :--: | :-----: |
| SVG    |      | yes     |
| PNG    |      | yes     |
| CSV    | yes  | yes     |

> A chart says one thing. Say it once.

See the [guide](https://plotline.invalid/guide) and `plotline --help`.
"""

RST = """ledgerkit
=========

Double-entry bookkeeping for programs.

.. code-block:: python

   from ledgerkit import Book

   book = Book("2026")
   book.post("cash", "sales", 120_00)

What it promises
----------------

* each entry balances, or is refused
* amounts are whole cents, *never* floats
* a closed year stays ``closed``

:License: MIT
:Python: 3.10 and newer

.. note::

   Books of version 1 are read and written as version 2.

See `the handbook <https://ledgerkit.invalid/handbook>`_ for more.
"""

PLAIN = """quietlog writes logs that say what changed, and nothing twice.

    quietlog --follow app.log

It has no options that matter.
"""

DOC_CSS = """body { font-family: sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; background: #fff; color: #222; }
nav { border-bottom: 1px solid #999; padding-bottom: .5rem; } code { background: #eee; }
"""
DOC_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="{up}_static/doc.css"></head><body>
<nav><a href="{up}index.html">Start</a> <a href="{up}guide/axes.html">Axes</a></nav>
<h1>{title}</h1>{body}</body></html>
"""


def doc_pages(version: str) -> dict[str, bytes]:
    """The pages of a small manual, as a generator of documentation writes them."""
    start = f"<p>The manual of plotline {version}. Begin with <a href='guide/axes.html'>axes</a>.</p>"
    axes = "<p>An axis has a scale. A <em>logarithmic</em> scale wants values above zero; call <code>chart.scale('log')</code>.</p>"
    pages = {
        "index.html": DOC_PAGE.format(title="plotline manual", up="", body=start),
        "guide/axes.html": DOC_PAGE.format(title="Axes and scales", up="../", body=axes),
        "_static/doc.css": DOC_CSS,
    }
    return {name: text.encode() for name, text in pages.items()}


def packed(pages: dict[str, bytes]) -> bytes:
    """A zip of these files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pages.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content)
    return made.getvalue()


def sdist(name: str, version: str) -> tuple[str, bytes]:
    """A small source archive; its file name and its bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        content = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        info = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return f"{name}-{version}.tar.gz", made.getvalue()


@dataclass
class Pair:
    """A master and a replica of it."""

    master: Node
    replica: Node

    def nodes(self) -> tuple[Node, Node]:
        return (self.master, self.replica)

    def stop(self) -> tuple[int | None, int | None]:
        return (self.replica.stop(), self.master.stop())


def binary() -> Path:
    """The program that is tested."""
    path = Path(os.environ.get("TWINPI_BINARY") or ROOT / "target/release/twinpi").absolute()
    if not os.access(path, os.X_OK):
        raise Failed(f"there is no program {path}; `make build` makes it")
    return path


def start_pair(folder: Path, program: Path) -> Pair:
    """Both nodes, empty."""
    secret = make_secret(program, folder)
    master = Node("master", folder, program, secret=secret)
    replica = Node("replica", folder, program, role="replica", master=master, secret=secret)
    for node in (master, replica):
        node.init()
        node.start()
    return Pair(master, replica)


def uploads(client: Client, index: str, name: str, version: str, made: tuple[str, bytes], **more):
    """Uploads a file; fields with several values are lists."""
    filename, content = made
    answer = client.upload(index, name, version, filename, content, more)
    if answer.status != 200:
        raise Failed(f"{filename} to {index}: {answer.status} {answer.reason}")


def uploads_docs(client: Client, index: str, name: str, version: str, content: bytes):
    """Uploads a zip of documentation."""
    mark = uuid.uuid4().hex
    fields = {":action": "doc_upload", "name": name, "version": version}
    head = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
    head += f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="{name}-{version}.doc.zip"\r\n\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}", "Accept": "*/*"}
    client.expect(200, "POST", f"/{index}/", head.encode() + content + f"\r\n--{mark}--\r\n".encode(), headers)


def tox_result(passed: bool) -> dict:
    """What tox says of one environment."""
    status = 0 if passed else 1
    output = "collected 12 items\n\ntest_chart.py ............\n" if passed else "E   assert 3 == 4\ntest_chart.py F...........\n"
    return {
        "reportversion": "1",
        "toxversion": "4.23.0",
        "platform": "linux",
        "host": "builder-3",
        "testenvs": {
            "py312" if passed else "py313": {
                "python": {"executable": "/opt/python", "is_64": True, "version": "3.12.7", "version_info": [3, 12, 7, "final", 0]},
                "setup": [{"command": ["pip", "install", "plotline"], "output": "Installed plotline", "retcode": 0}],
                "test": [{"command": ["pytest", "-q"], "output": output, "retcode": status}],
                "result": {"success": passed, "exit_code": status, "duration": 4.2},
            }
        },
    }


def posts_tox_result(client: Client, index: str, project: str, filename: str, result: dict):
    """Stores what tox said of a file."""
    link = client.links(index, project)[filename]["url"]
    client.expect(200, "POST", link.split("#")[0], result)


USERS = {
    "ann": {"title": "Ann Lee", "description": "Data platform"},
    "ben": {"title": "Ben Okoro", "description": "Builds"},
    "load": {},
    "ops": {"title": "Operations"},
}
INDEXES = {
    "ann/prod": {"type": "stage", "volatile": "False", "bases": "", "title": "What runs in production"},
    "ann/dev": {"type": "stage", "volatile": "True", "bases": "ann/prod", "title": "Work in progress"},
    "ben/dev": {"type": "stage", "volatile": "True", "bases": "ann/dev,ann/prod"},
    "load/many": {"type": "stage", "volatile": "True", "bases": ""},
    "ops/vault": {"type": "stage", "volatile": "True", "bases": "", "acl_pkg_read": "ops"},
}


def fill(pair: Pair):
    """Uploads everything, half of it through the replica; both nodes have all of it at the end."""
    with Client(pair.replica.url) as client:
        for user, facts in USERS.items():
            client.auth = None
            client.expect(201, "PUT", f"/{user}", {"password": PASSWORD})
            client.login(user, PASSWORD)
            if facts:
                client.expect(200, "PATCH", f"/{user}", facts)
            for index, config in INDEXES.items():
                if index.startswith(f"{user}/"):
                    client.expect(200, "PUT", f"/{index}", config)
    fill_ann(pair)
    fill_others(pair)
    for node in pair.nodes():
        node.wait_serial(pair.master.serial())


def fill_ann(pair: Pair):
    """Packages with all that a page can show."""
    about = {
        "summary": "Line charts from tables",
        "author": "Ann Lee",
        "author_email": "ann@plotline.invalid",
        "license": "MIT",
        "keywords": "chart,plot,svg",
        "home_page": "https://plotline.invalid/",
        "requires_python": ">=3.10",
        "description": MARKDOWN,
        "description_content_type": "text/markdown",
        "classifiers": "Topic :: Scientific/Engineering :: Visualization",
        "project_urls": "Source, https://plotline.invalid/source",
    }
    with Client(pair.replica.url) as client:
        client.login("ann", PASSWORD)
        for version in ("0.9.0", "1.0.0", "1.1.0"):
            uploads(client, "ann/prod", "plotline", version, wheel("plotline", version, requires_python=">=3.10"), **about)
            uploads(client, "ann/prod", "plotline", version, sdist("plotline", version), **about)
        uploads_docs(client, "ann/prod", "plotline", "1.1.0", packed(doc_pages("1.1.0")))
        for passed in (True, False):
            posts_tox_result(client, "ann/prod", "plotline", TESTED, tox_result(passed))
        uploads(client, "ann/dev", "plotline", "2.0.0rc1", wheel("plotline", "2.0.0rc1"), **about)
    with Client(pair.master.url) as client:
        client.login("ann", PASSWORD)
        rst = {"summary": "Double-entry bookkeeping", "description": RST, "description_content_type": "text/x-rst", "author": "Ann Lee"}
        for version in ("2.3", "2.4"):
            uploads(client, "ann/prod", "ledgerkit", version, wheel("ledgerkit", version), **rst)
        plain = {"summary": "Logs that say what changed", "description": PLAIN, "description_content_type": "text/plain"}
        uploads(client, "ann/dev", "quietlog", "0.3.dev4", sdist("quietlog", "0.3.dev4"), **plain)
        uploads(client, "ann/dev", "bare-minimum", "1", wheel("bare-minimum", "1"))


def fill_others(pair: Pair):
    """A long index, and one that only its owner may read."""
    with Client(pair.master.url) as client:
        client.login("load", PASSWORD)
        for number in range(MANY):
            name = f"part-{number:03}"
            uploads(client, "load/many", name, "1.0", wheel(name, "1.0"), summary=f"Part {number} of a long list")
        client.login("ops", PASSWORD)
        uploads(client, "ops/vault", "vaultkeeper", "1.0", wheel("vaultkeeper", "1.0"), summary="Nobody else may know")
        client.login("ben", PASSWORD)
        uploads(client, "ben/dev", "buildhelper", "0.1.0", wheel("buildhelper", "0.1.0"), summary="Helps with builds")


# A file with test results.
TESTED = "plotline-1.1.0-py3-none-any.whl"
# Pages that are not the same on a replica.
OF_A_REPLICA = ("root", "status", "changes")


def pages() -> dict[str, str]:
    """Each kind of page with an address of it."""
    return {
        "root": "/",
        "user": "/ann",
        "index": "/ann/prod",
        "index-long": "/load/many",
        "project": "/ann/prod/plotline",
        "version": "/ann/prod/plotline/1.1.0",
        "version-rst": "/ann/prod/ledgerkit/latest",
        "version-plain": "/ann/dev/quietlog/0.3.dev4",
        "test-results": f"/ann/prod/plotline/1.1.0/+toxresults/{TESTED}",
        "documentation": "/ann/prod/plotline/1.1.0/+d/index.html",
        "search": "/+search?query=chart",
        "search-none": "/+search?query=nothing-like-this",
        "searchhelp": "/+searchhelp",
        "status": "/+status",
        "changes": "/+changes",
        "changes-index": "/ann/prod/+changes",
        "missing": "/ann/prod/nothing-here",
    }
