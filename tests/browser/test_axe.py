"""Each kind of page, in light and dark, wide and narrow: judged by axe-core, and nothing stands out of the window."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
import pytest
import scene
from conftest import NARROW, WIDE, overflow

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
GRAVE = ("serious", "critical")
# What colours can change; the other rules judge both schemes alike.
OF_COLOURS = ["color-contrast", "link-in-text-block"]
RUN = "rules => axe.run(document, { resultTypes: ['violations'], ...(rules && { runOnly: rules }) })"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_page_has_grave_findings(pair, open_context, scheme, size):
    # The policy of our pages forbids what is put into them from outside, and axe-core is.
    context, watch = open_context(size, color_scheme=scheme, bypass_csp=True)
    watch.wanted = {404}
    page = context.new_page()
    rules = OF_COLOURS if scheme == "dark" else None
    wrong = []
    # A replica draws with the same code; its own is what it tells of itself.
    for node, names in ((pair.master, scene.pages()), (pair.replica, scene.OF_A_REPLICA)):
        for name in names:
            page.goto(node.url + scene.pages()[name])
            page.evaluate(AXE)
            found = page.evaluate(RUN, rules)
            for finding in found["violations"]:
                if finding["impact"] in GRAVE:
                    targets = [one["target"] for one in finding["nodes"]]
                    wrong.append(f"{node.name} {name}: {finding['id']} {finding['help']} {targets[:5]}")
            wrong += [f"{node.name} {name}: stands out: {one}" for one in overflow(page)]
    assert wrong == []


def test_axe_would_find_something(pair, open_context):
    """The judge is awake: what is wrong on purpose is found."""
    context, _ = open_context(bypass_csp=True)
    page = context.new_page()
    page.goto(pair.master.url + "/")
    page.evaluate(AXE)
    page.evaluate("document.querySelector('label[for=find]').remove(), document.querySelector('#find').removeAttribute('placeholder')")
    found = page.evaluate("axe.run()")
    assert "label" in [finding["id"] for finding in found["violations"] if finding["impact"] in GRAVE]
