"""What somebody may upload to harm those who look at it, and the check that a page does nothing of what it says.

`fill` puts all of it onto an index; whoever tests pages reads those that it names. `complaints` reads a page as a
browser does, and says what in it could run or load something.
"""

from __future__ import annotations

import io
import json
import stat
import urllib.parse
import uuid
import warnings
import zipfile
from dataclasses import dataclass, field

import html5lib

from nodes import Client, wheel

# What is run if anything is: a browser test finds the word on the console, in the title or in a dialog.
MARK = "hostile-code-ran"
RUN = f"console.error('{MARK}');document.title='{MARK}'"
EVIL = "http://evil.invalid"

# One line each: names of people, summaries, keywords, titles, search terms, hosts of test results.
LINES = [
    f"<script>{RUN}</script>",
    f"\"><img src=x onerror=\"{RUN}\">",
    f"'><svg onload='{RUN}'>",
    f"</title></script></style></main><script>{RUN}</script>",
    f"<a href=\"javascript:{RUN}\">click</a>",
    f"javascript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    f"<base href='{EVIL}/'><form action='{EVIL}/'><iframe src='{EVIL}/'>",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7} @{7*7}",
    "\u202eevil\u2066 \u200b\ufeff \u2028 \x7f \u0085 \U000e0041",
    "<" * 300,
    "&lt;script&gt; &amp;lt;b&amp;gt; &#60;script&#62;",
]

ADDRESSES = [
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}",
    f" javascript:{RUN}",
    f"java\tscript:{RUN}",
    f"javascript://{EVIL[7:]}/%0a{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    f"vbscript:{RUN}",
    "file:///etc/passwd",
    "//evil.invalid/x",
    f"https://h/\" onclick=\"{RUN}",
    f"https://h/'><script>{RUN}</script>",
    "https://",
    "http://user:password@h/",
]

MARKDOWN = "text/markdown"
REST = "text/x-rst"
PLAIN = "text/plain"

# By content type; "" is what old tools send, and means reStructuredText.
DESCRIPTIONS = [
    *((kind, "\n\n".join(LINES)) for kind in (MARKDOWN, REST, PLAIN, "")),
    (MARKDOWN, "\n\n".join(f"[a]({url}) ![b]({url}) <{url}> <a href=\"{url}\">c</a>" for url in ADDRESSES)),
    (MARKDOWN, f"[x]\n\n[x]: javascript:{RUN}\n\n[y](jav&#x09;ascript:{RUN}) [z](&#106;avascript:{RUN})"),
    (MARKDOWN, f"# <script>{RUN}</script>\n\n```<script>\n</code></pre><script>{RUN}</script>\n```\n\n`<script>`"),
    (MARKDOWN, f"<svg><style><img src=x onerror={RUN}></style></svg><math><mtext><script>{RUN}</script></mtext></math>"),
    (MARKDOWN, f"<noscript><p title=\"</noscript><img src=x onerror={RUN}>\"><textarea></textarea><script>{RUN}</script>"),
    (MARKDOWN, f"<details open ontoggle=\"{RUN}\"><summary onclick=\"{RUN}\">s</summary></details><video src={EVIL}/v></video>"),
    (MARKDOWN, f"<p id=\"main\" class=\"top skip\" style=\"position:fixed;inset:0\" onmouseover=\"{RUN}\">over</p><style>*{{display:none}}</style>"),
    (MARKDOWN, f"<form action=\"{EVIL}/\"><input name=password autofocus onfocus=\"{RUN}\"><button>b</button></form>"),
    (MARKDOWN, f"</section></main></body></html><body onload=\"{RUN}\"><link rel=stylesheet href={EVIL}/x.css><meta http-equiv=refresh content=\"0;url={EVIL}/\">"),
    (MARKDOWN, f"<object data=\"{EVIL}/\"></object><embed src=\"{EVIL}/\"><iframe srcdoc=\"<script>{RUN}</script>\"></iframe>"),
    (MARKDOWN, f"![tracker]({EVIL}/pixel.png) <img src=\"{EVIL}/p.gif\" srcset=\"{EVIL}/p2.gif 2x\"> <picture><source srcset={EVIL}/a></picture>"),
    (REST, f".. raw:: html\n\n   <script>{RUN}</script>\n\n.. include:: /etc/passwd\n\n.. csv-table::\n   :file: /etc/passwd\n"),
    (REST, "\n\n".join(f"`a <{url}>`_ .. and |s|\n\n.. image:: {url}\n   :target: {url}\n   :alt: \"><script>{RUN}</script>" for url in ADDRESSES)),
    (REST, f".. _x: javascript:{RUN}\n\nx_ `y`__\n\n__ javascript:{RUN}\n\n.. |s| image:: javascript:{RUN}\n   :target: javascript:{RUN}\n\n|s|\n"),
    (REST, f"<script>{RUN}</script>\n{'=' * 80}\n\n.. contents:: <script>{RUN}</script>\n\n:<b onclick={RUN}>: <script>{RUN}</script>\n"),
    (REST, f".. code:: <script>\n\n   </pre><script>{RUN}</script>\n\n.. unknown:: <script>{RUN}</script>\n\n   </pre><script>{RUN}</script>\n"),
    (MARKDOWN, "[" * 200_000),
    (MARKDOWN, "> " * 100_000),
    (MARKDOWN, "<b><p>" * 80_000),
    (REST, "*a " * 150_000),
    (REST, "+--+\n|  |\n" * 50_000),
    (MARKDOWN, "x" * (1 << 20)),
    (f"text/markdown; charset=\"><script>{RUN}</script>", "# plain"),
    (f"text/html; <script>{RUN}</script>", f"<script>{RUN}</script>"),
]

