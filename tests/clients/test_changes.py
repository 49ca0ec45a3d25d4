"""What changed, in words; waiting for a serial; and what each node tells of the others."""

from __future__ import annotations

import threading
import time

import pytest

from conftest import PASSWORD, Index, make_index
from nodes import Client, run, wheel

pytestmark = pytest.mark.ours


def changes(client: Client, **query) -> dict:
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    return client.expect(200, "GET", f"/+changes?{pairs}").json()["result"]


def words(result: dict) -> list[str]:
    return [sentence for change in result["changes"] for sentence in change["what"]]


def put(index: Index, node, name: str, version: str = "1.0") -> int:
    filename, content = wheel(name, version)
    answer = index.upload(node, name, version, filename, content)
    assert answer.status == 200, answer.body
    return answer.serial


def test_changes_are_told_in_words_with_who_and_when(pair):
    with Client(pair.master.url) as client:
        start = client.expect(200, "GET", "/+api").serial
        index = make_index(pair)
        client.login(index.user, PASSWORD)
        put(index, pair.replica, "hello")
        client.expect(200, "PATCH", f"/{index.name}", ["volatile=False", "acl_upload=:AUTHENTICATED:"])
        client.expect(200, "PATCH", f"/{index.user}", {"email": "a@b.example", "password": "another-one"})
        client.basic(index.user, client.expect(200, "POST", "/+login", {"user": index.user, "password": "another-one"}).json()["result"]["password"])
        client.expect(200, "PATCH", f"/{index.name}", ["volatile=True"])
        client.expect(200, "DELETE", f"/{index.name}/hello/1.0")
        last = client.expect(201, "DELETE", f"/{index.name}").serial
        told = changes(client, since=start)
    said = "\n".join(words(told))
    for sentence in (
        f"{index.user} was created",
        f"{index.name} was created, a stage",
        f"{index.user} uploaded hello-1.0-py3-none-any.whl to {index.name}",
        "volatile True -> False",
        f"the password of {index.user} was changed",
        f"{index.user}: email changed",
        f"hello was deleted from {index.name}",
        f"{index.name} was deleted",
    ):
        assert sentence in said, said
    assert told["next"] == told["serial"] == last
    serials = [change["serial"] for change in told["changes"]]
    assert serials == sorted(set(serials)) and start < serials[0]
    upload = next(change for change in told["changes"] if "uploaded" in change["what"][0])
    assert upload["who"] == index.user and upload["indexes"] == [index.name]
    assert {change["time-is"] for change in told["changes"]} == {"committed"}
    for secret in (PASSWORD, "another-one", "argon2"):
        assert secret not in said


def test_a_page_goes_on_where_the_last_one_ended(pair, index):
    with Client(pair.master.url) as client:
        since = client.expect(200, "GET", "/+api").serial
        wanted = [put(index, pair.master, "pages", f"{n}.0") for n in range(5)]
        seen = []
        while len(seen) < 5:
            page = changes(client, since=since, limit=2, index=index.name)
            assert 1 <= len(page["changes"]) <= 2 and since < page["next"]
            seen += [change["serial"] for change in page["changes"]]
            since = page["next"]
        assert seen == wanted
        assert changes(client, since=since)["changes"] == []
        newest = changes(client, limit=1)["changes"]
        assert [change["serial"] for change in newest] == [wanted[-1]]
        for bad in ("since=x", "since=-2", "limit=x", "timeout=x", "index=a/b/c"):
            assert client.ask("GET", f"/+changes?{bad}").status == 400, bad
        assert client.ask("GET", "/+changes?index=nobody/nothing").status == 404


def test_a_closed_index_is_told_to_its_readers_only(pair, index):
    with index.client(pair.master) as owner, Client(pair.master.url) as stranger:
        owner.expect(200, "PATCH", f"/{index.name}", [f"acl_pkg_read={index.user}"])
        since = owner.expect(200, "GET", "/+api").serial
        serial = put(index, pair.master, "hidden")
        assert [c["serial"] for c in changes(owner, since=since)["changes"]] == [serial]
        told = changes(stranger, since=since)
        assert told["changes"] == [] and told["next"] == serial
        assert stranger.ask("GET", f"/+changes?index={index.name}").status == 401
        owner.expect(200, "DELETE", f"/{index.name}/hidden")
        owner.expect(201, "DELETE", f"/{index.name}")
        assert "hidden" not in "\n".join(words(changes(stranger, since=since)))
        assert "hidden" in "\n".join(words(changes(owner, since=since)))


