"""Load that visits ports by turns (turns.c), as an object."""

from __future__ import annotations

import subprocess
from collections.abc import Set
from os import sched_setaffinity
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Turn(NamedTuple):
    """`rate` in requests a second, `requests` with those that were under way at the end, `p50` in ms."""

    rate: float
    requests: int
    failed: int
    p50: float


class Turns:
    """One process, on `cores` if they are told. Requests have a body of `size` bytes, or are GETs."""

    def __init__(self, binary: Path, cores: Set[int] = frozenset(), size: int = 0) -> None:
        self._process = subprocess.Popen(
            [str(binary), str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if cores:
            sched_setaffinity(self._process.pid, cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def turn(self, port: int, connections: int, seconds: float) -> Turn:
        """Each connection asks again as soon as it is answered; RuntimeError if the load ends before its turn does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{port} {connections} {round(1000 * seconds)}\n")
        words = self._process.stdout.readline().split()
        if len(words) != 5:
            raise RuntimeError(f"the load on port {port} has ended")
        taken, length, requests, failed, p50 = words
        return Turn(int(taken) / float(length), int(requests), int(failed), int(p50) / 1000)
