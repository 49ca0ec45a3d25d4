"""One Chromium and one pair of nodes for all tests; what a page must not do fails the test that opened it."""

from __future__ import annotations

import sys
import urllib.parse
from dataclasses import dataclass, field

import pytest
import scene
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

sys.path.insert(0, str(scene.ROOT / "scripts"))

import chromium  # noqa: E402

# Pages come from this machine: what takes longer than this does not come.
PATIENCE_MS = 15_000
WIDE, NARROW = (1280, 900), (390, 800)


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> scene.Pair:
    """A master and a replica, filled; both end in order with status 0."""
    pair = scene.start_pair(tmp_path_factory.mktemp("pair"), scene.binary())
    scene.fill(pair)
    yield pair
    statuses = pair.stop()
    assert statuses == (0, 0), pair.master.tail() + pair.replica.tail()


@pytest.fixture(scope="session")
def browser() -> Browser:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(chromium.program()))
        yield browser
        browser.close()


@dataclass
class Watch:
    """What happened in a context that must not happen: a complaint on the console, a failure, a dialog, a stranger."""

    hosts: set[str]
    complaints: list[str] = field(default_factory=list)
    # Statuses that a test means to get.
    wanted: set[int] = field(default_factory=set)
    # How complaints begin that a test means to hear.
    quiet: tuple[str, ...] = ()

    def follow(self, context: BrowserContext):
        context.on("console", self._console)
        context.on("weberror", lambda error: self.complaints.append(f"script: {error.error}"))
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)
        context.on("dialog", self._dialog)

    def _console(self, message):
        # A status that is wanted is also told on the console.
        told = message.text.startswith("Failed to load resource: the server responded with a status of")
        if message.text.startswith(self.quiet):
            return
        if message.type in ("error", "warning") and not (told and self._is_wanted(message.text)):
            self.complaints.append(f"console {message.type}: {message.text} at {message.location.get('url')}")

    def _is_wanted(self, text: str) -> bool:
        return any(f"status of {status} " in text for status in self.wanted)

    def _request(self, request):
        if urllib.parse.urlsplit(request.url).netloc not in self.hosts:
            self.complaints.append(f"request to another host: {request.url[:200]}")

    def _failed(self, request):
        # What a page gives up itself when it is left is no failure.
        if request.failure != "net::ERR_ABORTED" and request.failure not in self.quiet:
            self.complaints.append(f"failed: {request.url} {request.failure}")

    def _response(self, response):
        if 400 <= response.status and response.status not in self.wanted:
            self.complaints.append(f"{response.status}: {response.url}")

    def _dialog(self, dialog):
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def open_context(browser, pair):
    """Makes contexts whose misbehaviour is found at the end of the test."""
    hosts = {urllib.parse.urlsplit(node.url).netloc for node in pair.nodes()}
    made: list[tuple[BrowserContext, Watch]] = []

    def make(size=WIDE, **options) -> tuple[BrowserContext, Watch]:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        watch = Watch(hosts)
        watch.follow(context)
        made.append((context, watch))
        return context, watch

    yield make
    for context, _ in made:
        context.close()
    assert [watch.complaints for _, watch in made if watch.complaints] == []


@pytest.fixture
def page(open_context) -> Page:
    """A page of a wide window, as most people have it."""
    return open_context()[0].new_page()


def overflow(page: Page) -> list[str]:
    """What stands out of the window to the right, if the page can be scrolled there."""
    return page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            return [...document.querySelectorAll("body *")]
                .filter((one) => width < one.getBoundingClientRect().right)
                .map((one) => `${one.tagName}.${one.className} ${Math.round(one.getBoundingClientRect().right)}`)
                .slice(0, 10);
        }"""
    )
