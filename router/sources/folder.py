"""Rollouts from a folder of manifests: file events in, puts, drops and problems into the Store.

    watchfiles ──► which paths? ──► stamps ──► read + parse what changed ──► Catalog ──► Store
    every 30 s ──► all of them ──┘             (worker thread)               (pure)

Events make it fast; the periodic rescan makes it certain (network mounts lose events, a queue can overflow).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

from router.hints import counted
from router.manifests import Located, parse
from router.problem import Problem
from router.sources.catalog import Catalog, Held
from router.sources.scan import Scan, Stamp, is_manifest, read, scan
from router.store import Store

log = logging.getLogger(__name__)

_CHUNK = 64
_PROGRESS_EVERY = 3.0
_MISSING_EVERY = 1.0
_POLL_EVERY = 1.0
_RACY_NS = 2_000_000_000
"""A file this young when it was read may change again without a new mtime: the next rescan reads it anew."""


@dataclass(frozen=True, slots=True)
class _Content:
    """One file as read. `objects` is None if it could not be read at all."""

    path: str
    stamp: Stamp | None
    digest: int | None = None
    same: bool = False
    objects: dict[str, Located] | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """What was seen of a file. `stamp` None: have another look at the next rescan."""

    stamp: Stamp | None
    digest: int | None


class Folder:
    """The folder (or single file) `root`. `hold` guards against mass deletion, see `Catalog`.

    A folder that does not exist, or vanishes, keeps everything that was loaded and is awaited. `force_polling` (or
    WATCHFILES_FORCE_POLLING=1) is for mounts that send no events, such as NFS.
    """

    def __init__(
        self,
        root: Path,
        *,
        hold: float = 60.0,
        confirm: float = 0.2,
        rescan: float = 30.0,
        force_polling: bool | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        logger: logging.Logger = log,
    ) -> None:
        self.root = root
        self.loaded = asyncio.Event()
        self._catalog = Catalog(hold=hold, confirm=confirm)
        self._rescan = rescan
        self._polling = _asked_to_poll() if force_polling is None else force_polling
        self._monotonic = monotonic
        self._wall = wall
        self._log = logger
        self._known: dict[str, _Known] = {}
        self._links = False
        self._watching: tuple[int, int] | None = None
        self._hints: set[str] = set()
        self._woken = asyncio.Event()
        self._content_problems: dict[str, tuple[Problem, ...]] = {}
        self._duplicates: dict[str, tuple[Problem, ...]] = {}
        self._scan_problems: set[str] = set()
        self._held: Held | None = None
        self._missing = False

    async def run(self, store: Store) -> None:
        """Load everything, set `loaded`, follow changes until cancelled."""
        watch: asyncio.Task[None] | None = None
        rescan_at = again_at = self._monotonic()
        try:
            while True:
                now = self._monotonic()
                hints, self._hints = self._hints, set()
                self._woken.clear()
                if now >= rescan_at or self._need_walk(hints):
                    found = await asyncio.to_thread(scan, self.root)
                    anew = str(self.root) in hints or (watch is not None and watch.done())
                    if found.root != self._watching or anew:
                        # Watch before looking: what changes between the two is then seen by one of them.
                        await _cancel(watch)
                        watch = None
                        self._watching = found.root
                        if found.root is not None and not self._polling:
                            watch = asyncio.create_task(self._watch(), name=f"watch {self.root}")
                            await asyncio.sleep(0)
                            found = await asyncio.to_thread(scan, self.root)
                    await self._walked(found, store, hints)
                    ended = self._monotonic()
                    rescan_at = ended + self._pause(ended - now)
                else:
                    await self._look(sorted(hints), store)
                again_at = self._settle(store)
                if not self.loaded.is_set() and not self._missing:
                    self._log.info("%s: %s loaded", self.root, counted(len(store.keys()), "rollout"))
                    self.loaded.set()
                delay = min(rescan_at, again_at) - self._monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(delay, 0)):
                        await self._woken.wait()
        finally:
            await _cancel(watch)

    def _pause(self, took: float) -> float:
        """Until the next rescan. Polling a large or slow folder must not become all that we do."""
        if self._missing:
            return min(_MISSING_EVERY, self._rescan)
        return min(max(_POLL_EVERY, 10 * took), self._rescan) if self._polling else self._rescan

    # Events

    async def _watch(self) -> None:
        """Collect the paths of events. Ends when the folder goes away; the next rescan begins a new watch.

        Where the system has no watches left, or none at all, polling takes over. It is our own: watchfiles' compares
        whole seconds and misses the second of two quick changes.
        """
        try:
            async for changes in awatch(
                self.root,
                watch_filter=None,
                debounce=50,
                step=10,
                force_polling=False,
                ignore_permission_denied=True,
            ):
                # Paths come absolute even if the folder's name is not.
                self._hints.update(os.path.join(self.root, *self._inside(path)) for _, path in changes)  # noqa: PTH118
                self._woken.set()
        except FileNotFoundError:
            pass
        except (OSError, RuntimeError) as error:
            self._polling = True
            self._log.warning("%s: cannot be watched (%s); it is polled instead", self.root, error)
        self._woken.set()

    def _need_walk(self, hints: Iterable[str]) -> bool:
        """Whether these events may concern more than manifest files named by themselves."""
        return any(self._may_be_more(path) for path in hints)

    def _may_be_more(self, path: str) -> bool:
        inside = self._inside(path)
        hidden = [part for part in inside if part.startswith(".")]
        if not inside or hidden:
            # The folder itself; or what a link leads to, as Kubernetes exchanges `..data` below its mounts.
            return not inside or self._links or hidden[0].startswith("..")
        if path in self._scan_problems or os.path.isdir(path):  # noqa: PTH112
            return True
        if is_manifest(inside[-1]):
            return path not in self._known and (self._links or os.path.islink(path))  # noqa: PTH114
        # An editor's scratch file, unless it was a folder that went or was renamed.
        below = path + os.sep
        return any(other.startswith(below) for other in (*self._known, *self._scan_problems))

    def _inside(self, path: str) -> tuple[str, ...]:
        return Path(os.path.relpath(path, self.root)).parts

    async def _look(self, paths: list[str], store: Store) -> None:
        """Read the named manifests anew, whatever their stamps say: an event came."""
        present: list[str] = []
        for path in paths:
            inside = self._inside(path)
            if any(part.startswith(".") for part in inside) or not is_manifest(inside[-1]):
                continue
            if os.path.lexists(path):  # noqa: ASYNC240 - one stat; the file was just written
                present.append(path)
            elif path in self._known:
                self._forget(path)
        await self._read(present, store)

    async def _walked(self, found: Scan, store: Store, hints: set[str]) -> None:
        """Compare a whole walk with what is known."""
        self._report_scan(found, store)
        if found.root is None:
            return
        changed = [
            path
            for path, stamp in found.files.items()
            if path in hints or (known := self._known.get(path)) is None or known.stamp != stamp
        ]
        await self._read(changed, store)
        for path in [path for path in self._known if path not in found.files and not found.hides(path)]:
            self._forget(path)

    def _report_scan(self, found: Scan, store: Store) -> None:
        """Tell what cannot be walked. These problems have origins of their own: a file may have others."""
        self._links = found.links
        for where in self._scan_problems - found.problems.keys():
            store.report(f"{where} ", ())
        for where, problem in found.problems.items():
            if store.report(f"{where} ", (problem,)) and found.root is not None:
                self._log.warning("%s", problem)
        self._scan_problems = set(found.problems)
        if found.root is None:
            if not self._missing:
                self._log.warning("%s", found.problems[str(self.root)])
            self._missing = True
            return
        if self._missing:
            self._log.info("%s: is there again", self.root)
            self._missing = False

    # Contents

    async def _read(self, paths: list[str], store: Store) -> None:
        """Read and parse in a worker thread, so that a file of 10,000 lines delays no Envoy."""
        started = said = self._monotonic()
        for first in range(0, len(paths), _CHUNK):
            chunk = [(path, self._known.get(path)) for path in paths[first : first + _CHUNK]]
            for content in await asyncio.to_thread(_contents, chunk, self._wall()):
                self._take(content)
            now = self._monotonic()
            if now - said >= _PROGRESS_EVERY:
                said = now
                done = min(first + _CHUNK, len(paths))
                self._log.info("%s: read %d of %d manifests in %.0f s", self.root, done, len(paths), now - started)
            if not self.loaded.is_set():
                self._settle(store)

    def _take(self, content: _Content) -> None:
        path = content.path
        self._known[path] = _Known(content.stamp, content.digest)
        if content.same:
            return
        if content.objects is None:
            self._catalog.file(path, {}, complete=False)
        else:
            broken = any(problem.severity == "error" for problem in content.problems)
            self._catalog.file(path, content.objects, complete=not broken)
        self._content_problems[path] = content.problems

    def _forget(self, path: str) -> None:
        del self._known[path]
        self._content_problems.pop(path, None)
        self._catalog.gone(path)

    def _settle(self, store: Store) -> float:
        """Tell the Store what the catalog decided: adds before removals. Return when to decide again."""
        changes = self._catalog.settle(self._monotonic())
        for name, located in changes.puts.items():
            store.put(name, located)
        for name in changes.drops:
            store.drop(name)
        for path, duplicates in changes.duplicates.items():
            stale = self._catalog.stale(path)
            problems = (*self._content_problems.get(path, ()), *duplicates)
            if store.report(path, problems, stale) and problems:
                first = min(problems, key=lambda one: one.severity != "error")
                level = logging.ERROR if first.severity == "error" else logging.WARNING
                self._log.log(level, "%s%s", first, f", and {len(problems) - 1} more" if len(problems) > 1 else "")
        self._report_held(changes.held, store)
        return changes.again_at if changes.again_at is not None else float("inf")

    def _report_held(self, held: Held | None, store: Store) -> None:
        if held == self._held:
            return
        self._held = held
        if held is None:
            store.report(f"{self.root} removals", ())
            return
        until = time.strftime("%H:%M:%S", time.localtime(self._wall() + held.until - self._monotonic()))
        problem = Problem(
            str(self.root),
            "",
            f"{held.missing} of {held.known} rollouts lost their files at once; they are kept until {until}",
            "put the files back, or wait if they were meant to go",
            "warning",
        )
        self._log.warning("%s", problem)
        store.report(f"{self.root} removals", (problem,))


def load_once(root: Path, store: Store, logger: logging.Logger = log) -> int:
    """Read everything once, without following it, and return the number of files. Blocks; for offline use."""
    folder = Folder(root, logger=logger)
    found = scan(root)
    folder._report_scan(found, store)
    for path in found.files:
        folder._take(_content(path, None, 0.0))
    folder._settle(store)
    return len(found.files)


def _contents(chunk: list[tuple[str, _Known | None]], wall: float) -> list[_Content]:
    return [_content(path, known, wall) for path, known in chunk]


def _content(path: str, known: _Known | None, wall: float) -> _Content:
    got = read(path)
    if isinstance(got, Problem):
        return _Content(path, None, problems=(got,))
    data, stamp = got
    digest = hash(data)
    kept = None if stamp.mtime_ns > wall * 1e9 - _RACY_NS else stamp
    if known is not None and known.digest == digest:
        return _Content(path, kept, digest, same=True)
    if not data.strip():  # how a file looks while it is written, or when the disk is full
        empty = Problem(path, "", "is empty", "what it held is kept; delete the file to delete its rollouts", "warning")
        return _Content(path, kept, digest, problems=(empty,))
    try:
        parsed = parse(data, path)
    except Exception as error:  # our bug, in one file: the others must still be read
        log.exception("%s: cannot be parsed", path)
        what = f"cannot be parsed: {type(error).__name__}: {error}"
        return _Content(path, kept, digest, problems=(Problem(path, "", what, "this is a defect of headgate"),))
    objects = {located.rollout.key: located for located in parsed.rollouts}
    return _Content(path, kept, digest, objects=objects, problems=parsed.problems)


def _asked_to_poll() -> bool:
    """The variable that users of watchfiles know, for mounts without events."""
    return os.environ.get("WATCHFILES_FORCE_POLLING", "").lower() not in ("", "0", "false", "disable", "disabled")


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
