#!/usr/bin/env python3
"""Makes .venv with the real clients (tests/clients/requirements.txt), again when that file changes.

usage: scripts/clients_venv.py            prints the folder with the programs
       scripts/clients_venv.py compat     the same for .venv-compat, with devpi-server (tests/compat/requirements.txt)
       scripts/clients_venv.py browser    the same for .venv-browser, with what drives a browser (tests/browser/requirements.txt)
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"clients": ROOT / ".venv", "compat": ROOT / ".venv-compat", "browser": ROOT / ".venv-browser"}


def ensure(tests: str = "clients") -> Path:
    """Makes the venv for these tests unless it is there already; gives its folder of programs."""
    requirements, folder = ROOT / "tests" / tests / "requirements.txt", FOLDERS[tests]
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    made = folder / "made-from"
    programs = folder / "bin"
    if made.is_file() and made.read_text() == wanted and (programs / "python").exists():
        return programs
    names = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
    print(f"making {folder.name} with {', '.join(names)} (once) ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, stdout=sys.stderr)
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "-r", requirements], check=True, stdout=sys.stderr)
    made.write_text(wanted)
    return programs


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["compat"], ["browser"]):
        sys.exit(__doc__)
    print(ensure(*sys.argv[1:]))
