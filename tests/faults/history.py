"""What clients did to their own things, and what may be true of these things after it.

Each thing (a file of a release, a zip of documentation, a title of an index) is changed by one client only, one change
after the other, so its value is the one of the last change that was answered with success. A change whose answer did
not come, or was an error of the server, may or may not have been carried out, and may be carried out until the next
quiet point: its value stays possible until then. Values are never used twice.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

ABSENT = None


@dataclass
class Slot:
    """What may be true of one thing."""

    settled: object = ABSENT
    # Values of changes with an unknown outcome since the last quiet point.
    open: set = field(default_factory=set)
    # Values that it had and lost to an acknowledged change: none of them may come back.
    past: set = field(default_factory=set)

    def may_be(self) -> set:
        return {self.settled} | self.open

    @property
    def is_certain(self) -> bool:
        return not self.open

    def acknowledged(self, value):
        if self.settled is not ABSENT and self.settled != value:
            self.past.add(self.settled)
        self.settled = value

    def left_open(self, value):
        if value != self.settled:
            self.open.add(value)

    def judge(self, seen) -> str | None:
        """The guarantee that a value at a quiet point breaks, if any."""
        if seen in self.may_be():
            return None
        if seen in self.past:
            return "No-resurrection" if self.settled is ABSENT else "Durable"
        if seen is ABSENT:
            return "Durable"
        return "No-resurrection" if self.settled is ABSENT else "Unique"

    def resolve(self, seen):
        if seen != self.settled and self.settled is not ABSENT:
            self.past.add(self.settled)
        self.past |= {value for value in self.open if value not in (seen, ABSENT)}
        self.settled, self.open = seen, set()


class History:
    """All things and all that was counted."""

    def __init__(self):
        self.lock = threading.Lock()
        self.slots: dict[tuple, Slot] = {}
        self.operations: Counter[tuple[str, str]] = Counter()
        self.checks: Counter[str] = Counter()
        self.violations: list[str] = []
        # The highest serial of an answer that said that a change stands.
        self.acknowledged = -1
        # The serial that each node showed to each client last.
        self.serials: dict[tuple[str, str], int] = {}
        self.rewinds: Counter[str] = Counter()

    def answered(self, serial: int):
        with self.lock:
            self.acknowledged = max(self.acknowledged, serial)

    def ordered(self, client: str, node: str, serial: int, asked: int) -> int:
        """Notes a serial that a node showed; gives the one before. What was asked for before a node was taken back by a
        command does not count."""
        with self.lock:
            if asked != self.rewinds[node]:
                return -1
            before = self.serials.get((client, node), -1)
            self.serials[client, node] = serial
            return before

    def rewound(self, node: str):
        """A command took back what only this node had."""
        with self.lock:
            self.rewinds[node] += 1
            for client, name in list(self.serials):
                if name == node:
                    del self.serials[client, name]

    def slot(self, key: tuple) -> Slot:
        with self.lock:
            return self.slots.setdefault(key, Slot())

    def count(self, kind: str, outcome: str):
        with self.lock:
            self.operations[kind, outcome] += 1

    def checked(self, guarantee: str, number: int = 1):
        with self.lock:
            self.checks[guarantee] += number

    def violated(self, guarantee: str, what: str):
        with self.lock:
            self.violations.append(f"{guarantee}: {what}")

    def keys(self, kind: str) -> list[tuple]:
        with self.lock:
            return [key for key in self.slots if key[0] == kind]
