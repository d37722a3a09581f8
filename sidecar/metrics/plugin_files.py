"""Files of plugins inside Envoy in, their metrics for the sidecar's /metrics out.

Every configuration of Envoy's filter counts for itself; the same metric of several is added up. What a configuration
had counted stays counted when it is gone. Files are another process's: what is wrong in one is left out and told.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from sidecar.instruments import Family, Kind, Labels, Sample
from sidecar.metrics.pages import More
from sidecar.plugin_figures import STALE

MOST_FILES, MOST_BYTES, MOST_SAMPLES = 1_000, 4 << 20, 20_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,199}")
_SUFFIXES = {
    "counter": frozenset({"_total"}),
    "gauge": frozenset({""}),
    "histogram": frozenset({"_bucket", "_sum", "_count"}),
}
_Key = tuple[str, Labels]
_log = logging.getLogger("sidecar")


class PluginFiles(More):
    """`families` reads the folder, at each scrape: a few files."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._now: dict[str, tuple[Family, ...]] = {}
        self._past: dict[str, Family] = {}
        self._wrong: dict[str, str] = {}

    def families(self) -> tuple[Family, ...]:
        found = self._read()
        for name in self._now.keys() - found.keys():
            gone = (family for family in self._now[name] if family.kind != "gauge")
            self._past = added((*self._past.values(), *gone))
        self._now = found
        return tuple(added((*self._past.values(), *(one for each in found.values() for one in each))).values())

    def _read(self) -> dict[str, tuple[Family, ...]]:
        found: dict[str, tuple[Family, ...]] = {}
        for path in sorted(self._folder.glob("*.json"))[-MOST_FILES:]:
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
        return found


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
    return Family(name, cast(Kind, kind), str(told["help"]), tuple(samples))


def added(families: Iterable[Family]) -> dict[str, Family]:
    """One family of each name; one of another kind than the first is left out."""
    first: dict[str, Family] = {}
    sums: dict[str, dict[_Key, float]] = {}
    for family in families:
        if first.setdefault(family.name, family).kind != family.kind:
            continue
        into = sums.setdefault(family.name, {})
        for one in family.samples:
            key = (one.suffix, one.labels)
            if key in into or len(into) < MOST_SAMPLES:
                into[key] = into.get(key, 0.0) + one.value
    return {
        name: Family(name, one.kind, one.help, tuple(Sample(*key, value) for key, value in sums[name].items()))
        for name, one in first.items()
    }
