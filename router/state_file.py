"""Rollout state in one JSON file: read once at the start, written whole and atomically, off the event loop.

Losing it costs little (candidates may get other slots, so some sticky users move once), so no trouble with the file
ever stops the control plane: it becomes a Problem, and writing is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import threading
from pathlib import Path

from router.problem import Problem
from router.step import RolloutState
from router.store import Store

log = logging.getLogger(__name__)

NAME = ".headgate-state.json"
"""Beside the manifests, hidden, so that nobody takes it for one."""

_FORMAT = 1


class StateFile:
    """A StateStore for the engine. `run` does the writing; changes during one write become one further write."""

    def __init__(self, path: Path, *, gap: float = 0.1, retry: float = 5.0) -> None:
        self._path = path
        self._gap = gap
        self._retry = retry
        self._changed = asyncio.Event()
        self._writing = threading.Lock()
        self._turn = itertools.count()
        self._newest = -1
        self._states, self._problems = load(path)
        for problem in self._problems:
            log.warning("%s", problem)

    def get(self, model: str) -> RolloutState | None:
        return self._states.get(model)

    def put(self, model: str, state: RolloutState) -> None:
        if self._states.get(model) != state:
            self._states[model] = state
            self._changed.set()

    def forget(self, model: str) -> None:
        if self._states.pop(model, None) is not None:
            self._changed.set()

    async def run(self, store: Store) -> None:
        """Write whatever changes, until cancelled; what is unwritten then is written before this returns."""
        store.report(str(self._path), self._problems)
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                trouble = await asyncio.to_thread(self._write, dict(self._states), next(self._turn))
                if store.report(str(self._path), () if trouble is None else (trouble,)) and trouble is not None:
                    log.warning("%s", trouble)
                if trouble is not None:
                    self._changed.set()
                await asyncio.sleep(self._gap if trouble is None else self._retry)
        finally:
            if self._changed.is_set():
                self._write(dict(self._states), next(self._turn))

    def _write(self, states: dict[str, RolloutState], turn: int) -> Problem | None:
        """The last write may overtake one that waits in the thread pool; the older one then writes nothing."""
        with self._writing:
            if turn < self._newest:
                return None
            self._newest = turn
            return save(self._path, states)


def save(path: Path, states: dict[str, RolloutState]) -> Problem | None:
    """Replace the file in one step: a reader, or a crash, sees either the old one or the new one."""
    text = json.dumps(
        {"format": _FORMAT, "states": {model: state.to_json() for model, state in sorted(states.items())}}, indent=1
    )
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        return Problem(
            str(path),
            "",
            f"rollout state cannot be saved: {(error.strerror or str(error)).lower()}",
            "sticky users may change versions once after a restart; make the folder writable or set another stateFile",
            "warning",
        )
    return None


def load(path: Path) -> tuple[dict[str, RolloutState], tuple[Problem, ...]]:
    """The states kept in a file, and what is wrong with it; a missing file is a fresh start, not a problem."""
    hint = "it starts afresh: sticky users may change versions once"
    try:
        raw = json.loads(path.read_bytes())
        if raw["format"] != _FORMAT:
            return {}, (Problem(str(path), "format", f"{raw['format']!r} is not known", hint, "warning"),)
        states = {str(model): RolloutState.from_json(state) for model, state in raw["states"].items()}
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        what = f"rollout state cannot be read: {(error.strerror or str(error)).lower()}"
        return {}, (Problem(str(path), "", what, hint, "warning"),)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, (Problem(str(path), "", "is not a state file of headgate, or damaged", hint, "warning"),)
    return states, ()
