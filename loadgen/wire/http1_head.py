"""The head of an HTTP/1.1 answer -> what it says: status, the fields of interest, how long its body is.

Heads come again and again, whole or line by line: what was read once is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

MAX_HEAD = 65536  # bytes of a status line and its header, or of trailers
CHUNKED, TO_THE_END = -1, -2
_REMEMBERED, _SHORT = 4096, 2048  # so many, of at most so many bytes

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})

K = TypeVar("K")
V = TypeVar("V")
_Field = tuple[str, str]
_NOTHING: _Field = ("", "")  # a line that is in order and of no interest


class ProtocolError(Exception):
    """What the server did that HTTP/1.1 does not allow."""


@dataclass(frozen=True, slots=True)
class Head:
    """`length` of the body in bytes, or CHUNKED, or TO_THE_END of the connection. `reusable`: whether another request
    may follow on the connection, if it goes on. `version`: the one that the fields tell, None if they do not. `plain`:
    a success with a body of known length.
    """

    status: int
    fields: Mapping[str, str]
    length: int
    reusable: bool
    version: str | None
    plain: bool


class Heads:
    """`names`: fields to look for, in lower case. The first of `version_names` that is there holds the version.

    `known` are whole heads seen before.
    """

    def __init__(self, names: Iterable[str] = (), version_names: Iterable[str] = ()) -> None:
        self._version_names = tuple(version_names)
        self._wanted = frozenset(names) | frozenset(self._version_names) | _FRAMING
        self._names: dict[bytes, str] = {}  # as sent -> in lower case, "" if of no interest
        self._lines: dict[bytes, _Field] = {}
        self._meanings: dict[tuple[bytes, tuple[_Field, ...]], Head] = {}
        self.known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """`block` ends with its empty line. Raises ProtocolError."""
        lines = _lines(block)
        start = lines.pop(0)
        fields, new = self._read_all(lines)
        meaning = start, tuple(fields)
        head = self._meanings.get(meaning)
        if head is None:
            head = self._understand(start, fields)
            if sum(len(value) for _, value in fields) <= _SHORT:
                _remember(self._meanings, meaning, head)
        if not new and len(block) <= _SHORT:  # those that differ each time, by a request's id, are not worth it
            _remember(self.known, block, head)
        return head

    def trailers(self, block: bytes) -> dict[str, str]:
        """Those of interest. Raises ProtocolError."""
        return _together(self._read_all(_lines(block))[0])

    def _read_all(self, lines: list[bytes]) -> tuple[list[_Field], bool]:
        """The fields of interest, and whether there was a line not seen before."""
        found = []
        known, new = self._lines, False
        for line in lines:
            field = known.get(line)
            if field is None:
                field = self._read_line(line)
                if len(line) <= _SHORT:
                    _remember(known, line, field)
                new = True
            if field is not _NOTHING:
                found.append(field)
        return found, new

    def _read_line(self, line: bytes) -> _Field:
        raw, colon, value = line.partition(b":")
        name = self._names.get(raw)
        if name is None or not colon:
            if not colon or not _TOKEN.fullmatch(raw):
                raise ProtocolError(f"{shown(line)} is not a header field")
            name = raw.decode().lower()
            name = _remember(self._names, raw, name if name in self._wanted else "")
        return (name, value.strip(b" \t").decode("utf-8", "replace")) if name else _NOTHING

    def _understand(self, start: bytes, found: list[_Field]) -> Head:
        match = _STATUS_LINE.fullmatch(start)
        if match is None:
            raise ProtocolError(f"an answer does not begin with {shown(start)}")
        fields = _together(found)
        status = int(match[2])
        length, reusable = _framing(fields, old=match[1] == b"0")
        version = next((fields[name] for name in self._version_names if fields.get(name)), None)
        plain = 200 <= status < 300 and status != 204 and length > 0
        return Head(status, fields, length, reusable, version, plain)


def _lines(block: bytes) -> list[bytes]:
    lines = block[:-4].split(b"\r\n")
    if not block.count(b"\r") == block.count(b"\n") == len(lines) + 1 or b"\0" in block:
        raise ProtocolError("its header holds a bare carriage return, a bare line feed or a NUL")
    return lines


def _remember(memory: dict[K, V], key: K, value: V) -> V:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = value
    return value


def _together(fields: list[_Field]) -> dict[str, str]:
    """What comes several times is a list."""
    found: dict[str, str] = {}
    for name, value in fields:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def check_unfinished(data: bytes, at: int) -> None:
    """Tell what cannot become a head any more from what only has not come yet. Raises ProtocolError."""
    start = data[at : at + 7]
    if not b"HTTP/1.".startswith(start):
        hint = ": does it speak HTTP/2 only?" if start.startswith(b"\0\0") else ""
        raise ProtocolError(f"an answer does not begin with {shown(data[at:])}{hint}")
    if _BARE_LF.search(data, at):
        raise ProtocolError("a line of its header ends without a carriage return")
    if len(data) - at > MAX_HEAD:
        raise ProtocolError(f"its header is longer than {MAX_HEAD} bytes")


def shown(data: bytes) -> str:
    return repr(data[:40])[1:] + ("..." if len(data) > 40 else "")


def _framing(fields: Mapping[str, str], old: bool) -> tuple[int, bool]:
    """RFC 9112, 6.3 and 9.3; `old` is HTTP/1.0."""
    connection = fields.get("connection")
    reusable = not old
    if connection:
        options = {option.strip() for option in connection.lower().split(",")}
        reusable = "keep-alive" in options if old else "close" not in options
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    size = TO_THE_END if length is None else _length(length)
    if coding is None:
        return size, reusable
    if old:
        raise ProtocolError("transfer-encoding does not exist in HTTP/1.0")
    if coding.lower().split(",")[-1].strip() != "chunked":
        return TO_THE_END, False
    return CHUNKED, reusable and length is None  # with both, somebody may be smuggling


def _length(text: str) -> int:
    """RFC 9110, 8.6: a list of the same number is that number."""
    values = {value.strip() for value in text.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise ProtocolError(f"content-length: {text!r} is not a length")
    return int(value)
