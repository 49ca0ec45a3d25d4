"""Finding a package in a browser: by typing, by keyboard alone, and without script."""

from __future__ import annotations

import pytest
import scene
from conftest import NARROW
from playwright.sync_api import expect


def test_a_package_is_found_from_the_root_page(pair, page):
    for node in pair.nodes():
        page.goto(node.url + "/")
        field = page.get_by_role("combobox", name="Search packages")
        field.click()
        field.press_sequentially("charts")
        field.press("Enter")
        page.wait_for_url("**/+search?query=charts")
        page.get_by_role("main").get_by_role("link", name="plotline", exact=True).first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("plotline")
        expect(page.get_by_role("main")).to_contain_text("Line charts from tables")


def test_names_are_suggested_while_one_types(pair, page):
    page.goto(pair.master.url + "/")
    field = page.get_by_role("combobox", name="Search packages")
    field.press_sequentially("ledg")
    option = page.get_by_role("option", name="ledgerkit ann/prod")
    expect(option).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(option).to_be_hidden()
    field.press_sequentially("e")
    page.keyboard.press("ArrowDown")
    expect(option).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ann/prod/ledgerkit")
    page.go_back()
    with page.expect_response("**/+search/suggest?query=vaultk") as told:
        field.fill("vaultk")
    assert told.value.json()["result"] == [], "names of closed indexes are for their readers"
    expect(page.get_by_role("option")).to_have_count(0)


def test_the_keyboard_alone_leads_to_a_package(pair, page):
    page.goto(pair.master.url + "/")
    focused = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "Skip to content"
    assert page.evaluate(f"{focused}.getBoundingClientRect().left") >= 0, "what has the focus can be seen"
    for _ in range(3):
        if page.evaluate(f"{focused}.id") == "find":
            break
        page.keyboard.press("Tab")
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.type("double-entry")
    page.keyboard.press("Enter")
    page.wait_for_url("**/+search?query=double-entry*")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(f"{focused}.textContent").strip() == "ledgerkit":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/ann/prod/ledgerkit")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


@pytest.mark.parametrize("size", [(1280, 900), NARROW], ids=["wide", "narrow"])
def test_reading_searching_and_paging_need_no_script(pair, open_context, size):
    context, _ = open_context(size, java_script_enabled=False)
    page = context.new_page()
    page.goto(pair.master.url + "/")
    page.get_by_role("searchbox").fill("part")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**/+search?query=part")
    page.get_by_role("link", name="Next").click()
    page.wait_for_url("**page=2")
    page.goto(f"{pair.master.url}/load/many")
    expect(page.get_by_role("link", name="part-000", exact=True)).to_be_visible()
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_role("link", name=f"part-{scene.MANY - 1:03}", exact=True)).to_be_visible()
    page.goto(f"{pair.master.url}/ann/prod/plotline")
    command = page.get_by_label("Install with pip").first
    expect(command).to_have_text(f"pip install --index-url {pair.master.url}/ann/prod/+simple/ plotline")


def test_what_is_closed_is_found_by_its_readers_only(pair, open_context):
    address = f"{pair.master.url}/+search?query=vaultkeeper"
    page = open_context()[0].new_page()
    page.goto(address)
    expect(page.get_by_role("main")).to_contain_text("Nothing was found")
    expect(page.get_by_role("main").get_by_role("link", name="vaultkeeper")).to_have_count(0)
    credentials = {"username": "ops", "password": scene.PASSWORD}
    context, watch = open_context(http_credentials=credentials)
    # The browser is asked for a name once, where it is told that it may give one.
    watch.wanted = {401}
    page = context.new_page()
    page.goto(f"{pair.master.url}/+signin?to=/%2Bsearch%3Fquery%3Dvaultkeeper")
    page.wait_for_url(address)
    page.get_by_role("main").get_by_role("link", name="vaultkeeper", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("vaultkeeper")
