"""What the plugins of this process count, for the sidecar beside it: a file, written every second."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from sidecar.ext_proc.application import Application
from sidecar.instruments import added
from sidecar.plugin_figures import document, own_file, write

EVERY = 1.0
_log = logging.getLogger("headgate.plugins")


class FigureFile:
    """`run` it as a task, and `write` once more at the end. The file stays: what it says last is counted, too."""

    def __init__(self, application: Application, folder: Path) -> None:
        self._application, self._folder = application, folder
        self._path = own_file(folder)
        self._trouble = ""

    async def run(self) -> None:
        while True:
            self.write()
            await asyncio.sleep(EVERY)

    def write(self) -> None:
        """What hinders is told once: requests are answered all the same."""
        now = time.monotonic()
        families = added(family for one in self._application.pipelines() for family in one.families(now))
        trouble = ""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write(self._path, document(families))
        except OSError as error:
            trouble = f"{self._folder}: {(error.strerror or str(error)).lower()}"
            if trouble != self._trouble:
                _log.warning("the sidecar gets no metrics of plugins: %s; trying again every second", trouble)
        self._trouble = trouble
