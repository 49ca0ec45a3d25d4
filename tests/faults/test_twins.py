"""A replica's folder that was copied and started twice: two nodes with one uuid."""

from __future__ import annotations

import shutil
import signal

from conftest import eventually


def test_two_replicas_with_one_uuid_are_told_and_both_follow(cluster):
    cluster.start()
    cluster.uploaded(cluster.master, "before")
    cluster.equal()
    cluster.replica.stop()
    twin = cluster.node("twin", "replica", master=cluster.master, master_url=cluster.proxy.url)
    shutil.copytree(cluster.replica.data, twin.data)
    cluster.replica.start()

    def known():
        [replica] = cluster.status(cluster.master)["polling_replicas"].values()
        return replica

    # A restart is no twin.
    for number in range(3):
        cluster.uploaded(cluster.master, "restarted", f"1.{number}")
        cluster.equal()
        cluster.replica.stop()
        cluster.replica.start()
    assert known()["twins"] is False
    twin.start()
    cluster.replicas.append(twin)
    for number in range(4):
        cluster.uploaded(cluster.master, "both", f"1.{number}")
        cluster.equal()
    assert eventually(lambda: known()["twins"])
    assert b"two replicas take turns under the uuid" in cluster.master.log.read_bytes()
    # That all have a change is not said because one of them has it.
    twin.process.send_signal(signal.SIGSTOP)
    cluster.uploaded(cluster.master, "one")
    serial = cluster.master.serial()
    cluster.replica.wait_serial(serial)
    with cluster.client(cluster.master) as client:
        answer = client.ask("GET", f"/+wait?serial={serial}&nodes=all&timeout=2")
        assert answer.status == 504, answer.body
        twin.process.send_signal(signal.SIGCONT)
        client.expect(200, "GET", f"/+wait?serial={serial}&nodes=all&timeout=60")
    cluster.equal()
