"""Which file's object is served under each name, and when an object that no file offers any more may go.

Files come and go in here; out come the puts and drops for the Store. Two rules keep traffic safe:

* Adds before removals. An object that moved to another file was never gone, and a removal is only believed when it
  is still true a moment later (`confirm`): editors and `mv` delete and write anew.
* When at least half of the objects lose their files at once, that is more likely a volume that went away than a wish.
  They stay for `hold` seconds, with a Problem that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.manifests import Located
from router.problem import Problem

FEWEST = 4
"""Below this number of objects, losing half of them is an ordinary edit."""


@dataclass(frozen=True, slots=True)
class Held:
    """A mass deletion that is not believed yet: `missing` of `known` objects, until `until` (monotonic seconds)."""

    missing: int
    known: int
    until: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What the Store is to be told. `duplicates` has an entry for every file whose duplicates may have changed."""

    puts: Mapping[str, Located]
    drops: tuple[str, ...]
    duplicates: Mapping[str, tuple[Problem, ...]]
    held: Held | None
    again_at: float | None


@dataclass(frozen=True, slots=True)
class _Missing:
    since: float
    with_its_file: bool


class Catalog:
    """Pure: no clock, no files. `settle(now)` costs as much as what changed, not as much as there is."""

    def __init__(self, *, hold: float = 60.0, confirm: float = 0.2) -> None:
        self._hold = max(hold, confirm)
        self._confirm = confirm
        self._files: dict[str, dict[str, Located]] = {}
        self._offers: dict[str, dict[str, bool]] = {}  # name -> file -> is it the last good of a file now broken?
        self._served: dict[str, tuple[str, Located]] = {}
        self._missing: dict[str, _Missing] = {}
        self._touched: dict[str, bool] = {}  # name -> did its whole file go?
        self._files_touched: dict[str, None] = {}

    def files(self) -> tuple[str, ...]:
        return tuple(self._files)

    def stale(self, path: str) -> tuple[str, ...]:
        """Names that are served, or would be, from an earlier state of a file that is broken now."""
        return tuple(name for name in self._files.get(path, ()) if self._offers[name][path])

    def file(self, path: str, objects: Mapping[str, Located], *, complete: bool) -> None:
        """Take what a file holds. If it could not be read completely, what it held before stays beside it."""
        before = self._files.get(path, {})
        now = dict(objects)
        for name in before.keys() - now.keys():
            if complete:
                self._withdraw(name, path, with_its_file=False)
            else:
                now[name] = before[name]
        self._files[path] = now
        self._files_touched[path] = None
        for name in now:
            self._offers.setdefault(name, {})[path] = name not in objects
            self._touched[name] = False

    def gone(self, path: str) -> None:
        """The file exists no longer."""
        for name in self._files.pop(path, {}):
            self._withdraw(name, path, with_its_file=True)
        self._files_touched[path] = None

    def settle(self, now: float) -> Changes:
        """Decide what is served. Call it again at `again_at`, even if nothing changes."""
        puts: dict[str, Located] = {}
        for name, with_its_file in self._touched.items():
            offers = self._offers.get(name)
            if not offers:
                if name in self._served and name not in self._missing:
                    self._missing[name] = _Missing(now, with_its_file)
                continue
            self._missing.pop(name, None)
            winner = self._winner(name, offers)
            located = self._files[winner][name]
            if self._served.get(name) != (winner, located):
                self._served[name] = (winner, located)
                puts[name] = located
            self._files_touched.update(dict.fromkeys(offers))
        self._touched = {}
        drops, held, again_at = self._removals(now)
        duplicates = {path: self._duplicates(path) for path in self._files_touched}
        self._files_touched = {}
        return Changes(puts, drops, duplicates, held, again_at)

    def _withdraw(self, name: str, path: str, *, with_its_file: bool) -> None:
        offers = self._offers[name]
        del offers[path]
        self._files_touched.update(dict.fromkeys(offers))
        if not offers:
            del self._offers[name]
        self._touched[name] = with_its_file

    def _winner(self, name: str, offers: Mapping[str, bool]) -> str:
        """The file already serving the name, else the first by path; a broken file's memory comes last."""
        serving = self._served.get(name, ("", None))[0]
        return min(offers, key=lambda path: (offers[path], path != serving, path))

    def _removals(self, now: float) -> tuple[tuple[str, ...], Held | None, float | None]:
        if not self._missing:
            return (), None, None
        lost = [m.since for m in self._missing.values() if m.with_its_file]
        mass = len(self._served) >= FEWEST and 2 * len(lost) >= len(self._served)
        known = len(self._served)
        drops: list[str] = []
        later: list[float] = []
        until = 0.0
        for name, missing in self._missing.items():
            held = mass and missing.with_its_file
            due = missing.since + (self._hold if held else self._confirm)
            if now >= due:
                drops.append(name)
            else:
                later.append(due)
                until = max(until, due) if held else until
        for name in drops:
            del self._missing[name], self._served[name]
        return tuple(drops), Held(len(lost), known, until) if until else None, min(later, default=None)

    def _duplicates(self, path: str) -> tuple[Problem, ...]:
        return tuple(
            Problem(
                located.where,
                "metadata.name",
                f"{name} is already defined in {self._served[name][1].where}; that one is used, this one is not",
                "rename or delete one of the two",
            )
            for name, located in self._files.get(path, {}).items()
            if self._served[name][0] != path
        )
