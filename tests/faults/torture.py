#!/usr/bin/env python3
"""A master, three replicas and a replica of a replica under random faults, with clients that change and read.

usage: tests/faults/torture.py [--minutes N] [--seed N] [--clients N] [--tree yes|no] [--promotions yes|no] [--keep]

Faults and operations are drawn from the seed, which is printed; when each happens depends on the machine too, so the
same seed gives the same faults in the same order and not the same run to the microsecond. Every 30 seconds or so
everything is healed; once it is quiet all nodes must have the same history, the same pages and the same files, and
what was acknowledged must be there. TWINPI_BINARY names the program (default: target/release/twinpi).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT / "scripts")]
sys.dont_write_bytecode = True

from clients import Worker, prepare  # noqa: E402
from history import History  # noqa: E402
from injury import Injuries  # noqa: E402
from nodes import Failed, Node, make_secret  # noqa: E402
from proxy import Proxy  # noqa: E402
from quiet import Quiet  # noqa: E402
from succession import Succession  # noqa: E402

QUIET_EVERY = 30
HOLD_SECONDS = 150


class Torture:
    def __init__(self, folder: Path, binary: Path, options: argparse.Namespace):
        self.options, self.folder = options, folder
        self.random = random.Random(options.seed)
        self.history = History()
        secret = make_secret(binary, folder)
        extra = ["--proxy-timeout", "8"]
        self.nodes, self.proxies = [Node("master", folder, binary, secret=secret, extra=extra)], []
        for number in range(1, options.replicas + 1):
            self.follow(f"replica{number}", self.master)
        if options.tree:
            self.follow("chained", self.nodes[1])
        self.injuries = Injuries(self.nodes, self.proxies, options.seed, self.history)
        if options.promotions:
            self.injuries.promote(Succession(self.nodes, self.proxies, self.history, self.injuries.done, options.seed))
        self.quiet = Quiet(self.nodes, self.history)
        self.workers: list[Worker] = []

    @property
    def master(self) -> Node:
        """Whoever it is at the moment."""
        return self.nodes[0]

    def follow(self, name: str, master: Node):
        """A replica whose way to its master goes through a proxy."""
        proxy = Proxy(master.port, self.options.seed + len(self.proxies))
        self.proxies.append(proxy)
        node = Node(name, master.folder, master.binary, role="replica", master=master, secret=master.secret)
        node.master_url, node.extra, node.way = proxy.url, list(master.extra), proxy
        self.nodes.append(node)

    def run(self):
        for node in self.nodes:
            node.init()
            node.ignore_signals = True
            node.start()
        auth = prepare(self.master, self.options.clients)
        for node in self.nodes[1:]:
            node.wait_serial(self.master.serial())
        for number in range(self.options.clients):
            worker = Worker(number, self.options.seed, self.nodes, self.history, auth)
            worker.full = self.injuries.full
            self.workers.append(worker)
            worker.start()
        began, round_ = time.monotonic(), 0
        while time.monotonic() - began < self.options.minutes * 60 and not self.history.violations:
            until = time.monotonic() + QUIET_EVERY
            while time.monotonic() < until:
                self.injuries.one()
                time.sleep(self.random.choice((0, 0.1, 0.5, 1.5)))
            self.rest(round_ := round_ + 1, time.monotonic() - began)
        self.end()

    def rest(self, round_: int, seconds: float):
        """Heals everything, waits until it is quiet, and checks."""
        for worker in self.workers:
            worker.hold.set()
        self.injuries.heal()
        end = time.monotonic() + HOLD_SECONDS
        for worker in self.workers:
            if not worker.idle.wait(max(0, end - time.monotonic())):
                self.history.violated("Client", f"{worker.name} did not come to an end of what it does")
        for proxy in self.proxies:
            proxy.reset()
        self.quiet.check()
        serial = self.master.serial()
        faults = sum(self.injuries.done.values())
        operations = sum(self.history.operations.values())
        print(
            f"  {seconds:6.0f} s, quiet point {round_}: serial {serial}, {operations} operations, {faults} faults,"
            f" {sum(self.history.checks.values())} checks, {len(self.history.violations)} violations",
            flush=True,
        )
        for worker in self.workers:
            worker.idle.clear()
            worker.hold.clear()

    def end(self):
        for worker in self.workers:
            worker.over.set()
        for worker in self.workers:
            worker.join(HOLD_SECONDS)
        self.quiet.settle()
        for node in sorted(self.nodes, key=depth, reverse=True):
            if (status := node.stop()) != 0:
                self.history.violated("Node", f"{node.name} ended with {status}")
        self.quiet.check_logs()

    def summary(self):
        history = self.history
        print("operations:")
        for kind in sorted({kind for kind, _ in history.operations}):
            outcomes = sorted((o, n) for (k, o), n in history.operations.items() if k == kind)
            print(f"  {kind:16} " + ", ".join(f"{outcome} {number}" for outcome, number in outcomes))
        print("faults:")
        for kind, number in sorted(self.injuries.done.items()):
            print(f"  {kind:28} {number}")
        passed = Counter()
        for proxy in self.proxies:
            passed.update(proxy.done)
        print("  on the way: " + ", ".join(f"{kind} {number}" for kind, number in sorted(passed.items())))
        print("checks: " + ", ".join(f"{name} {number}" for name, number in sorted(history.checks.items())))
        print(f"violations: {len(history.violations)}")
        for violation in history.violations[:20]:
            print(f"  {violation}")


def depth(node: Node) -> int:
    """How many nodes stand between a node and what it holds, itself counted."""
    return 0 if node.master is None else 1 + depth(node.master)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of what is random")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--tree", choices=["yes", "no"], default="yes", help="with a replica of a replica")
    parser.add_argument("--promotions", choices=["yes", "no"], default="yes", help="with other nodes becoming the master")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    options.tree, options.promotions = options.tree == "yes", options.promotions == "yes"
    options.seed = random.randrange(1 << 32) if options.seed is None else options.seed
    binary = Path(os.environ.get("TWINPI_BINARY") or ROOT / "target/release/twinpi").absolute()
    folder = Path(tempfile.mkdtemp(prefix="twinpi-torture-"))
    size = f"1 master, {options.replicas} replicas" + (", 1 replica of a replica" if options.tree else "")
    print(f"torture for {options.minutes:g} minutes: {size}, {options.clients} clients, seed {options.seed}", flush=True)
    torture = Torture(folder, binary, options)
    try:
        torture.run()
    except Failed as error:
        torture.history.violated("Node", str(error))
    finally:
        torture.injuries.heal(start=False)
        for node in torture.nodes:
            node.stop(kill=True)
        for proxy in torture.proxies:
            proxy.close()
    torture.summary()
    failed = bool(torture.history.violations)
    if failed:
        print(f"FAILED with seed {options.seed}; data and logs are kept in {folder}")
    elif not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
