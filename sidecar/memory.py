"""Bounds what plugins keep: who keeps more than its `memory` is suspended, named, and started anew.

Nothing of this is on the way of a request. A look goes through what each plugin keeps in slices, and gives the
interpreter up between them. Looks take a fiftieth of the time; while the process grows a fifth, at most.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from sidecar.anew import GIVEN, home, take_over
from sidecar.chain import told
from sidecar.freed import freed
from sidecar.health import Fault
from sidecar.kept import Kept, Walk, mebibytes, walk
from sidecar.pipeline import Bound, Pipeline

_PAUSE: Final = 0.002  # seconds between two slices, of a quarter of a millisecond each
_EVERY: Final = 1.0  # seconds between two looks, at least
_LONGEST: Final = 60.0  # at most
_SHARE: Final = 50  # a look is followed by so many times its own time without one
_GROWING: Final = 5  # by so many when the process has grown by a quarter of what a plugin may keep
_GLANCE: Final = 0.25  # seconds between two glances at the size of the process
_OURS: Final = ("_chain", "_step", "root")  # attributes of contexts
_log = logging.getLogger("headgate.plugins")


class Lookout:
    """`turns` looks after the plugins of all pipelines; whoever drives it waits in between."""

    def __init__(
        self,
        pipelines: Callable[[], Iterable[Pipeline]],
        clock: Callable[[], float] = time.monotonic,
        resident: Callable[[], int] | None = None,
    ) -> None:
        self._pipelines = pipelines
        self._clock = clock
        self._resident = resident or resident_bytes

    def turns(self) -> Iterator[float]:
        """For ever: the seconds to wait before the next turn."""
        while True:
            cost, began = 0.0, time.perf_counter()
            for _ in self.look():
                cost += time.perf_counter() - began
                yield _PAUSE
                began = time.perf_counter()
            cost += time.perf_counter() - began
            now = self._clock()
            latest = now + min(_LONGEST, max(_EVERY, cost * _SHARE))
            earliest = now + min(_LONGEST, cost * _GROWING)
            room = min((one.memory for pipeline in self._pipelines() for one in pipeline.plugins), default=0) // 4
            grown = self._resident() + room
            while (now := self._clock()) < latest and (now <= earliest or self._resident() <= grown):
                yield _GLANCE

    def look(self) -> Iterator[None]:
        """Look at every plugin once."""
        for pipeline in self._pipelines():
            for bound in pipeline.plugins:
                try:
                    yield from self._after(bound)
                except Exception:
                    _log.exception("what plugin %r keeps could not be measured", bound.name)

    def _after(self, bound: Bound) -> Iterator[None]:
        if bound.stopped:
            if self._clock() >= bound.next_start:
                yield from self._start(bound)
            return
        kept = yield from walk_of(bound)
        bound.health.kept = kept.bytes
        now = self._clock()
        if kept.over and not bound.health.suspended(now):
            what = f"keeps more than its {mebibytes(bound.memory)}: {kept}"
            bound.fault(Fault(bound.name, "", "memory", what), now)
            _leave_out(bound)
            yield from self._start(bound)

    def _start(self, bound: Bound) -> Iterator[None]:
        """Start a plugin anew in its place, and let go of what it kept."""
        left = started_anew(bound, self._clock())
        yield from freed(left)
        _collect()
        if not bound.stopped:
            bound.health.kept = (yield from walk_of(bound)).bytes
            _log.info("plugin %r: started anew, keeps %s", bound.name, mebibytes(bound.health.kept))


class LookoutThread:
    """For a host without a loop of its own."""

    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headgate-plugin-memory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(2)

    def _run(self) -> None:
        for wait in self._lookout.turns():
            if self._ended.wait(wait):
                return


async def look_out(pipelines: Callable[[], Iterable[Pipeline]]) -> None:
    """For a host with a loop, until cancelled."""
    import asyncio

    for wait in Lookout(pipelines).turns():
        await asyncio.sleep(wait)


def walk_of(bound: Bound) -> Walk:
    """The walk through all that a plugin keeps."""
    own = _modules(bound)
    return walk(_named(bound, own), frozenset(own), bound.memory, bound.plugin)


def started_anew(bound: Bound, now: float) -> list[Any]:
    """Give a plugin a new root. If that cannot be, it keeps nothing and is stopped until it can. Returns what it kept,
    which is to be let go."""
    try:
        root = bound.remake()
        left = take_over(bound, root)
    except BaseException as error:
        bound.fault(Fault(bound.name, "on_configure", *told(error)), now)
        _log.error("plugin %r: cannot be started anew, and stays suspended", bound.name)
        bound.stop(now)
        return take_over(bound, None)
    bound.go_on(now)
    return left


def _collect() -> None:
    """Free what is tied into circles, as an old module is. It is the one thing here that is done in one go."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()


def resident_bytes() -> int:
    """Of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _modules(bound: Bound) -> dict[str, dict[str, Any]]:
    """The names in the modules of the plugin's two classes."""
    kinds = [type(bound.plugin)]
    if isinstance(context := getattr(bound.plugin, "context", None), type):
        kinds.append(context)
    found = {kind.__module__: home(kind) for kind in kinds}
    return {name: names for name, names in found.items() if name not in ("sidecar.plugin", "builtins")}


def _named(bound: Bound, own: dict[str, dict[str, Any]]) -> Iterator[tuple[str, object]]:
    """What leads to all that a plugin keeps, by the names that its author knows."""
    plugin = bound.plugin
    for name, value in list(vars(plugin).items()):
        if name not in GIVEN:
            yield f"self.{name}", value
    yield "metrics", plugin.metrics
    for module, names in own.items():
        for name, value in list(names.items()):
            if name.startswith("__"):
                continue
            if isinstance(value, type) and value.__module__ == module:
                for attribute, part in list(vars(value).items()):
                    yield f"{name}.{attribute}", part
            yield name, value
    for chain in bound.open_chains():
        context = chain.context_of(bound)
        if context is not None:
            for name, value in list(vars(context).items()):
                if name not in _OURS:
                    yield f"{name} of open requests", value


def _leave_out(bound: Bound) -> None:
    """Requests under way go on without a plugin that may fail; one that may not sees them to their end."""
    if not bound.closed:
        for chain in bound.open_chains():
            chain.leave_out(bound)


__all__ = ["Kept", "Lookout", "LookoutThread", "look_out", "resident_bytes", "started_anew", "walk_of"]
