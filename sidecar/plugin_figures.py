"""What plugins inside Envoy and beside it count, on its way to the sidecar: one file for each configuration of Envoy's
filter, and one for each process beside it, in a folder that both have to see.

A file is written anew every second. Its name is of its own: a process that comes later, of the same number, must not
seem to count backwards.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from sidecar.instruments import Family

FOLDER = "HEADGATE_PLUGIN_FIGURES"
STALE = 10.0
"""Nobody writes a file of this age, in seconds, any more."""
_LITTER = 3_600.0
_numbers = count()


def folder_named() -> Path | None:
    """The folder that the environment names."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None


def own_file(folder: Path) -> Path:
    """A file of one's own in the folder. Old litter is swept up."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.json*"):
            if time.time() - path.stat().st_mtime > _LITTER:
                path.unlink(missing_ok=True)
    except OSError:
        pass  # who writes the file will say so
    return folder / f"{time.time_ns()}-{os.getpid()}-{next(_numbers)}.json"


def document(families: Iterable[Family], **more: Any) -> dict[str, Any]:
    """What a file holds."""
    told = [
        {
            "name": family.name,
            "kind": family.kind,
            "help": family.help,
            "joined": family.joined,
            "samples": [[one.suffix, dict(one.labels), one.value] for one in family.samples],
        }
        for family in families
    ]
    return {**more, "families": told}


def write(path: Path, what: Mapping[str, Any]) -> None:
    """All of it or nothing: who reads finds the file from before, or this one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(what), "utf-8")
    fresh.replace(path)
