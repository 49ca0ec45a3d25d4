"""What is done to nodes and to the ways between them, drawn from a seed."""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
from collections import Counter

from history import History
from nodes import Failed, Node
from proxy import NOTHING, REPLICATION, Proxy, Trouble

FILES = (b"GET /ann/",)
STREAMS = REPLICATION + FILES


class Injuries:
    """Does one thing after the other; each ends before the next one begins, but for some that are left as they are."""

    def __init__(self, nodes: list[Node], proxies: list[Proxy], seed: int, history: History):
        self.nodes, self.proxies, self.history = nodes, proxies, history
        self.random = random.Random(f"injuries {seed}")
        self.done: Counter[str] = Counter()
        # Set while a disk is full, and until the next quiet point.
        self.full = threading.Event()
        self.stopped: set[str] = set()
        self.kinds = {
            self.kill: 5,
            self.end: 2,
            self.freeze: 3,
            self.fill: 2,
            self.trouble: 12,
            self.kill_two: 1,
        }

    def promote(self, succession):
        """Other nodes become the master, too."""
        self.kinds |= {succession.fail_over: 2, succession.switch: 2}

    def one(self):
        kind = self.random.choices(list(self.kinds), list(self.kinds.values()))[0]
        kind()

    def node(self) -> Node:
        return self.random.choice([self.nodes[0], *self.nodes])

    def pause(self, most: float):
        time.sleep(self.random.uniform(0, most))

    def stop(self, node: Node, kill: bool):
        status = node.stop(kill=kill)
        if status != (-signal.SIGKILL if kill else 0):
            self.history.violated("Node", f"{node.name} ended with {status}:\n{node.tail()}")

    def kill(self):
        node = self.node()
        self.done[f"kill {role(node)}"] += 1
        self.stop(node, kill=True)
        self.pause(1)
        node.start()

    def kill_two(self):
        self.done["kill two at once"] += 1
        both = self.random.sample(self.nodes, 2)
        for node in both:
            self.stop(node, kill=True)
        self.pause(1)
        for node in both:
            node.start()

    def end(self):
        node = self.node()
        self.done[f"restart {role(node)}"] += 1
        self.stop(node, kill=False)
        node.start()

    def freeze(self):
        node = self.node()
        self.done[f"freeze {role(node)}"] += 1
        node.process.send_signal(signal.SIGSTOP)
        self.stopped.add(node.name)
        self.pause(6)
        node.process.send_signal(signal.SIGCONT)
        self.stopped.discard(node.name)

    def fill(self):
        """No file of the node can grow beyond a size, as on a disk that is full."""
        node, size = self.node(), self.random.choice((0, 0, 100_000))
        self.done[f"full disk of {role(node)}"] += 1
        self.full.set()
        limit(node, size)
        self.pause(4)
        limit(node, resource.RLIM_INFINITY)

    def trouble(self):
        """Something on the way of one or all replicas to their masters."""
        number = self.random.randrange
        kinds = {
            "cut answers": lambda: Trouble(cut_answer=number(1, 4000), cuts=number(1, 30)),
            "cut answers of streams": lambda: Trouble(only=STREAMS, cut_answer=number(1, 60_000)),
            "cut requests": lambda: Trouble(cut_request=number(1, 4000), cuts=number(1, 30)),
            "delay": lambda: Trouble(delay=self.random.uniform(0.01, 0.4)),
            "throttle": lambda: Trouble(rate=self.random.choice((2_000, 20_000, 125_000))),
            "loss": lambda: Trouble(loss=0.5, delay=0.02),
            "silence": lambda: Trouble(mute="both"),
            "lost answers": lambda: Trouble(mute="answers"),
            "lost requests": lambda: Trouble(mute="requests"),
            "refuse": lambda: Trouble(is_refusing=True),
            "flip": lambda: Trouble(only=STREAMS, flip=number(0, 3000), flips=number(1, 10)),
            "captive page": lambda: Trouble(is_captive=True),
        }
        kind = self.random.choice(sorted(kinds))
        self.done[kind] += 1
        chosen = self.proxies if self.random.random() < 0.3 else [self.random.choice(self.proxies)]
        trouble = kinds[kind]()
        for proxy in chosen:
            proxy.trouble = trouble
            if trouble.is_refusing:
                proxy.reset()
        self.pause(5)
        for proxy in chosen:
            if self.random.random() < 0.5:
                proxy.heal()
            else:
                # What is open then goes on, and may have lost something.
                proxy.trouble = NOTHING

    def heal(self, start: bool = True):
        for proxy in self.proxies:
            proxy.heal()
        for node in self.nodes:
            if node.process is None:
                continue
            if node.process.poll() is not None:
                self.history.violated("Node", f"{node.name} ended by itself with {node.process.returncode}:\n{node.tail()}")
                if start:
                    node.start()
                continue
            node.process.send_signal(signal.SIGCONT)
            limit(node, resource.RLIM_INFINITY)
        if start:
            self.full.clear()


def role(node: Node) -> str:
    return "master" if node.master is None else "chained" if node.master.master else "replica"


def limit(node: Node, size: int):
    try:
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    except (ProcessLookupError, AttributeError) as error:
        raise Failed(f"{node.name} is not there: {error}") from None
