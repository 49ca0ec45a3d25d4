"""A server's way in and out by a folder: what devpi-export writes is read here as devpi-import reads it, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import PROGRAMS, Nodes, apart, file_bytes, picture
from nodes import Node, run


def out(program: list, data: Path, target: Path) -> Path:
    run([*program, "--serverdir", data, target])
    return target


def into(nodes: Nodes, program: str, name: str, source: Path) -> Node:
    """A node that begins with what a folder has."""
    node = nodes.add(program, name)
    line = [PROGRAMS / "devpi-import"] if program == "devpi" else [node.binary, "import"]
    run([*line, "--serverdir", node.data, "--no-root-pypi", source])
    return node.start()


def files(node: Node) -> dict[str, bytes]:
    """The files on all pages, by their path."""
    shown = picture(node, mirrors=False)
    pages = [page for path, page in shown.items() if "/+simple/" in path]
    paths = {link[0].split("#")[0].lstrip("/") for page in pages for link in page.values()}
    return file_bytes(node, paths)


def in_order(value):
    """JSON with the links of each version in one order: the folder does not say in which they came."""
    match value:
        case dict():
            shown = {key: in_order(item) for key, item in value.items()}
            if "+links" in shown:
                shown["+links"].sort(key=lambda link: link["href"])
            return shown
        case list():
            return [in_order(item) for item in value]
    return value


@pytest.fixture(scope="module")
def exported(seed, tmp_path_factory) -> Path:
    return out([PROGRAMS / "devpi-export"], seed, tmp_path_factory.mktemp("export") / "of-devpi")


def test_what_devpi_exports_is_imported_as_devpi_imports_it(nodes, exported):
    theirs, ours = into(nodes, "devpi", "devpi", exported), into(nodes, "twinpi", "ours", exported)
    found = list(apart((), in_order(picture(theirs)), in_order(picture(ours))))
    assert found == []
    held = files(ours)
    assert held and held == files(theirs)


def test_what_is_exported_here_is_imported_by_devpi(nodes, exported, tmp_path):
    ours = into(nodes, "twinpi", "first", exported)
    before, held = picture(ours, mirrors=False), files(ours)
    ours.stop()
    folder = out([ours.binary, "export"], ours.data, tmp_path / "of-twinpi")
    theirs = into(nodes, "devpi", "second", folder)
    assert files(theirs) == held
    after = picture(theirs, mirrors=False)
    assert {path for path in after if "/+simple/" in path} == {path for path in before if "/+simple/" in path}
