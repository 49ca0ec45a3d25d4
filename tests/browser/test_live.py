"""Pages that keep themselves up to date, and buttons that copy."""

from __future__ import annotations

import scene
from playwright.sync_api import expect

from nodes import Client, wheel


def test_an_upload_through_the_replica_appears_on_the_masters_changes(pair, page):
    page.goto(f"{pair.master.url}/+changes")
    page.evaluate("window.neverReloaded = true")
    main = page.get_by_role("main")
    expect(main).not_to_contain_text("latecomer")
    with Client(pair.replica.url) as client:
        client.login("ben", scene.PASSWORD)
        scene.uploads(client, "ben/dev", "latecomer", "1.0", wheel("latecomer", "1.0"))
    row = main.get_by_role("row").filter(has_text="latecomer")
    expect(row).to_be_visible()
    expect(row).to_contain_text("ben")
    # The tag of the replica, on the row that is kept up to date too.
    expect(row).to_contain_text("all of it")
    assert page.evaluate("window.neverReloaded"), "the page was not loaded again"


def test_a_change_through_the_replica_moves_the_masters_status(pair, page):
    pair.replica.wait_serial(pair.master.serial())
    page.goto(f"{pair.master.url}/+status")
    page.evaluate("window.neverReloaded = true")
    main = page.get_by_role("main")
    expect(main.locator("#verdict .tag")).to_have_text("ok")
    row = main.locator("#replicas").get_by_role("row").nth(1)
    expect(row).to_contain_text(str(pair.master.serial()))
    with Client(pair.replica.url) as client:
        client.login("ben", scene.PASSWORD)
        scene.uploads(client, "ben/dev", "moves-status", "1.0", wheel("moves-status", "1.0"))
    serial = str(pair.master.serial())
    expect(main.get_by_role("heading", level=1)).to_contain_text(f"at serial {serial}")
    expect(row).to_contain_text(serial)
    assert page.evaluate("window.neverReloaded"), "the page was not loaded again"


def test_a_master_that_is_gone_shows_by_itself(tmp_path, browser):
    """On a pair of its own: the status says what is wrong and what to do, without a reload."""
    pair = scene.start_pair(tmp_path, scene.binary())
    try:
        page = browser.new_page()
        page.goto(f"{pair.replica.url}/+status")
        verdict = page.locator("#verdict")
        expect(verdict.locator(".tag")).to_have_text("ok")
        pair.master.stop()
        expect(verdict.locator(".tag")).to_have_text("degraded", timeout=30_000)
        expect(verdict).to_contain_text("The master has not answered")
        page.close()
    finally:
        pair.stop()


def test_the_changes_of_an_index_are_its_own(pair, page):
    page.goto(f"{pair.master.url}/ann/prod/+changes")
    page.evaluate("window.neverReloaded = true")
    main = page.get_by_role("main")
    with Client(pair.replica.url) as client:
        client.login("ben", scene.PASSWORD)
        scene.uploads(client, "ben/dev", "elsewhere", "1.0", wheel("elsewhere", "1.0"))
        client.login("ann", scene.PASSWORD)
        scene.uploads(client, "ann/prod", "nearby", "1.0", wheel("nearby", "1.0"))
    expect(main.get_by_role("row").filter(has_text="nearby")).to_be_visible()
    expect(main).not_to_contain_text("elsewhere")
    assert page.evaluate("window.neverReloaded")


def test_what_is_closed_shows_to_its_readers_only(pair, open_context):
    page = open_context()[0].new_page()
    page.goto(f"{pair.master.url}/+changes")
    with Client(pair.master.url) as client:
        client.login("ops", scene.PASSWORD)
        scene.uploads(client, "ops/vault", "vaultdoor", "1.0", wheel("vaultdoor", "1.0"))
        client.login("ben", scene.PASSWORD)
        scene.uploads(client, "ben/dev", "afterwards", "1.0", wheel("afterwards", "1.0"))
    main = page.get_by_role("main")
    expect(main.get_by_role("row").filter(has_text="afterwards")).to_be_visible()
    expect(main).not_to_contain_text("vault")


def test_the_install_command_is_copied(pair, open_context):
    context, _ = open_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{pair.replica.url}/ann/prod/plotline")
    button = page.get_by_role("button", name="Copy: Install with pip")
    button.click()
    expect(button).to_have_text("Copied")
    expect(page.get_by_role("status").filter(has_text="Copied to the clipboard")).to_have_count(1)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"pip install --index-url {pair.replica.url}/ann/prod/+simple/ plotline"
