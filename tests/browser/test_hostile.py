"""What was uploaded to do harm is looked at, and does none: nothing runs, nothing is asked for elsewhere."""

from __future__ import annotations

import importlib.util
import sys

import hostile
import pytest
import scene
from playwright.sync_api import expect

from nodes import Client

# What a link may lead to; `:` is that of an address which is none, and leads nowhere.
SAFE_SCHEMES = {"http:", "https:", "mailto:", ":"}


@pytest.fixture(scope="module")
def harmed(pair):
    with Client(pair.master.url) as client:
        hostile.fill(client)
    return pair.master.url


def runs_nothing(page, address: str) -> list[str]:
    """Opens a page; what is wrong with it."""
    page.goto(address)
    found = page.evaluate(
        """() => ({
            ran: "RAN" in window,
            schemes: [...document.links].map((link) => link.protocol),
            active: [...document.querySelectorAll("main script, main iframe, main object, main embed, main style, main link, main meta, main base")]
                .map((one) => one.tagName),
            handlers: [...document.querySelectorAll("main *")]
                .flatMap((one) => [...one.attributes].filter((a) => /^on|^style$|^ping$/.test(a.name)).map((a) => a.name)),
            hidden: document.querySelector("main").getBoundingClientRect().height < 10,
        })"""
    )
    wrong = [f"scheme {scheme}" for scheme in found["schemes"] if scheme not in SAFE_SCHEMES]
    wrong += [f"element {name}" for name in found["active"]] + [f"attribute {name}" for name in found["handlers"]]
    wrong += [word for word in ("ran", "hidden") if found[word]]
    return [f"{address}: {one}" for one in wrong]


def test_the_watch_is_awake(harmed, open_context):
    """Documentation shown by itself may do all of this, so there it is noticed."""
    context, watch = open_context()
    page = context.new_page()
    page.goto(f"{harmed}/{hostile.INDEX}/alarm/1/+doc/index.html")
    page.wait_for_load_state("networkidle")
    heard = "\n".join(watch.complaints)
    watch.complaints.clear()
    for one in ("dialog: RAN", "request to another host: https://evil.invalid/x.png", "script:"):
        assert one in heard


def test_descriptions_run_nothing_and_keep_their_text(harmed, open_context):
    context, watch = open_context()
    context.on("console", lambda message: watch.complaints.append(f"console: {message.text}"))
    page = context.new_page()
    wrong = []
    for name in hostile.descriptions():
        wrong += runs_nothing(page, f"{harmed}/{hostile.INDEX}/{name}/1")
        description = page.get_by_role("region", name="Description")
        if "left" not in description.inner_text():
            wrong.append(f"{name}: the text is lost: {description.inner_text()[:200]!r}")
        if "root:x:" in page.content():
            wrong.append(f"{name}: shows a file of the server")
    assert wrong == []


def test_other_pages_run_nothing(harmed, open_context):
    context, watch = open_context()
    watch.wanted = {400, 401, 404}
    page = context.new_page()
    user, index = f"/{hostile.OWNER}", f"/{hostile.INDEX}"
    wrong = []
    result = f"{index}/meta/1/+toxresults/meta-1-py3-none-any.whl"
    for address in ("/", user, index, f"{index}/meta", f"{index}/meta/1", result, "/+search?query=left", "/+changes", f"{index}/+changes", *hostile.ADDRESSES):
        wrong += runs_nothing(page, harmed + address)
    page.goto(harmed + result)
    page.get_by_role("main").get_by_role("link").first.click()
    wrong += runs_nothing(page, page.url)
    assert wrong == []


def test_signing_in_leads_nowhere_else(harmed, open_context):
    context, watch = open_context(http_credentials={"username": "ops", "password": scene.PASSWORD})
    watch.wanted = {401}
    page = context.new_page()
    for lead in hostile.LEADS:
        assert runs_nothing(page, f"{harmed}/+signin?to={lead}") == []
        assert page.url == f"{harmed}/", lead


def test_names_that_are_suggested_run_nothing(harmed, page):
    page.goto(harmed + "/")
    page.get_by_role("combobox").press_sequentially("meta")
    expect(page.get_by_role("option").first).to_be_visible()
    assert page.evaluate("document.querySelectorAll('#names script, #names img').length") == 0


def test_documentation_reaches_nothing_outside_of_its_frame(harmed, open_context):
    # The reader is signed in, and may read what the author of the documentation may not.
    context, watch = open_context(http_credentials={"username": "ops", "password": scene.PASSWORD})
    watch.wanted = {401}
    # What a page from nowhere may not ask is told on the console; the requests themselves go to this node only.
    watch.quiet = ("Access to fetch at", "net::ERR_FAILED", "Unsafe attempt to initiate navigation", "Failed to load resource")
    page = context.new_page()
    page.goto(f"{harmed}/+signin?to=/ops/vault")
    expect(page.get_by_role("main")).to_contain_text("vaultkeeper")
    for word in ("+d", "+doc"):
        address = f"{harmed}/{hostile.INDEX}/meta/1/{word}/index.html"
        page.goto(address)
        inside = page.frame_locator("iframe") if word == "+d" else page
        told = inside.locator("#told")
        expect(told).to_have_text("reached:")
        assert page.url == address and page.evaluate("'RAN' in window") is False


def test_what_the_clients_tests_upload_runs_nothing_either(pair, open_context):
    """The same table that an HTML parser reads in tests/clients, with zips and names of its own."""
    place = importlib.util.spec_from_file_location("clients_hostile", scene.ROOT / "tests/clients/hostile.py")
    table = importlib.util.module_from_spec(place)
    sys.modules[place.name] = table
    place.loader.exec_module(table)
    with Client(pair.master.url) as client:
        client.expect(201, "PUT", "/eve", {"password": scene.PASSWORD})
        client.login("eve", scene.PASSWORD)
        client.expect(200, "PUT", "/eve/dev", {"type": "stage", "volatile": "True", "bases": ""})
        filled = table.fill(client, "eve", "eve/dev")
    context, watch = open_context()
    watch.wanted = {400, 401, 404, 422}
    page = context.new_page()
    wrong = []
    # Frames of documentation are looked at above; what addresses carry, too.
    for address in (one for one in filled.pages if one.startswith("/eve/dev/evil-") and "/+d/" not in one):
        wrong += runs_nothing(page, pair.master.url + address)
        if table.MARK in page.title():
            wrong.append(f"{address}: ran")
    assert wrong == []