# Names that no upload may have, or that may not mean what they seem to.
NAMES = [
    ("<script>", "1.0", "evil-1.0.tar.gz"),
    ("../evil", "1.0", "evil-1.0.tar.gz"),
    ("evil/../../evil", "1.0", "evil-1.0.tar.gz"),
    ("+simple", "1.0", "evil-1.0.tar.gz"),
    ("evil\x00", "1.0", "evil-1.0.tar.gz"),
    ("evil\n", "1.0\r\nX-Evil: 1", "evil-1.0.tar.gz"),
    ("evil-v", f"1.0\"><script>{RUN}</script>", "evil_v-1.0.tar.gz"),
    ("evil-v", "../../1.0", "evil_v-1.0.tar.gz"),
    ("evil-f", "1.0", "../../../escaped-1.0.tar.gz"),
    ("evil-f", "1.0", "/tmp/escaped-1.0.tar.gz"),
    ("evil-f", "1.0", "evil_f-1.0<img src=x onerror=x>.tar.gz"),
    ("evil-f", "1.0", "evil_f-1.0.tar.gz?x=<script>"),
    ("evil-f", "1.0", "..\\..\\escaped-1.0.tar.gz"),
    ("evil-f", "1.0", "evil_f-1.0.tar.gz\x00.whl"),
]

RESULTS = [
    {"host": LINES[0], "platform": LINES[1], "toxversion": LINES[2], "testenvs": {LINES[3]: {
        "python": {"version": LINES[1]},
        "setup": [{"command": LINES[:4], "output": LINES[3], "retcode": 1}],
        "test": [{"command": [LINES[0]], "output": "\x1b[31m" + LINES[0] * 1000, "retcode": 0}],
    }}},
    {"testenvs": []},
    {"testenvs": {"a": None, "b": [], "c": {"test": "x"}, "d": {"test": [None, 1, {"command": {"x": 1}, "retcode": "0"}]}}},
    {"testenvs": {f"e{number}": {} for number in range(5000)}},
    [[[1]]],
    "text",
    None,
]


