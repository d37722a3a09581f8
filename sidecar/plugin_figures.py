"""What plugins inside Envoy count, on its way to the sidecar: one file for each configuration of the filter.

Envoy's environment names the folder, which both have to see. A file is written anew every second, and is removed with
its configuration. Its name is of its own: a process that comes later, of the same number, must not seem to count
backwards.
"""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path

FOLDER = "HEADGATE_PLUGIN_FIGURES"
STALE = 10.0
"""Nobody writes a file of this age, in seconds, any more."""
_LITTER = 3_600.0
_numbers = count()


def own_file() -> Path | None:
    """A file of one's own in the folder, None if Envoy's environment names no folder. Old litter is swept up."""
    named = os.environ.get(FOLDER)
    if not named:
        return None
    folder = Path(named)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.json*"):
            if time.time() - path.stat().st_mtime > _LITTER:
                path.unlink(missing_ok=True)
    except OSError:
        pass  # who writes the file will say so
    return folder / f"{time.time_ns()}-{os.getpid()}-{next(_numbers)}.json"