@pytest.mark.parametrize("node", ["master", "replica"])
def test_whoever_waits_for_changes_is_told_at_once(pair, index, node):
    node = getattr(pair, node)
    with Client(node.url) as client:
        since = client.expect(200, "GET", "/+api").serial
        told = {}
        thread = threading.Thread(
            target=lambda: told.update(changes(client, since=since, timeout=20, index=index.name), at=time.monotonic())
        )
        thread.start()
        time.sleep(0.3)
        make_index(pair)  # of somebody else: not what is waited for
        time.sleep(0.2)
        assert thread.is_alive()
        serial = put(index, pair.master, "awaited")
        done = time.monotonic()
        thread.join(10)
        assert [change["serial"] for change in told["changes"]] == [serial]
        assert told["at"] - done < 1
        began = time.monotonic()
        assert changes(client, since=serial, timeout=1)["changes"] == []
        assert 0.9 < time.monotonic() - began < 3


def test_the_master_tells_which_replica_has_a_change_and_its_files(pair, index):
    with Client(pair.master.url) as client:
        serial = put(index, pair.master, "spread")
        uuid = pair_uuid(pair.replica)
        end = time.monotonic() + 15
        while True:
            change = changes(client, since=serial - 1)["changes"][0]
            if change["replicas"][uuid] == {"has": True, "files": True}:
                break
            assert time.monotonic() < end, change
            time.sleep(0.05)
        assert change["here"] == {"has": True, "files": True}
        replica = client.expect(200, "GET", "/+status").json()["result"]["polling_replicas"][uuid]
        assert (replica["serial"], replica["files-serial"], replica["files-missing"]) == (serial, serial, 0)
    with Client(pair.replica.url) as client:
        assert changes(client, since=serial - 1)["changes"][0]["here"] == {"has": True, "files": True}


def pair_uuid(node) -> str:
    with Client(node.url) as client:
        return client.expect(200, "GET", "/+status").json()["result"]["uuid"]


def test_waiting_ends_when_the_serial_is_here(pair, index):
    serial = put(index, pair.master, "waited")
    for node in (pair.master, pair.replica):
        with Client(node.url) as client:
            result = client.expect(200, "GET", f"/+wait?serial={serial}").json()["result"]
            assert result["reached"] is True and serial <= result["node-serial"]
            began = time.monotonic()
            result = client.expect(504, "GET", f"/+wait?serial={serial + 1000}&timeout=1").json()["result"]
            assert result["reached"] is False and 0.9 < time.monotonic() - began < 3
            for bad in ("", "serial=x", "serial=-1", "serial=99999999999", f"serial={serial}&nodes=x"):
                assert client.ask("GET", f"/+wait?{bad}").status == 400, bad


