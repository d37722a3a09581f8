"""Load that visits ports by turns (turns.c), as an object."""

from __future__ import annotations

from collections.abc import Set
from os import sched_setaffinity
from pathlib import Path
from typing import NamedTuple

from benchmarks.child import Child


class Turn(NamedTuple):
    """`rate` in requests a second, `requests` with those that were under way at the end, `p50` in ms."""

    rate: float
    requests: int
    failed: int
    p50: float


class Turns(Child):
    """One process, on `cores` if they are told. Requests have a body of `size` bytes, or are GETs."""

    def __init__(self, binary: Path, cores: Set[int] = frozenset(), size: int = 0) -> None:
        super().__init__(str(binary), str(size))
        if cores:
            sched_setaffinity(self.pid, cores)

    def turn(self, port: int, connections: int, seconds: float) -> Turn:
        """Each connection asks again as soon as it is answered; RuntimeError if the load ends before its turn does."""
        self.say(f"{port} {connections} {round(1000 * seconds)}")
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if len(words) != 5:
            raise RuntimeError(f"the load on port {port} has ended")
        taken, length, requests, failed, p50 = words
        return Turn(int(taken) / float(length), int(requests), int(failed), int(p50) / 1000)
