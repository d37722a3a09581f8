"""How a plugin gets on: faults counted by hook and kind, and when it is suspended. Values in, values out; no clock."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from sidecar.instruments import Family, Labels, Sample

FaultKind = Literal["raised", "wrong-result", "overrun", "never-resumed", "body-too-large", "memory"]


@dataclass(frozen=True, slots=True)
class Suspension:
    """Suspend for `rest` seconds after `faults` of them within `window` seconds."""

    faults: int = 5
    window: float = 60.0
    rest: float = 30.0


@dataclass(frozen=True, slots=True)
class Fault:
    """The latest one, for people. It has no hook when it is what the plugin keeps."""

    plugin: str
    hook: str
    kind: FaultKind
    what: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r}: {self.hook}{': ' if self.hook else ''}{self.what}"


class Health:
    """Of one plugin in one pipeline. `suspended_until` is looked at for each request, so it is a plain number."""

    def __init__(self, plugin: str, policy: Suspension) -> None:
        self.plugin = plugin
        self.policy = policy
        self.requests = 0
        self.passed = 0  # more of them, which somebody else counts
        self.skipped = 0
        self.suspensions = 0
        self.suspended_until = 0.0
        self.kept = 0  # bytes, as last looked at
        self.last: Fault | None = None
        self.counts: dict[tuple[str, FaultKind], int] = {}
        self._recent: deque[float] = deque(maxlen=policy.faults)
        self._lock = threading.Lock()

    def fault(self, fault: Fault, now: float) -> bool:
        """Count it. True when the plugin is suspended by it."""
        with self._lock:
            key = (fault.hook, fault.kind)
            self.counts[key] = self.counts.get(key, 0) + 1
            self.last = fault
            if fault.kind == "body-too-large":  # the client's doing, not the plugin's
                return False
            self._recent.append(now)
            few = len(self._recent) < self.policy.faults or now - self._recent[0] > self.policy.window
            if few and fault.kind != "memory":
                return False
            self._recent.clear()
            self.suspended_until = now + self.policy.rest
            self.suspensions += 1
            return True

    def suspended(self, now: float) -> bool:
        return now < self.suspended_until


def families(healths: tuple[Health, ...], now: float) -> tuple[Family, ...]:
    """Every plugin's health as metrics."""

    def labels(one: Health) -> Labels:
        return (("plugin", one.plugin),)

    faults = tuple(
        Sample("_total", (*labels(one), ("hook", hook), ("kind", kind)), count)
        for one in healths
        for (hook, kind), count in sorted(one.counts.items())
    )
    return (
        Family(
            "headgate_plugin_requests",
            "counter",
            "Requests that a plugin was given.",
            tuple(Sample("_total", labels(one), one.requests + one.passed) for one in healths),
        ),
        Family(
            "headgate_plugin_skipped",
            "counter",
            "Requests that a plugin was not given because it is suspended.",
            tuple(Sample("_total", labels(one), one.skipped) for one in healths),
        ),
        Family("headgate_plugin_faults", "counter", "What a plugin did wrong, by hook and kind.", faults),
        Family(
            "headgate_plugin_suspensions",
            "counter",
            "How often a plugin was suspended.",
            tuple(Sample("_total", labels(one), one.suspensions) for one in healths),
        ),
        Family(
            "headgate_plugin_suspended",
            "gauge",
            "1 while a plugin is suspended.",
            tuple(Sample("", labels(one), float(one.suspended(now))) for one in healths),
        ),
        Family(
            "headgate_plugin_memory_bytes",
            "gauge",
            "What a plugin keeps in memory.",
            tuple(Sample("", labels(one), float(one.kept)) for one in healths),
        ),
    )
