"""Takes ended calls in at a fraction of a microsecond each, and folds them once a second into parts that travel."""

from __future__ import annotations

import itertools
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from loadgen.counts import Floats, Part
from loadgen.outcome import UNATTRIBUTED, UNKNOWN
from loadgen.parts import SecondPart, SeriesPart
from loadgen.plan import Goodput, Target
from loadgen.wire.call import CONNECT_TIMEOUT, TIMEOUT, Call

_WAITED = (TIMEOUT, CONNECT_TIMEOUT)
_COLUMNS = 4  # intended, due, sent, ended
_MESSAGE = 500  # characters of a sample that are kept


class _Cell:
    """One scenario and version, since the last fold."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "codes",
        "connect",
        "failed_at",
        "failures",
        "good",
        "itl",
        "rows",
        "samples",
        "timed_out",
        "tokens",
        "tpot",
        "ttft",
    )

    def __init__(self) -> None:
        self.rows = array("d")
        self.connect = array("d")
        self.failed_at = array("d")
        self.ttft = array("d")
        self.itl = array("d")
        self.tpot = array("d")
        self.codes: defaultdict[str, int] = defaultdict(int)
        self.failures: defaultdict[str, int] = defaultdict(int)
        self.samples: dict[str, str] = {}
        self.timed_out = 0
        self.good = 0
        self.tokens: int | None = None
        self.bytes_sent = 0
        self.bytes_received = 0


class Recorder:
    """All scenarios of a process."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._cells: dict[tuple[int, str], _Cell] = {}
        self._pinned = [each.version for each in targets]
        self._good = [None if each.goodput is None else is_good(each.goodput) for each in targets]

    def record(self, call: Call) -> None:
        """A call that has ended; only those that are to be recorded."""
        version = self._pinned[call.scenario] or call.version or (UNKNOWN if call.code else UNATTRIBUTED)
        cell = self._cells.get((call.scenario, version))
        if cell is None:
            cell = self._cells[call.scenario, version] = _Cell()
        cell.rows.extend((call.intended, call.due, call.sent, call.ended))
        if call.connected:
            cell.connect.append(call.connected - call.sent)
        cell.codes[call.code] += 1
        cell.bytes_sent += call.written
        cell.bytes_received += call.received
        if call.failure is not None:
            cell.failed_at.append(call.ended)
            cell.failures[call.failure] += 1
            cell.timed_out += call.failure in _WAITED
            if call.message:
                cell.samples.setdefault(call.failure, call.message[:_MESSAGE])
        if call.tokens is not None:
            _stream(cell, call, call.tokens)
        good = self._good[call.scenario]
        if good is not None:
            cell.good += good(call)

    def fold(self, began: Sequence[float]) -> Iterator[SeriesPart]:
        """What was recorded since the last time, a series at a time: others may run between. `began`: by scenario."""
        cells, self._cells = self._cells, {}
        for (scenario, version), cell in cells.items():
            yield _folded(scenario, version, cell, began[scenario], self._good[scenario] is not None)


def _stream(cell: _Cell, call: Call, stamps: list[float]) -> None:
    made = len(stamps) if call.output_tokens is None else call.output_tokens
    cell.tokens = (cell.tokens or 0) + made
    if not stamps:
        return
    cell.ttft.append(stamps[0] - call.intended)
    if len(stamps) > 1:
        cell.itl.extend(after - before for before, after in itertools.pairwise(stamps))
        if made > 1:
            cell.tpot.append((stamps[-1] - stamps[0]) / (made - 1))


def _folded(scenario: int, version: str, cell: _Cell, began: float, counts_good: bool) -> SeriesPart:
    rows = np.frombuffer(cell.rows, dtype=np.float64).reshape(-1, _COLUMNS)
    intended, due, sent, ended = rows.T
    was_sent = sent > 0
    metrics: dict[str, Part] = {}
    for name, values in (
        ("service", (ended - sent)[was_sent]),
        ("lag", due - intended),
        ("queue", np.where(was_sent, sent, ended) - due),
        ("connect", _numbers(cell.connect)),
        ("ttft", _numbers(cell.ttft)),
        ("itl", _numbers(cell.itl)),
        ("tpot", _numbers(cell.tpot)),
    ):
        if values.size:
            metrics[name] = Part.of(values)
    failed = len(cell.failed_at)
    cell.codes.pop("", None)
    return SeriesPart(
        scenario,
        version,
        ok=len(rows) - failed,
        failed=failed - cell.timed_out,
        timed_out=cell.timed_out,
        good=cell.good if counts_good else None,
        tokens=cell.tokens,
        bytes_sent=cell.bytes_sent,
        bytes_received=cell.bytes_received,
        codes=dict(cell.codes),
        failures=dict(cell.failures),
        samples=cell.samples,
        metrics=metrics,
        seconds=tuple(_seconds(ended - began, ended - intended, _numbers(cell.failed_at) - began)),
    )


def _numbers(values: array[float]) -> Floats:
    return np.frombuffer(values, dtype=np.float64) if values else np.zeros(0)


def _seconds(at: Floats, latency: Floats, failed_at: Floats) -> Iterator[SecondPart]:
    whole = np.maximum(np.floor(at), 0).astype(np.int64)
    failed = np.maximum(np.floor(failed_at), 0).astype(np.int64)
    for second in np.unique(whole).tolist():
        mine = latency[whole == second]
        yield SecondPart(second, int(mine.size), int(np.count_nonzero(failed == second)), Part.of(mine))


def is_good(goodput: Goodput) -> Callable[[Call], bool]:
    """Whether a call is within the limits. A request's `itl` is its longest gap; what it does not have is within."""
    limits = [(_MEASURES[name], limit) for name, limit in goodput.limits.items()]

    def good(call: Call) -> bool:
        return call.failure is None and all(measure(call) <= limit for measure, limit in limits)

    return good


def _ttft(call: Call) -> float:
    return call.tokens[0] - call.intended if call.tokens else math.inf


def _itl(call: Call) -> float:
    stamps = call.tokens or []
    return max((after - before for before, after in itertools.pairwise(stamps)), default=0.0)


def _tpot(call: Call) -> float:
    stamps = call.tokens or []
    made = len(stamps) if call.output_tokens is None else call.output_tokens
    return (stamps[-1] - stamps[0]) / (made - 1) if len(stamps) > 1 and made > 1 else 0.0


_MEASURES: dict[str, Callable[[Call], float]] = {
    "latency": lambda call: call.ended - call.intended,
    "service": lambda call: call.ended - call.sent,
    "connect": lambda call: call.connected - call.sent if call.connected else 0.0,
    "lag": lambda call: call.due - call.intended,
    "queue": lambda call: call.sent - call.due,
    "ttft": _ttft,
    "itl": _itl,
    "tpot": _tpot,
}
