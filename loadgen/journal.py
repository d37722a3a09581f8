"""What a run has measured so far, on disk: what is in there outlives the engine.

Length-prefixed, compressed msgpack, one report each: cheap to append. Reports add up, so that a long file is replaced
by the sum of its reports.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgpack

from loadgen.parts import Report

_LENGTH = struct.Struct("<I")
_COMPACT = 32 << 20  # bytes


class Journal:
    """Appends. A disk that is full ends the journal and not the run: `trouble` says so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble = ""
        self._size = 0
        try:
            path.write_bytes(b"")
        except OSError as error:
            self._fail(error)

    def append(self, report: Report) -> None:
        if not self.trouble:
            self._write(encoded(report), "ab")

    @property
    def long(self) -> bool:
        return self._size > _COMPACT

    def replace(self, reports: Iterable[Report]) -> None:
        """By reports that say the same."""
        if self.trouble:
            return
        new = self.path.with_name(self.path.name + ".new")
        data = b"".join(map(encoded, reports))
        try:
            new.write_bytes(data)
            new.replace(self.path)
        except OSError as error:
            self._fail(error)
        self._size = 0

    def _write(self, data: bytes, mode: str) -> None:
        try:
            with self.path.open(mode) as file:
                file.write(data)
        except OSError as error:
            self._fail(error)
        self._size += len(data)

    def _fail(self, error: OSError) -> None:
        self.trouble = f"what is measured cannot be kept as it comes: {self.path}: {error.strerror or error}"


def encoded(report: Report) -> bytes:
    """As it stands in a journal."""
    data = zlib.compress(msgpack.packb(report.to_plain()), 1)
    return _LENGTH.pack(len(data)) + data


def read(path: Path) -> Iterator[Report]:
    """As many reports as are whole: the last one may have been cut off. Raises OSError."""
    data = path.read_bytes()
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            return
        yield Report.from_plain(msgpack.unpackb(zlib.decompress(data[at : at + length])))
        at += length
