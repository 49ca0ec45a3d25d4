#!/usr/bin/env python3
"""Makes .venv with the real clients (tests/clients/requirements.txt), again when that file changes.

usage: scripts/clients_venv.py        prints the folder with the programs
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "tests/clients/requirements.txt"
FOLDER = ROOT / ".venv"


def ensure() -> Path:
    """Makes the venv unless it is there already; gives its folder of programs."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    made = FOLDER / "made-from"
    programs = FOLDER / "bin"
    if made.is_file() and made.read_text() == wanted and (programs / "python").exists():
        return programs
    print(f"making {FOLDER.name} with pip, twine, uv and devpi-client (once) ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True, stdout=sys.stderr)
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "-r", REQUIREMENTS], check=True, stdout=sys.stderr)
    made.write_text(wanted)
    return programs


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(__doc__)
    print(ensure())
