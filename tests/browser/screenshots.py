#!/usr/bin/env python3
"""Writes a PNG of each page in light and dark, wide and narrow, into a folder. TWINPI_BINARY names the program.

usage: screenshots.py FOLDER [PAGE ...]
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import scene
from conftest import NARROW, PATIENCE_MS, WIDE, chromium
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

SIZES = {"wide": WIDE, "narrow": NARROW}
# No more of a long page than this is kept: who wants the rest opens it.
HEIGHT_MAX = 1500
# Colours in a file. With fewer, those that are rare go: a tag, the name of the program.
COLOURS = 256


def main():
    """Fills a pair of nodes and takes the pictures of the pages that are named, or of all."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, sync_playwright() as play:
        pair = scene.start_pair(Path(data), scene.binary())
        try:
            scene.fill(pair)
            browser = play.chromium.launch(executable_path=str(chromium.program()))
            size = sum(shots(browser, pair, folder, names))
            browser.close()
        finally:
            pair.stop()
    print(f"{size // 1000} kB in {folder}")


def shots(browser: Browser, pair: scene.Pair, folder: Path, names: list[str]):
    """Takes all pictures; gives the size of each."""
    for scheme in ("light", "dark"):
        for width, (across, down) in SIZES.items():
            context = browser.new_context(
                viewport={"width": across, "height": down}, color_scheme=scheme, reduced_motion="reduce", permissions=["clipboard-write"]
            )
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            views = {name: pair.master.url + address for name, address in scene.pages().items()}
            views["status-replica"] = pair.replica.url + scene.pages()["status"]
            for name, address in views.items():
                if not names or name in names:
                    page.goto(address)
                    target = folder / f"{name}-{width}-{scheme}.png"
                    yield save(page, target, across)
            context.close()


def save(page: Page, target: Path, across: int) -> int:
    """One picture, with few colours; gives its size."""
    height = min(HEIGHT_MAX, page.evaluate("document.documentElement.scrollHeight"))
    clip = {"x": 0, "y": 0, "width": across, "height": height}
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip, animations="disabled")))
    picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    return target.stat().st_size


if __name__ == "__main__":
    main()
