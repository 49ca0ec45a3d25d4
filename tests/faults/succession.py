"""Another node becomes the master while clients go on: after a kill of the old one, or with both alive.

Clients know all nodes and go on with whichever answers. A replica keeps the address that it follows: its proxy leads to
the new master, as a name does that was moved. What a killed master had answered for and nobody took over would be lost
by rights; then it is started again instead, so that all other guarantees can be checked as ever.
"""

from __future__ import annotations

import random
import time
from collections import Counter

from history import History
from nodes import Client, Failed, Node, run
from proxy import Proxy

# So long answers of a killed master may take to be heard.
HEARD_SECONDS = 0.5
# So long a replica may take to apply what it has heard.
APPLY_SECONDS = 3
STATE_SECONDS = 40


class Succession:
    """Changes who is the master; `nodes[0]` is, always."""

    def __init__(self, nodes: list[Node], proxies: list[Proxy], history: History, done: Counter, seed: int):
        self.nodes, self.proxies, self.history, self.done = nodes, proxies, history, done
        self.random = random.Random(f"succession {seed}")
        self.seed = seed

    def command(self, node: Node, name: str, *more) -> bool:
        """Whether a command to a node did what it says; why not is printed."""
        done = run([*node.command(name), "--serverdir", node.data, *more], check=False)
        if done.returncode:
            lines = done.stdout.strip().splitlines() or ["nothing"]
            print(f"    {name} {node.name}: {lines[-1]}", flush=True)
        return done.returncode == 0

    def fail_over(self):
        """The master is killed; the replica that is furthest takes its place, and the old one comes back."""
        old = self.heal()
        old.stop(kill=True)
        time.sleep(HEARD_SECONDS)
        new = max(self.nodes[1:], key=lambda node: node.serial() or -1)
        if not self.has_all(new) or not self.command(new, "promote"):
            self.done["fail over: the master came back"] += 1
            old.start()
            return
        comes_back = self.random.choice(["as replica", "as master"])
        self.done[f"fail over, the old one {comes_back}"] += 1
        if comes_back == "as master":
            time.sleep(self.random.uniform(0, 2))
            # Whoever replaced it tells it so; until then nobody may write there.
            old.start()
        self.succeed(old, new)

    def switch(self):
        """Both live: the old master yields, and the new one takes the last of what it has."""
        old, new = self.heal(), self.random.choice(self.nodes[1:])
        if not self.command(new, "promote"):
            self.done["switch: refused"] += 1
            return
        self.done["switch"] += 1
        self.succeed(old, new)

    def heal(self) -> Node:
        for proxy in self.proxies:
            proxy.heal()
        return self.nodes[0]

    def has_all(self, node: Node) -> bool:
        """Whether a node has, or comes to, all that was answered for."""
        end = time.monotonic() + APPLY_SECONDS
        while (node.serial() or -1) < self.history.acknowledged:
            if end < time.monotonic():
                return False
            time.sleep(0.05)
        return True

    def succeed(self, old: Node, new: Node):
        """All others follow the new master, also the old one."""
        way = Proxy(new.port, self.seed + len(self.nodes))
        secret = [] if old.is_running() else ["--secretfile", old.secret]
        for node in self.nodes:
            if node.master is old and node is not new:
                self.lead(node, new)
        if not self.command(old, "demote", "--primary-url", way.url, *secret):
            self.history.violated("Succession", f"{old.name} does not become a replica of {new.name}:\n{old.tail()}")
        # The way that the new master had is needed until the old one was told.
        self.proxies.remove(new.way)
        new.way.close()
        self.proxies.append(way)
        old.way, old.master, old.role, old.master_url = way, new, "replica", way.url
        new.way, new.master, new.role, new.master_url = None, None, "master", None
        place = self.nodes.index(new)
        self.nodes[0], self.nodes[place] = new, old
        # What only the old one had is put aside by the command.
        self.history.rewound(old.name)
        if not old.is_running():
            old.start()
        self.wait()

    def lead(self, node: Node, new: Node):
        node.way.target, node.master = new.port, new
        node.way.reset()

    def wait(self):
        """Until all follow, by their own word."""
        end = time.monotonic() + STATE_SECONDS
        for node in self.nodes[1:]:
            while (state := state_of(node)) not in ("following", "catching-up"):
                if end < time.monotonic():
                    self.history.violated("Succession", f"{node.name} is {state} after a succession:\n{node.tail()}")
                    return
                time.sleep(0.05)


def state_of(node: Node) -> str | None:
    try:
        with Client(node.url, timeout=10) as client:
            return client.expect(200, "GET", "/+status").json()["result"].get("replication-state")
    except (OSError, Failed):
        return None
