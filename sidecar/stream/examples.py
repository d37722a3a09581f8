"""The last entries in, exemplars out: the id of a request beside its bucket and beside the counter of its outcome."""

from __future__ import annotations

from bisect import bisect_left

from sidecar.instruments import Exemplar
from sidecar.metrics.bounds import BOUNDS
from sidecar.metrics.exemplars import Exemplars
from sidecar.metrics.stats import Key
from sidecar.stream.layout import Times, times
from sidecar.stream.requests import Requests


def exemplars(requests: Requests) -> dict[Key, Exemplars]:
    """Only for requests with an id."""
    found: dict[Key, Exemplars] = {}
    for key, outcome, text in requests.last_of_each():
        one = times(text)
        if one is not None:
            found.setdefault(key, Exemplars()).requests[outcome] = _exemplar(one, 1.0)
    for key, durations in requests.durations.items():
        shown = found.setdefault(key, Exemplars())
        for one in filter(None, map(times, filter(None, durations.last))):
            _show(shown.duration, one, one.duration)
            _show(shown.first_byte, one, one.first_byte)
    return found


def _show(by_bucket: dict[int, Exemplar], one: Times, seconds: float | None) -> None:
    """Beyond the last bound nothing is told: the value would be outside of its bucket."""
    if seconds is not None and seconds <= BOUNDS[-1]:
        index = bisect_left(BOUNDS, seconds)
        if index not in by_bucket or by_bucket[index].at <= one.at:
            by_bucket[index] = _exemplar(one, seconds)


def _exemplar(one: Times, value: float) -> Exemplar:
    return Exemplar(one.request_id, value, one.at)