def test_waiting_for_all_nodes(own_pair):
    index = make_index(own_pair)
    uuid = pair_uuid(own_pair.replica)
    serial = put(index, own_pair.master, "everywhere")
    for node in (own_pair.master, own_pair.replica):
        with Client(node.url) as client:
            result = client.expect(200, "GET", f"/+wait?serial={serial}&nodes=all").json()["result"]
            assert [(n["uuid"], n["state"]) for n in result["nodes"]] == [(uuid, "has")]
    with Client(own_pair.master.url) as client:
        told = {}

        def wait():
            answer = client.ask("GET", f"/+wait?serial={serial + 1}&nodes=all&timeout=20")
            told.update(answer.json()["result"], status=answer.status, at=time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        put(index, own_pair.master, "everywhere", "2.0")
        done = time.monotonic()
        thread.join(10)
        assert told["status"] == 200 and told["at"] - done < 1
        # One that stands still is waited for until the time is over, and named.
        own_pair.replica.process.send_signal(19)
        try:
            serial = put(index, own_pair.master, "everywhere", "3.0")
            answer = client.ask("GET", f"/+wait?serial={serial}&nodes=all&timeout=2")
            assert answer.status == 504
            assert [(n["uuid"], n["state"]) for n in answer.json()["result"]["nodes"]] == [(uuid, "lacks")]
        finally:
            own_pair.replica.process.send_signal(18)
        client.expect(200, "GET", f"/+wait?serial={serial}&nodes=all&timeout=20")


def test_waiting_on_the_command_line(own_pair):
    index = make_index(own_pair)
    serial = put(index, own_pair.replica, "everywhere")

    def wait(*options):
        done = run([*own_pair.master.command("wait"), *options], check=False)
        return done.returncode, done.stdout

    for url in (own_pair.master.url, own_pair.replica.url + "/"):
        code, said = wait("--serial", serial, "--nodes=all", url)
        assert code == 0 and f"serial {serial} is there" in said, said
    assert wait("--serial", serial + 1, "--timeout", "1", own_pair.master.url)[0] == 5
    own_pair.replica.process.send_signal(19)
    try:
        serial = put(index, own_pair.master, "everywhere", "2.0")
        code, said = wait("--serial", serial, "--nodes", "all", "--timeout", "1", own_pair.master.url)
        assert code == 5 and "lacks" in said, said
        assert wait("--serial", serial, own_pair.master.url)[0] == 0
    finally:
        own_pair.replica.process.send_signal(18)
    own_pair.replica.stop()
    code, said = wait("--serial", "1", own_pair.replica.url)
    assert code == 1 and "fatal: " in said, said
    assert wait("--serial", "1", "--nodes", "some", own_pair.master.url)[0] == 1
    assert wait(own_pair.master.url)[0] == 2


# Every field that devpi-server has in the status of either role.
FIELDS = """serverdir uuid versioninfo server-code host port outside-url serial last-commit-timestamp event-serial
    event-serial-timestamp event-serial-in-sync-at metrics role polling_replicas""".split()
OF_REPLICAS = """replica-started-at replica-metadata-in-sync-at replica-init-queue-finished-at replica-files-in-sync-at
    replica-in-sync-at replication-errors""".split() + [
    name.format(word)
    for word in ("master", "primary")
    for name in ("{}-url", "{}-uuid", "{}-serial", "{}-serial-timestamp", "{}-contacted-at", "update-from-{}-at")
]


def status(node) -> dict:
    with Client(node.url) as client:
        return client.expect(200, "GET", "/+status").json()["result"]


def eventually(what, wanted, seconds: float = 15):
    """Waits until `what` gives what `wanted` accepts."""
    end = time.monotonic() + seconds
    while not wanted(found := what()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def test_the_status_has_every_field_and_the_lag_of_log_and_files(own_pair):
    index = make_index(own_pair)
    serial = put(index, own_pair.master, "status")
    in_step = {"metadata": {"serials": 0, "seconds": 0.0}, "files": {"serials": 0, "seconds": 0.0, "missing": 0}}
    own = eventually(lambda: status(own_pair.replica), lambda found: found["lag"] == in_step and found["serial"] == serial)
    assert set(FIELDS + OF_REPLICAS) <= set(own)
    assert (own["replication-state"], own["replication-state-reason"]) == ("following", None)
    theirs = eventually(
        lambda: status(own_pair.master)["polling_replicas"][own["uuid"]], lambda found: found["lag"] == in_step
    )
    assert set(FIELDS) <= set(status(own_pair.master))
    for name, value in (("state", "follows"), ("serial", serial), ("epoch", 1), ("in-request", True)):
        assert theirs[name] == value, theirs
    assert theirs["position"]["chain"] == own["position"]["chain"] and theirs["version"]

    # One that stands still falls behind, for its master as well.
    own_pair.replica.process.send_signal(19)
    try:
        put(index, own_pair.master, "status", "2.0")
        put(index, own_pair.master, "status", "3.0")
        time.sleep(1)
        lag = status(own_pair.master)["polling_replicas"][own["uuid"]]["lag"]
        assert lag["metadata"]["serials"] == lag["files"]["serials"] == 2
        assert 1 <= lag["metadata"]["seconds"] < 20 and 1 <= lag["files"]["seconds"] < 20
    finally:
        own_pair.replica.process.send_signal(18)
    eventually(lambda: status(own_pair.replica)["lag"], lambda found: found == in_step)

    # A master that is away may have anything.
    own_pair.master.stop()
    gone = eventually(lambda: status(own_pair.replica), lambda found: found["replication-state"] == "unreachable")
    assert gone["lag"]["metadata"]["serials"] is None and gone["lag"]["files"]["serials"] is None
    assert 0 < gone["lag"]["metadata"]["seconds"] and "refused" in gone["replication-state-reason"]
    with Client(own_pair.replica.url) as client:
        client.expect(200, "GET", "/+alive")
        client.expect(200, "GET", "/+ready")
        client.expect(200, "GET", "/+ready?max-lag=1000")
        reason = client.expect(503, "GET", "/+ready?max-lag=0").json()["result"]["reason"]
        assert "behind the master" in reason
        assert client.ask("GET", "/+ready?max-lag=x").status == 400


def test_numbers_for_prometheus(pair):
    uuid = pair_uuid(pair.replica)
    pages = {}
    for node in (pair.master, pair.replica):
        with Client(node.url) as client:
            answer = client.expect(200, "GET", "/+metrics")
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            pages[node.name] = answer.body.decode()
    for page in pages.values():
        samples = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
        assert all(float(value) is not None for _, value in samples) and len(samples) > 10
        assert len({name for name, _ in samples}) == len(samples), "each once"
    assert f'twinpi_replica_lag_serials{{uuid="{uuid}"}} ' in pages["master"]
    assert "twinpi_epoch 1\n" in pages["master"]
    assert 'twinpi_replication_state{state="following"} 1' in pages["replica"]
    assert 'twinpi_lag_serials{of="metadata"} ' in pages["replica"]


def test_a_replica_without_anything_is_not_ready(tmp_path, binary):
    from nodes import Node, make_secret

    secret = make_secret(binary, tmp_path)
    master = Node("master", tmp_path, binary, secret=secret)
    replica = Node("replica", tmp_path, binary, role="replica", master=master, secret=secret)
    replica.init()
    replica.start()
    try:
        with Client(replica.url) as client:
            client.expect(200, "GET", "/+alive")
            assert "nothing has come" in client.expect(503, "GET", "/+ready").json()["result"]["reason"]
    finally:
        replica.stop()


def test_a_replica_in_between_knows_those_that_follow_it(own_pair, tmp_path, binary):
    from nodes import Node

    leaf = Node("leaf", tmp_path, binary, role="replica", master=own_pair.replica, secret=own_pair.master.secret)
    leaf.init()
    leaf.start()
    try:
        index = make_index(own_pair)
        serial = put(index, leaf, "tree")
        between, last = pair_uuid(own_pair.replica), pair_uuid(leaf)
        with Client(own_pair.replica.url) as client:
            told = client.expect(200, "GET", f"/+wait?serial={serial}&nodes=all").json()["result"]
            assert {(node["uuid"], node["state"]) for node in told["nodes"]} == {(between, "has"), (last, "has")}
            eventually(
                lambda: changes(client, since=serial - 1)["changes"][0]["replicas"],
                lambda found: found == {last: {"has": True, "files": True}},
            )
        theirs = status(own_pair.replica)["polling_replicas"]
        assert set(theirs) == {last} and theirs[last]["state"] == "follows"
        leaf.process.send_signal(19)
        with Client(own_pair.replica.url) as client:
            serial = put(index, own_pair.master, "tree", "2.0")
            told = client.expect(504, "GET", f"/+wait?serial={serial}&nodes=all&timeout=2").json()["result"]
            assert {(node["uuid"], node["state"]) for node in told["nodes"]} == {(between, "has"), (last, "lacks")}
    finally:
        leaf.process.send_signal(18)
        leaf.stop()
