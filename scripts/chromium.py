#!/usr/bin/env python3
"""Finds Chromium for the browser tests, and installs Debian's if there is none and this is root.

usage: scripts/chromium.py            prints the program

TWINPI_BROWSER names another program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Fonts that the style sheet names last, so that pages look the same wherever the screenshots are made.
PACKAGES = ("chromium", "fonts-dejavu-core", "fonts-liberation")
INSTALL_SECONDS = 600


def program() -> Path:
    """The browser's program."""
    named = os.environ.get("TWINPI_BROWSER")
    if named:
        if not os.access(named, os.X_OK):
            sys.exit(f"TWINPI_BROWSER names {named}, and there is no such program")
        return Path(named)
    return found() or install()


def found() -> Path | None:
    """The first of the usual programs that is here."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return Path(path)
    return None


def install() -> Path:
    """Installs Chromium, where that is possible without asking anybody."""
    line = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    hint = f"the browser tests need Chromium: install it ({' '.join(line)}), or name one in TWINPI_BROWSER"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(hint)
    print(f"installing {', '.join(PACKAGES)} (once) ...", file=sys.stderr, flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update", "--quiet"], line):
        done = subprocess.run(step, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_SECONDS)
    # Lists that could not all be fetched may still be enough, so only the last step has to succeed.
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-3000:]}\n{hint}")
    return found() or sys.exit(hint)


if __name__ == "__main__":
    print(program())
