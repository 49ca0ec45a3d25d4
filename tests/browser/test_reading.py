"""Reading about a package: its description, its documentation in a frame, its test results."""

from __future__ import annotations

import pytest
import scene
from playwright.sync_api import expect


def test_from_a_search_to_the_description_and_the_documentation(pair, page):
    for node in pair.nodes():
        page.goto(node.url + "/")
        page.get_by_role("combobox", name="Search packages").fill("logarithmic")
        page.keyboard.press("Enter")
        page.wait_for_url("**/+search?query=logarithmic")
        page.get_by_role("main").get_by_role("link", name="1.1.0").click()
        page.wait_for_url("**/ann/prod/plotline/1.1.0")
        description = page.get_by_role("region", name="Description")
        expect(description.locator("strong")).to_have_text("line charts")
        expect(description.get_by_role("columnheader")).to_have_text(["Format", "Read", "Written"])
        expect(description.locator("pre").first).to_contain_text('plotline.Chart(title="Rainfall"')
        page.get_by_role("link", name="Read the documentation").click()
        page.wait_for_url("**/plotline/1.1.0/+d/index.html")
        manual = page.frame_locator("iframe")
        expect(manual.get_by_role("heading", name="plotline manual")).to_be_visible()
        manual.get_by_role("link", name="axes", exact=True).click()
        expect(manual.get_by_role("heading", name="Axes and scales")).to_be_visible()
        expect(manual.locator("nav")).to_have_css("border-bottom-style", "solid")


@pytest.mark.parametrize(
    ("address", "selector", "text"),
    [
        ("/ann/prod/ledgerkit/2.4", "li em", "never"),
        ("/ann/prod/ledgerkit/latest", "pre", 'book = Book("2026")'),
        ("/ann/dev/quietlog/0.3.dev4", "pre", "    quietlog --follow app.log"),
    ],
)
def test_other_notations_are_drawn_too(pair, page, address, selector, text):
    page.goto(pair.master.url + address)
    description = page.get_by_role("region", name="Description")
    expect(description.locator(selector).first).to_contain_text(text)


def test_test_results_lead_to_what_was_run(pair, page):
    page.goto(f"{pair.replica.url}/ann/prod/plotline/1.1.0")
    expect(page.get_by_text("failed", exact=True)).to_have_count(1)
    page.get_by_role("link", name="py313").click()
    expect(page.get_by_role("main")).to_contain_text("assert 3 == 4")
