"""Moments in which a change of the master could lose what was answered for."""

from __future__ import annotations

import threading

import pytest

from conftest import INDEX, eventually
from nodes import Client, run, wheel
from proxy import NOTHING, Trouble


def command(node, name, *more):
    return run([*node.command(name), "--serverdir", node.data, *more])


def test_a_master_that_lives_yields_also_to_one_whose_connection_broke(cluster):
    cluster.start()
    cluster.proxy.trouble = Trouble(is_refusing=True)
    cluster.proxy.reset()
    eventually(lambda: cluster.state(cluster.replica) == "unreachable")
    for number in range(3):
        cluster.uploaded(cluster.master, "meanwhile", f"1.{number}")
    cluster.proxy.trouble = NOTHING
    command(cluster.replica, "promote")
    assert len(cluster.links(cluster.replica, "meanwhile")) == 3
    assert cluster.upload(cluster.master, "late").status == 503
    cluster.uploaded(cluster.replica, "after")


@pytest.mark.parametrize("how", ["demoted", "stopped"])
def test_what_waits_at_an_old_master_is_not_answered_for_when_it_ends(cluster, how):
    """A master that was started holds changes until it had a moment to learn that it was replaced."""
    cluster.start()
    cluster.uploaded(cluster.replica, "before")
    cluster.equal()
    old, new = cluster.master, cluster.replica
    old.stop(kill=True)
    # Nobody can tell the old one.
    cluster.proxy.trouble = Trouble(is_refusing=True)
    command(new, "promote")
    filename, content = wheel("late", "1.0")
    answers = []
    old.start()

    def upload():
        with Client(old.url, timeout=30) as client:
            client.auth = cluster.auth
            answers.append(client.upload(INDEX, "late", "1.0", filename, content).status)

    thread = threading.Thread(target=upload)
    thread.start()
    eventually(lambda: list((old.data / ".staging").iterdir()), what="the change that waits")
    if how == "demoted":
        command(old, "demote", "--primary-url", new.url)
    else:
        assert old.stop() == 0
    thread.join(30)
    assert answers == [503]
    assert cluster.links(new, "late") == {}
    assert not list(old.data.glob("lost-*"))