def zip_of(pages: dict[str, bytes | str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in pages.items():
            archive.writestr(name, content)
    return made.getvalue()


def link_zip(target: str) -> bytes:
    """A zip with a symbolic link, beside a first page."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("index.html", "front")
        link = zipfile.ZipInfo("link.html")
        link.create_system = 3
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, target)
        folder = zipfile.ZipInfo("folder")
        folder.create_system = 3
        folder.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(folder, "/etc")
        archive.writestr("folder/passwd", "escaped")
    return made.getvalue()


HTML = f"<html><head><script>{RUN}</script></head><body onload=\"{RUN}\"><img src='{EVIL}/x'>front</body></html>"


def zips() -> dict[str, bytes]:
    """Documentation by what is wrong with it."""
    front = {"index.html": HTML}
    whole = zip_of({**front, "other.html": b"x" * 1000})
    return {
        "script": zip_of({**front, "a.svg": f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"{RUN}\"/>", "x.js": RUN,
                          "a.xhtml": f"<html xmlns='http://www.w3.org/1999/xhtml'><script>{RUN}</script></html>"}),
        "traversal": zip_of({**front, "../escaped.html": "x", "../../../../../../tmp/escaped.html": "x", "/tmp/escaped.html": "x",
                             "a/../../escaped.html": "x", "..\\..\\escaped.html": "x", "C:\\escaped.html": "x", "./b.html": "x"}),
        "link": link_zip("/etc/passwd"),
        "bomb": zip_of({**front, "bomb.html": bytes(300 << 20)}),
        "count": zip_of({**front, **{f"p{number}.html": b"" for number in range(100_001)}}),
        "names": zip_of({**front, f"<script>{RUN}<.html": "x", "a\"onclick=\".html": "x", "\u202egnp.html": "x", "a\nb.html": "x",
                         "x" * 5000 + ".html": "x", "a//b.html": "x", "nul\x00.html": "x"}),
        "bytes": zip_of({**front, "mark.html": "x"}).replace(b"mark.html", b"\xff\xfe\x80k.html"),
        "twice": zip_of(front) + zip_of({"index.html": "second"}),
        "cut": whole[:-40],
        "lies": whole.replace((1000).to_bytes(4, "little"), (10**9).to_bytes(4, "little")),
        "folder": zip_of({"index.html/": "", "index.html/x.html": "x"}),
        "none": b"no zip at all",
        "empty": b"PK\x05\x06" + bytes(18),
    }


def doc_form(name: str, version: str, content: bytes) -> tuple[bytes, dict[str, str]]:
    mark = uuid.uuid4().hex
    fields = {":action": "doc_upload", "name": name, "version": version}
    head = "".join(f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items())
    head += f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="d.zip"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}", "Accept": "*/*"}


@dataclass
class Filled:
    """What was uploaded, by the pages that show it."""

    # Pages of ours: nothing in them may run.
    pages: list[str] = field(default_factory=list)
    # Pages of documentation: they are confined by their policy.
    documents: list[str] = field(default_factory=list)


def fill(client: Client, user: str, index: str) -> Filled:
    """Uploads everything to an index of the user that the client is signed in as."""
    said = {"title": LINES[0], "description": LINES[1]}
    client.expect(200, "PATCH", f"/{user}", said)
    client.expect(200, "PATCH", f"/{index}", said)
    filled = Filled(["/", f"/{user}", f"/{index}", f"/{index}/+changes", "/+changes", "/+status", "/+searchhelp"])
    for number, (kind, text) in enumerate(DESCRIPTIONS):
        line, address = LINES[number % len(LINES)], ADDRESSES[number % len(ADDRESSES)]
        more = dict.fromkeys(("summary", "author", "author_email", "maintainer", "license", "keywords", "platform"), line)
        more |= {"home_page": address, "download_url": address, "project_urls": f"{line}, {address}", "requires_dist": line}
        more |= {"classifiers": line, "provides_extras": line, "requires_python": line}
        more |= {"description": text, "description_content_type": kind}
        name = f"evil-{number}"
        answer = client.upload(index, name, "1.0", *wheel(name, "1.0"), more)
        assert answer.status == 200, (number, answer.status, answer.body[:300])
        base = f"/{index}/{name}"
        filled.pages += [base, f"{base}/1.0", *([f"{base}/latest"] if number < 3 else [])]
    for name, version, filename in NAMES:
        client.ask("POST", f"/{index}/", *client.form(name, version, filename, b"content"))
        parts = (urllib.parse.quote(part, safe="") for part in (name, version))
        filled.pages.append(f"/{index}/{'/'.join(parts)}")
    results(client, index, filled)
    documents(client, index, filled)
    for text in LINES + ADDRESSES:
        text = urllib.parse.quote(text, safe="")
        filled.pages += [f"/+search?query={text}", f"/{index}?starts={text}", f"/{text}", f"/{index}/{text}", f"/{index}/{text}/{text}"]
    return filled


def results(client: Client, index: str, filled: Filled):
    filename, content = wheel("evil-results", "1.0")
    assert client.upload(index, "evil-results", "1.0", filename, content).status == 200
    path = urllib.parse.urlsplit(client.links(index, "evil-results")[filename]["url"]).path
    base = f"/{index}/evil-results/1.0"
    filled.pages += [base, f"{base}/+toxresults/{filename}"]
    for result in RESULTS:
        body = json.dumps(result).encode()
        answer = client.ask("POST", path, body, {"Content-Type": "application/json"})
        if answer.status == 200:
            name = answer.json()["result"].split("#")[0].rsplit("/", 1)[1]
            filled.pages.append(f"{base}/+toxresults/{filename}/{name}")
    deep = b"[" * 500_000
    client.ask("POST", path, deep, {"Content-Type": "application/json"})


def documents(client: Client, index: str, filled: Filled):
    for name, content in zips().items():
        project = f"evil-doc-{name}"
        client.ask("POST", f"/{index}/", *doc_form(project, "1.0", content))
        base = f"/{index}/{project}/1.0"
        filled.pages += [base, f"{base}/+d/index.html", f"{base}/+d/a%22onclick=%22.html", f"{base}/+d/%3Cscript%3E"]
        pages = ["index.html", "a.svg", "x.js", "a.xhtml", "link.html", "folder/passwd", "bomb.html", "escaped.html", "../escaped.html"]
        pages += ["..%2fescaped.html", "..%5c..%5cescaped.html", "%2ftmp%2fescaped.html", "nul%00.html", "p7.html", "other.html"]
        filled.documents += [f"{base}/+doc/{page}" for page in pages]


# Attributes that hold an address; those of the second line are asked for without a click.
ADDRESSED = {"href", "action", "formaction", "cite", "ping", "background", "xlink:href", "longdesc", "manifest"}
LOADED = {"src", "srcset", "data", "poster", "code", "archive"}


def complaints(html: str, host: str) -> list[str]:
    """What in a page of ours could run, or ask another host for something, if a browser read it."""
    found = []
    for element in html5lib.parse(html, namespaceHTMLElements=False).iter():
        if not isinstance(element.tag, str):
            continue
        tag = element.tag.rsplit("}", 1)[-1].lower()
        attributes = {str(name).rsplit("}", 1)[-1].lower(): value for name, value in element.attrib.items()}
        shown = f"<{tag} {attributes}>"
        if tag in {"style", "object", "embed", "applet", "base", "frame", "frameset", "portal"}:
            found.append(f"an element: {shown}")
        if tag == "script" and ("/+static/" not in attributes.get("src", "") or (element.text or "").strip()):
            found.append(f"a script: {shown} {element.text!r}")
        if tag == "meta" and attributes.get("http-equiv", "").lower() == "refresh":
            found.append(f"a way off: {shown}")
        if tag == "link" and "/+static/" not in attributes.get("href", ""):
            found.append(f"a link: {shown}")
        if tag == "iframe" and ("allow-same-origin" in attributes.get("sandbox", "allow-same-origin") or "srcdoc" in attributes):
            found.append(f"a frame that is not confined: {shown}")
        for name, value in attributes.items():
            if name.startswith("on") or name in {"style", "srcdoc"}:
                found.append(f"an attribute: {shown}")
            address = urllib.parse.urlsplit("".join(c for c in value if c > " ")) if name in ADDRESSED | LOADED else None
            if address and address.scheme.lower() not in {"", "http", "https", "mailto"}:
                found.append(f"an address: {shown}")
            loads = name in LOADED or name in {"action", "formaction"} or tag == "link"
            if address and loads and address.netloc not in {"", host}:
                found.append(f"another host: {shown}")
    return found
