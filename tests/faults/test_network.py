"""What happens on the way between a replica and its master."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import INDEX, eventually
from nodes import Client, wheel
from proxy import CHANGES, Trouble


def test_a_partition_is_read_through_and_healed_without_a_new_copy(cluster):
    cluster.start()
    for number in range(20):
        cluster.uploaded(cluster.master, f"p{number}", content=b"z" * 50_000)
    cluster.equal()
    cluster.proxy.trouble = Trouble(is_refusing=True)
    cluster.proxy.reset()
    for _ in range(3):
        assert cluster.page(cluster.replica, "p3") == 200
        assert cluster.upload(cluster.replica, "late").status in (502, 503)
        time.sleep(0.5)
    cluster.uploaded(cluster.master, "meanwhile")
    eventually(lambda: cluster.state(cluster.replica) == "unreachable", what="the state")
    before = cluster.proxy.passed["answers"]
    cluster.proxy.heal()
    cluster.equal()
    assert cluster.proxy.passed["answers"] - before < 100_000, "only what is new is sent"


def test_where_answers_are_lost_one_change_stands(cluster):
    cluster.start()
    cluster.proxy.trouble = Trouble(only=CHANGES, mute="answers")
    key = {"X-TWINPI-RECEIPT": secrets.token_urlsafe(18)}
    filename, packed = wheel("hello", "1.0")
    body, headers = Client.form("hello", "1.0", filename, packed)

    def send():
        with cluster.client(cluster.replica) as client:
            return client.ask("POST", f"/{INDEX}/", body, {**headers, **key})

    answer = send()
    # The change came back over the log, or nobody can say; it is never said that it failed.
    assert answer.status in (200, 502, 504), (answer.status, answer.body)
    cluster.proxy.heal()
    again = send()
    assert again.status == 200, again.body
    cluster.equal()
    with cluster.client(cluster.master) as client:
        log = client.expect(200, "GET", "/+changes?since=-1").json()
    told = [change for change in log["result"]["changes"] if "hello" in str(change)]
    assert len(told) == 1, told


def test_a_connection_that_went_silent_is_given_up(cluster):
    cluster.start()
    cluster.proxy.trouble = Trouble(mute="both")
    cluster.uploaded(cluster.master, "hello")
    # A poll of 30 s and a little more; the system itself would wait for a quarter of an hour.
    eventually(lambda: cluster.state(cluster.replica) == "unreachable", 50, "the state")
    # Connections that are silent stay so: only new ones are good.
    cluster.proxy.trouble = Trouble()
    cluster.equal()


def test_a_page_of_somebody_else_changes_nothing(cluster):
    cluster.start()
    before = cluster.position(cluster.replica)
    cluster.proxy.trouble = Trouble(is_captive=True)
    cluster.proxy.reset()
    eventually(lambda: cluster.state(cluster.replica) not in ("following", "catching-up"), what="the state")
    answer = cluster.upload(cluster.replica, "hello")
    assert answer.status in (502, 503), (answer.status, answer.body)
    assert cluster.position(cluster.replica) == before
    cluster.proxy.heal()
    cluster.uploaded(cluster.replica, "hello")
    cluster.equal()


@pytest.mark.parametrize(
    "trouble", [Trouble(loss=0.5, delay=0.15), Trouble(rate=125_000)], ids=["loss and delay", "1 Mbit"]
)
def test_a_bad_line_is_slow_and_holds_up_nobody(cluster, trouble):
    cluster.start()
    cluster.uploaded(cluster.replica, "before")
    cluster.equal()
    cluster.proxy.trouble = trouble
    cluster.uploaded(cluster.master, "large", content=secrets.token_bytes(400_000))
    slowest, end = 0.0, time.monotonic() + 3
    while time.monotonic() < end:
        began = time.monotonic()
        assert cluster.page(cluster.replica, "before") == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 0.5, slowest
    cluster.equal(60)


@pytest.mark.parametrize("at", [0, 17, 80, 300])
def test_a_turned_bit_in_the_log_is_refused_and_asked_for_again(cluster, at):
    cluster.start()
    cluster.proxy.trouble = Trouble(only=(b"GET /+changelog",), flip=at, flips=2)
    cluster.proxy.reset()
    for number in range(4):
        cluster.uploaded(cluster.master, "hello", f"1.{number}")
    eventually(lambda: cluster.proxy.done.get("flipped") == 2, what="two turned bits")
    cluster.equal()


def test_files_with_turned_bits_are_never_served(cluster):
    cluster.start()
    cluster.proxy.trouble = Trouble(only=(b"GET /ann/",), flip=1000, flips=3)
    filename, packed = wheel("hello", "1.0", b"w" * 5000)
    cluster.uploaded(cluster.master, "hello", content=b"w" * 5000)
    cluster.replica.wait_serial(cluster.master.serial())
    url = cluster.links(cluster.master, "hello")[filename]["url"]
    for _ in range(5):
        try:
            with cluster.client(cluster.replica) as client:
                answer = client.ask("GET", url, headers={"Accept": "*/*"})
            assert answer.status != 200 or answer.body == packed
        except Exception as error:
            assert not isinstance(error, AssertionError), error
    cluster.equal()
    with Client(cluster.replica.url) as client:
        assert client.expect(200, "GET", url, headers={"Accept": "*/*"}).body == packed


def test_random_faults_for_half_a_minute_break_no_guarantee(binary):
    """The torture in short; `make torture` runs it for as long as you like."""
    program = Path(__file__).with_name("torture.py")
    done = subprocess.run(
        [sys.executable, program, "--minutes", "0.5", "--replicas", "2", "--promotions", "no"],
        env={**os.environ, "TWINPI_BINARY": str(binary)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


