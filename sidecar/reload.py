"""Plugins that follow their files: a new pipeline when they change, the old one for as long as the new one is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar.loading import Fault, Loaded, PluginSpec, load
from sidecar.pipeline import Pipeline
from sidecar.places import Place
from sidecar.shared import SharedData

_log = logging.getLogger("headgate.plugins")

Entries = Sequence[PluginSpec | Mapping[str, Any]]


class Plugins:
    """`pipeline` is what new requests are to be given; those under way keep the one they began with."""

    def __init__(
        self,
        entries: Entries = (),
        folder: Path | None = None,
        shared: SharedData | None = None,
        place: Place | None = None,
    ) -> None:
        self.shared = shared or SharedData()  # outlives a reload
        self.reloads = 0
        self.failed_reloads = 0
        self.faults: tuple[Fault, ...] = ()
        self._entries = entries
        self._folder = folder
        self._place = place
        self.files: tuple[Path, ...] = ()
        first = self._load(entries)
        self.faults = first.faults
        self.pipeline = first.pipeline or Pipeline()

    def reload(self, entries: Entries | None = None) -> bool:
        """Load again, other entries if given. False when the old pipeline was kept; `faults` then tells why."""
        entries = self._entries if entries is None else entries
        loaded = self._load(entries)
        self.faults = loaded.faults
        if loaded.pipeline is None:
            self.failed_reloads += 1
            for fault in loaded.faults:
                _log.error("%s; the plugins stay as they were", fault)
            return False
        self._entries = entries
        self.pipeline = loaded.pipeline
        self.reloads += 1
        _log.info("plugins reloaded: %s", ", ".join(one.name for one in loaded.pipeline.plugins) or "none")
        return True

    async def watch(self, on_reload: Callable[[bool], None] | None = None) -> None:
        """Reload when a file changes, until cancelled."""
        from watchfiles import awatch

        while True:
            # Folders, because editors put a new file in the place of the old one.
            folders = {path.parent.resolve() for path in self.files if path.parent.is_dir()}
            if not folders:
                await asyncio.Event().wait()
            async for changes in awatch(*folders, recursive=False, step=20, debounce=200):
                if self._ours(path for _, path in changes):
                    good = self.reload()
                    if on_reload is not None:
                        on_reload(good)
                    if {path.parent.resolve() for path in self.files} != folders:
                        break

    def _ours(self, paths: Iterable[str]) -> bool:
        names = {path.resolve() for path in self.files}
        names |= {path.parent for path in names}  # Kubernetes changes a ConfigMap's files by a link to another folder
        return any(Path(path).resolve() in names for path in paths)

    def _load(self, entries: Entries) -> Loaded:
        loaded = load(entries, self._folder, self.shared, place=self._place)
        self.files = loaded.files
        return loaded
