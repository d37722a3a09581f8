"""Which manifest files a folder holds now, and what about it cannot be read. One walk, no parsing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from router.problem import Problem

SUFFIXES = (".yaml", ".yml", ".json")
LARGEST = 10 * 1024 * 1024
"""A manifest above this is a mistake (a model, a dump): reading it would stall the others."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file changes. The inode tells an atomic replacement of equal size and time."""

    mtime_ns: int
    size: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_mtime_ns, found.st_size, found.st_ino)


@dataclass(slots=True)
class Scan:
    """`files` in path order. Files below `unreadable` were not seen, which does not mean that they are gone.

    `root` identifies the folder itself: a folder that was deleted and made again is another one to a file watcher.
    """

    root: tuple[int, int] | None = None
    files: dict[str, Stamp] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)
    links: bool = False

    def hides(self, path: str) -> bool:
        """Whether a file that was not seen may still be there."""
        return self.root is None or any(path == d or path.startswith(d + os.sep) for d in self.unreadable)


def is_manifest(name: str) -> bool:
    """By name only. Hidden names are editors' swap files and the `..data` of Kubernetes mounts."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def scan(root: Path) -> Scan:
    """Walk `root` (a folder, or one file), following links, each file once."""
    found = Scan()
    try:
        top = root.stat()
    except (OSError, ValueError) as error:
        found.problems[str(root)] = Problem(
            str(root),
            "",
            f"cannot be read: {why(error)}",
            "everything already loaded is kept; create the folder or mend its rights",
        )
        return found
    found.root = (top.st_dev, top.st_ino)
    if stat.S_ISREG(top.st_mode):
        found.files[str(root)] = Stamp.of(top)
        return found
    seen: set[tuple[int, int]] = set()
    for path, status in _walk(str(root), (found.root,), found):
        identity = (status.st_dev, status.st_ino)
        if status.st_ino and identity in seen:
            continue  # a second name of the same file
        seen.add(identity)
        found.files[path] = Stamp.of(status)
    return found


def _walk(folder: str, above: tuple[tuple[int, int], ...], found: Scan) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if len(above) == 1:
            found.root = None
        found.unreadable.append(folder)
        found.problems[folder] = Problem(
            folder, "", f"cannot be listed: {why(error)}", "what was loaded from it is kept"
        )
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            linked = entry.is_symlink()
            found.links = found.links or linked
            status = entry.stat()
        except FileNotFoundError:
            if entry.is_symlink():  # a volume that went away, more likely than a wish
                found.unreadable.append(entry.path)
                found.problems[entry.path] = Problem(
                    entry.path,
                    "",
                    f"is a link to {_target(entry.path)}, which does not exist",
                    "mend or delete the link; what was loaded through it is kept",
                    "error" if is_manifest(entry.name) else "warning",
                )
            continue  # otherwise it was deleted since it was listed
        except OSError as error:
            found.unreadable.append(entry.path)
            found.problems[entry.path] = Problem(entry.path, "", f"cannot be followed: {why(error)}")
            continue
        if stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                found.problems[entry.path] = Problem(
                    entry.path,
                    "",
                    f"is a link to {_target(entry.path)}, a folder that contains it; it is not followed",
                    "delete the link",
                )
                continue
            yield from _walk(entry.path, (*above, identity), found)
        elif is_manifest(entry.name):
            if stat.S_ISREG(status.st_mode):
                yield entry.path, status
            else:
                found.problems[entry.path] = Problem(
                    entry.path, "", "is not a regular file", "only files, folders and links to them are read"
                )


def read(path: str) -> tuple[bytes, Stamp] | Problem:
    """Read one manifest, with the stamp of the very bytes that were read."""
    try:
        # Not blocking: between the walk and now, a pipe may have taken the place of the file.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return _irregular(path)
            data = file.read(LARGEST + 1)
    except OSError as error:
        return Problem(path, "", f"cannot be read: {why(error)}", "what was loaded from it is kept")
    if len(data) > LARGEST:
        return Problem(
            path,
            "",
            f"is larger than {LARGEST // 1024 // 1024} MB",
            "split it into several files; what was loaded from it is kept",
        )
    return data, Stamp.of(status)


def _irregular(path: str) -> Problem:
    return Problem(path, "", "is not a regular file", "only files, folders and links to them are read")


def why(error: OSError | ValueError) -> str:
    """The system's words without the number and the path, which the user sees anyway."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return "nowhere"
