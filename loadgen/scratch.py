"""The folder in which a run hands its plan to an engine. Those that killed processes have left are removed.

A folder is in use as long as its owner lives: it holds a lock in it, which the kernel takes back when it dies. A lock
tells more than a process id, as containers that share a disk count their processes each for themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "headgate-load-"
_LOCK = "in-use"
_AGE = 60.0  # seconds: a younger one may be about to be locked


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is there as long as the block runs. Raises OSError where there can be none."""
    _clear(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, Path(name, _LOCK).open("wb") as lock:
        with contextlib.suppress(OSError):  # where a disk knows no locks nobody gets one, and nothing is removed
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(name)


def _clear(folder: Path) -> None:
    for each in folder.glob(f"{PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # somebody else's, or it has gone
            _remove_if_left(each)


def _remove_if_left(lock: Path) -> None:
    left = lock.lstat()
    if left.st_uid != os.getuid() or lock.parent.is_symlink() or time.time() - left.st_mtime < _AGE:
        return
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.parent)
