"""Totals over time in, what happened in the last 10 s, minute and five minutes out.

Snapshots are kept every second for as long as the shortest window needs them, then ever fewer: about sixty in all.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sidecar.metrics.stats import Key
from sidecar.metrics.totals import Figures, Times

WINDOWS = {"10s": 10.0, "1m": 60.0, "5m": 300.0}
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_SLOTS = ((12.0, 0.0), (75.0, 5.0), (330.0, 15.0))
"""Up to this age, one snapshot for each slot of so many seconds; 0 keeps them all."""


_Whose = TypeVar("_Whose", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Snapshot(Generic[_Whose]):
    at: float
    figures: Mapping[_Whose, Figures]


class Windows(Generic[_Whose]):
    """`take` totals whenever there are new ones; `latest`, `over` and `lately` tell of them."""

    def __init__(self) -> None:
        self._kept: list[_Snapshot[_Whose]] = []

    def take(self, figures: Mapping[_Whose, Figures], at: float) -> None:
        last = self._kept[-1].figures if self._kept else {}
        shared = {key: _sharing(found, last.get(key)) for key, found in figures.items()}
        self._kept.append(_Snapshot(at, shared))
        self._thin(at)

    def _thin(self, now: float) -> None:
        """Of each slot of time its first snapshot stays: what stays is then not decided anew every second."""
        kept: list[_Snapshot[_Whose]] = []
        filled: set[tuple[float, int]] = set()
        for snapshot in self._kept:
            slot = next((slot for age, slot in _SLOTS if now - snapshot.at <= age), None)
            if slot is None:
                continue
            place = (slot, int(snapshot.at // slot)) if slot else (slot, len(kept))
            if place not in filled:
                filled.add(place)
                kept.append(snapshot)
        self._kept = kept

    @property
    def latest(self) -> Mapping[_Whose, Figures]:
        return self._kept[-1].figures if self._kept else {}

    def __len__(self) -> int:
        return len(self._kept)

    def over(self, seconds: float) -> tuple[float, dict[_Whose, Figures]]:
        """What was added within the last `seconds`, or as long as there are figures; and how long that was."""
        if not self._kept:
            return 0.0, {}
        now = self._kept[-1]
        then = next((each for each in reversed(self._kept) if now.at - each.at >= seconds - 0.5), self._kept[0])
        return now.at - then.at, {key: _added(found, then.figures.get(key)) for key, found in now.figures.items()}

    def lately(self, window: str | None = None) -> dict[str, tuple[float, dict[_Whose, Figures]]]:
        """`over` all windows by name, or over the one that is asked for."""
        asked = WINDOWS if window is None else {window: WINDOWS[window]}
        return {name: self.over(seconds) for name, seconds in asked.items()}


def versions(known: Windows[Key], window: str | None = None) -> list[dict[str, Any]]:
    """As JSON: every key's totals since the sidecar began, and its windows, or the one that is asked for."""
    windows = known.lately(window)
    return [
        {
            **key._asdict(),
            "shadow": key.route == "mirror",
            "total": _told(figures),
            "windows": {name: _rates(length, added[key]) for name, (length, added) in windows.items()},
        }
        for key, figures in sorted(known.latest.items())
    ]


def quantiles(times: Times | None) -> dict[str, float | None]:
    """p50, p90 and p99; each None without requests."""
    return {name: None if times is None else times.quantile(share) for name, share in _QUANTILES.items()}


def _sharing(found: Figures, last: Figures | None) -> Figures:
    """The last snapshot's object where nothing changed: a quiet version costs no memory."""
    if last is None:
        return found
    if found == last:
        return last
    same = {kind: last.times[kind] for kind, times in found.times.items() if last.times.get(kind) == times}
    return Figures(found.requests, found.sums, {**found.times, **same})


def _added(now: Figures, then: Figures | None) -> Figures:
    """Nothing is ever less than nothing. What was first seen within the window counts from zero."""
    if then is None:
        return now
    return Figures(
        {outcome: max(count - then.requests.get(outcome, 0), 0) for outcome, count in now.requests.items()},
        {kind: max(total - then.sums.get(kind, 0), 0) for kind, total in now.sums.items()},
        {kind: times.minus(then.times.get(kind)) for kind, times in now.times.items()},
    )


def _told(figures: Figures) -> dict[str, Any]:
    """Sums are exact, for arithmetic: quantiles of several versions or Envoys cannot be added."""
    return {
        "requests": figures.count,
        "errors": figures.errors,
        "outcomes": [
            {"code": outcome.code, "grpc_status": outcome.grpc, "flags": outcome.flags, "requests": count}
            for outcome, count in sorted(figures.requests.items())
            if count
        ],
        "duration_seconds_sum": _seconds(figures, "duration_us"),
        "time_to_first_byte_seconds_sum": _seconds(figures, "first_byte_us"),
        "request_bytes": figures.sums.get("request_bytes"),
        "response_bytes": figures.sums.get("response_bytes"),
    }


def _seconds(figures: Figures, kind: str) -> float | None:
    return None if kind not in figures.sums else figures.sums[kind] / 1e6


def _rates(length: float, added: Figures) -> dict[str, Any]:
    return {
        "seconds": round(length, 3),
        **_told(added),
        "rps": round(added.count / length, 3) if length else 0.0,
        "duration_seconds": quantiles(added.times.get("duration")),
        "time_to_first_byte_seconds": quantiles(added.times.get("first_byte")),
    }
