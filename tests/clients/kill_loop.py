#!/usr/bin/env python3
"""Kills the master and the replica again and again (kill -9) while clients upload through the replica.

usage: tests/clients/kill_loop.py [--master N] [--replica N] [--clients N] [--seed N] [--keep]

Afterwards every acknowledged file must be there on both nodes with the bytes that were sent; whatever is listed must
be there whole; the serials must be dense, the chain must be the hash of the log it stands for, and both nodes must
have the same log. TWINPI_BINARY names the program (default: target/release/twinpi).
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.dont_write_bytecode = True

from nodes import Client, Failed, Node, make_secret, wheel  # noqa: E402
from readlog import check_log  # noqa: E402

USER, PASSWORD, INDEX = "ann", "twin-secret", "ann/dev"
# What a node may answer while the other one is being killed. Anything else is a defect.
FORESEEN = (502, 503, 504)
CATCH_UP_SECONDS = 60


class Uploader(threading.Thread):
    """Uploads one small wheel after another; half of what fails is tried again, the rest given up."""

    def __init__(self, number: int, replica: Node, seed: int):
        super().__init__(name=f"kill-{number}", daemon=True)
        self.replica = replica
        self.random = random.Random(f"{seed}-{number}")
        self.over = threading.Event()
        # File name to project and digest, of what was answered with 200.
        self.kept: dict[str, tuple[str, str]] = {}
        self.failed = 0
        self.defects: list[str] = []

    def run(self):
        number, client, again = 0, None, None
        while not self.over.is_set():
            if again is None:
                number += 1
                noise = self.random.randbytes(self.random.choice((10, 2_000, 200_000))).hex()
                again = (f"0.{number}", *wheel(self.name, f"0.{number}", f"noise = '{noise}'\n".encode()))
            version, filename, content = again
            try:
                if client is None:
                    client = Client(self.replica.url, timeout=60)
                    client.login(USER, PASSWORD)
                answer = client.upload(INDEX, self.name, version, filename, content)
            except Failed as error:
                # The login was relayed to a master that is away.
                self.judge(int(str(error).split(": ")[1].split()[0]), str(error))
            except (OSError, http.client.HTTPException):
                self.failed += 1
            else:
                if answer.status == 200:
                    self.kept[filename] = (self.name, hashlib.sha256(content).hexdigest())
                    again = None
                    continue
                self.judge(answer.status, f"{filename}: {answer.status} {answer.reason} {answer.body[:300]}")
            if client is not None:
                client.close()
            client = None
            if self.random.random() < 0.5:
                again = None
            self.over.wait(0.02)

    def judge(self, status: int, what: str):
        self.failed += 1
        if status not in FORESEEN:
            self.defects.append(what)


class Loop:
    def __init__(self, folder: Path, binary: Path, options: argparse.Namespace):
        self.options = options
        self.random = random.Random(options.seed)
        secret = make_secret(binary, folder)
        self.master = Node("master", folder, binary, secret=secret)
        self.replica = Node("replica", folder, binary, role="replica", master=self.master, secret=secret)
        self.uploaders = [Uploader(n, self.replica, options.seed) for n in range(options.clients)]
        self.kept: dict[str, tuple[str, str]] = {}

    def run(self):
        for node in (self.master, self.replica):
            node.init()
            node.start()
        with Client(self.replica.url) as client:
            client.expect(201, "PUT", f"/{USER}", {"password": PASSWORD})
            client.login(USER, PASSWORD)
            client.expect(200, "PUT", f"/{INDEX}", {"type": "stage", "volatile": "False", "bases": ""})
        for uploader in self.uploaders:
            uploader.start()
        self.kill()
        for uploader in self.uploaders:
            uploader.over.set()
        for uploader in self.uploaders:
            uploader.join(90)
            self.kept |= uploader.kept
        self.check()

    def kill(self):
        """Kills one or the other, each time while uploads go through."""
        victims = [self.master] * self.options.master + [self.replica] * self.options.replica
        self.random.shuffle(victims)
        began = time.monotonic()
        for count, node in enumerate(victims, 1):
            self.wait_for_uploads()
            time.sleep(self.random.uniform(0, 0.3))
            if (status := node.stop(kill=True)) != -signal.SIGKILL:
                raise Failed(f"{node.name} had ended by itself with {status}:\n{node.tail()}")
            time.sleep(self.random.choice((0, 0.05, 0.3)))
            node.start()
            if defects := [defect for uploader in self.uploaders for defect in uploader.defects]:
                raise Failed("unforeseen answers:\n" + "\n".join(defects[:5]))
            if count % 20 == 0 or count == len(victims):
                kept, failed = self.counts()
                print(
                    f"  {count:4} kills in {time.monotonic() - began:5.0f} s: {kept} uploads acknowledged, {failed} failed,"
                    f" serial {self.master.serial()}",
                    flush=True,
                )

    def counts(self) -> tuple[int, int]:
        return sum(len(u.kept) for u in self.uploaders), sum(u.failed for u in self.uploaders)

    def wait_for_uploads(self):
        """Waits until something was acknowledged since the last kill: uploads are under way again."""
        before, end = self.counts()[0], time.monotonic() + CATCH_UP_SECONDS
        while self.counts()[0] == before:
            if end < time.monotonic():
                raise Failed(f"no upload went through for {CATCH_UP_SECONDS} s:\n{self.replica.tail()}")
            time.sleep(0.005)

    def check(self):
        self.replica.wait_serial(self.master.serial(), CATCH_UP_SECONDS)
        for node in (self.master, self.replica):
            self.check_files(node)
        with Client(self.master.url) as master, Client(self.replica.url) as replica:
            positions = (master.position(), replica.position())
        if positions[0] != positions[1]:
            raise Failed(f"master and replica are at different positions: {positions}")
        for node in (self.replica, self.master):
            if (status := node.stop()) != 0:
                raise Failed(f"{node.name} ended with {status}:\n{node.tail()}")
        logs = [check_log(node) for node in (self.master, self.replica)]
        if logs[0] != logs[1] or logs[0][:2] != positions[0]:
            raise Failed(f"the logs end at {logs}, the nodes said {positions}")
        kept, failed = self.counts()
        kills = self.options.master + self.options.replica
        print(f"ok: {kills} kills, {kept} acknowledged uploads all there on both, {failed} failed ones left nothing broken,")
        print(f"    serials 0 to {logs[0][0]} without a gap, chain {logs[0][1][:16]}... on both")

    def check_files(self, node: Node):
        """Everything that was acknowledged is listed, and everything that is listed is there."""
        with Client(node.url) as client:
            listed = {}
            for uploader in self.uploaders:
                listed |= client.links(INDEX, uploader.name)
            for filename, (_, digest) in self.kept.items():
                if filename not in listed:
                    raise Failed(f"{filename} was acknowledged and is lost on the {node.name}")
                if listed[filename]["hashes"]["sha256"] != digest:
                    raise Failed(f"{filename} has another hash on the {node.name}")
            for filename, link in listed.items():
                body = client.expect(200, "GET", link["url"], headers={"Accept": "*/*"}).body
                if hashlib.sha256(body).hexdigest() != link["hashes"]["sha256"]:
                    raise Failed(f"{filename} has wrong bytes on the {node.name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--master", type=int, default=6, help="kills of the master")
    parser.add_argument("--replica", type=int, default=6, help="kills of the replica")
    parser.add_argument("--clients", type=int, default=3, help="uploads at a time")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of what is random")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    binary = Path(os.environ.get("TWINPI_BINARY") or ROOT / "target/release/twinpi").absolute()
    folder = Path(tempfile.mkdtemp(prefix="twinpi-kill-"))
    print(f"killing the master {options.master} and the replica {options.replica} times, seed {options.seed}", flush=True)
    loop = None
    failed = True
    try:
        loop = Loop(folder, binary, options)
        loop.run()
        failed = False
    except Failed as error:
        print(f"FAILED with seed {options.seed}: {error}\ndata and logs are kept in {folder}", file=sys.stderr)
    finally:
        for node in (loop.replica, loop.master) if loop else ():
            node.stop(kill=True)
        if not failed and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
