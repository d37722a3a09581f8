"""Files of plugins inside Envoy and beside it in, their metrics for the sidecar's /metrics out.

Every configuration of Envoy's filter counts for itself, and so does every process beside it; the same metric of several
is added up. What they had counted stays counted when they are gone, or begin at zero. Files are another process's: what
is wrong in one is left out and told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sidecar.instruments import Family, Joined, Kind, Labels, Sample, added
from sidecar.metrics.pages import More
from sidecar.plugin_figures import STALE

MOST_FILES, MOST_BYTES, MOST_SAMPLES = 1_000, 4 << 20, 20_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,199}")
_SUFFIXES = {
    "counter": frozenset({"_total"}),
    "gauge": frozenset({""}),
    "histogram": frozenset({"_bucket", "_sum", "_count"}),
}
_log = logging.getLogger("sidecar")


class PluginFiles(More):
    """`families` reads the folder, at each scrape: a few files. `run` reads it in between."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._now: dict[str, tuple[Family, ...]] = {}
        self._silent: dict[str, tuple[Family, ...]] = {}
        """What files had counted that nobody writes any more: who was only held up may come back."""
        self._past: tuple[Family, ...] = ()
        self._wrong: dict[str, str] = {}

    async def run(self, interval: float) -> None:
        """Look often, so that little is missed of who counts and ends between two scrapes."""
        while True:
            self.look()
            await asyncio.sleep(interval)

    def families(self) -> tuple[Family, ...]:
        self.look()
        files = (*self._silent.values(), *self._now.values())
        return added((*self._past, *(one for each in files for one in each)))

    def look(self) -> None:
        """Read the folder."""
        found, there = self._read()
        for name in self._now.keys() - found.keys():
            self._silent[name] = tuple(family for family in self._now[name] if family.kind != "gauge")
        for name in self._silent.keys() - there:
            self._past = added((*self._past, *self._silent.pop(name)))
        for name, families in found.items():
            before = self._silent.pop(name, None) or self._now.get(name, ())
            if lost := tuple(_begun_anew(before, families)):
                self._past = added((*self._past, *lost))
        self._now = found

    def _read(self) -> tuple[dict[str, tuple[Family, ...]], set[str]]:
        """What files say that are written, and the names of all that are there."""
        found: dict[str, tuple[Family, ...]] = {}
        paths = sorted(self._folder.glob("*.json"))[-MOST_FILES:]
        for path in paths:
            try:
                status = path.stat()
                if self._clock() - status.st_mtime > STALE:
                    continue
                if status.st_size > MOST_BYTES:
                    raise ValueError(f"it is longer than {MOST_BYTES:,} bytes")
                found[path.name] = parsed(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                if self._wrong.get(path.name) != str(error):
                    self._wrong = {path.name: str(error)}
                    _log.warning("metrics of plugins in %s are left out: %s", path, error)
                if path.name in self._now:
                    found[path.name] = self._now[path.name]
        return found, {path.name for path in paths}


def parsed(text: bytes) -> tuple[Family, ...]:
    """The families of one file; ValueError says what else it is."""
    try:
        families = json.loads(text)["families"]
        return tuple(_family(one) for one in families)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is no file of plugins' metrics: {error!r}") from None


def _family(told: dict[str, Any]) -> Family:
    name, kind = told["name"], told["kind"]
    if not _NAME.fullmatch(name) or kind not in _SUFFIXES:
        raise ValueError(f"{str(name)[:60]!r} is no metric")
    if len(told["samples"]) > MOST_SAMPLES:
        raise ValueError(f"{name} has more than {MOST_SAMPLES:,} samples")
    samples = []
    for suffix, labels, value in told["samples"]:
        if suffix not in _SUFFIXES[kind] or not all(map(_NAME.fullmatch, labels)):
            raise ValueError(f"a sample of {name} is wrong: {str((suffix, labels))[:100]}")
        samples.append(Sample(suffix, tuple((label, str(said)) for label, said in labels.items()), float(value)))
    joined: Joined = "mean" if told.get("joined") == "mean" else "sum"
    return Family(name, cast(Kind, kind), str(told["help"]), tuple(samples), joined)


def _begun_anew(before: Iterable[Family], after: Iterable[Family]) -> Iterator[Family]:
    """What counters and histograms had reached that are gone, or count from zero, as after a reload of plugins."""
    now = {(family.name, one.suffix, one.labels): one.value for family in after for one in family.samples}
    for family in before:
        if family.kind == "gauge":
            continue
        anew = {
            _series(one)
            for one in family.samples
            if one.suffix != "_sum" and now.get((family.name, one.suffix, one.labels), -1.0) < one.value
        }
        if anew:
            yield replace(family, samples=tuple(one for one in family.samples if _series(one) in anew))


def _series(one: Sample) -> Labels:
    """All buckets of a histogram go together."""
    return tuple(label for label in one.labels if label[0] != "le")
