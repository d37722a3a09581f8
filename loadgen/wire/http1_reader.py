"""Bytes of a connection -> HTTP/1.1 answers, one after another. No sockets, no clock: drive it by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_HEAD = 65536  # bytes of a status line and its header, or of trailers
MAX_LINE = 4096  # bytes of a chunk's size and extensions
MAX_BODY_KEPT = 1 << 20
MAX_ERROR_KEPT = 2048
_EVERYTHING = 1 << 62
_REMEMBERED = 4096  # lines

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*((?:[^\r\n\0]*[^\r\n\0 \t])?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})

_HEAD, _LENGTH, _CHUNK_SIZE, _CHUNK, _CHUNK_END, _TRAILERS, _TO_THE_END, _COMPLETE = range(8)

_Field = tuple[str, str]
_NOTHING: _Field = ("", "")  # a line that is in order and of no interest


class ProtocolError(Exception):
    """What the server did that HTTP/1.1 does not allow."""


class Reader:
    """Call `expect`, then `feed` with what arrives, until it says that the answer is complete.

    `names`: header fields to look for, in lower case. `status` and `fields` are there once the head has come, `fields`
    taking those of trailers in as well. `body` holds parts of the body: of a successful stream all (the caller takes
    them out), otherwise at most MAX_BODY_KEPT with `keep_body`, and of errors a little to show. `reusable`: whether
    another request may follow on the connection.
    """

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_keep_body",
        "_left",
        "_lines",
        "_names",
        "_room",
        "_state",
        "_stream",
        "body",
        "fields",
        "reusable",
        "status",
    )

    def __init__(self, names: Iterable[str] = (), keep_body: bool = False, stream: bool = False) -> None:
        self._names = frozenset(names) | _FRAMING
        self._keep_body, self._stream = keep_body, stream
        self._lines: dict[bytes, _Field] = {}
        self._buffer = b""
        self._left = self._room = 0
        self._state = _COMPLETE
        self._bodiless = False
        self.status = 0
        self.fields: dict[str, str] = {}
        self.body: list[bytes] = []
        self.reusable = False

    def expect(self, bodiless: bool = False) -> None:
        """The next answer is about to come; `bodiless` if it answers a HEAD."""
        self._state = _HEAD
        self._buffer = b""
        self._bodiless = bodiless
        self.status = 0
        self.fields = {}
        self.body = []
        self.reusable = False

    def feed(self, data: bytes) -> bool:
        """True when the answer is complete. Raises ProtocolError; the connection is then of no more use."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        at = 0
        while True:
            state, before = self._state, at
            if state == _HEAD:
                at = self._head(data, at)
            elif state == _LENGTH:
                at = self._take(data, at, _COMPLETE)
            elif state == _CHUNK_SIZE:
                at = self._chunk_size(data, at)
            elif state == _CHUNK:
                at = self._take(data, at, _CHUNK_END)
            elif state == _CHUNK_END:
                at = self._chunk_end(data, at)
            elif state == _TRAILERS:
                at = self._trailers(data, at)
            elif state == _TO_THE_END:
                self._keep(data[at:])
                return False
            else:
                if at < len(data):
                    if at == 0:
                        raise ProtocolError(f"the server sent {_shown(data)} without being asked")
                    self.reusable = False  # whatever follows, nobody asked for it
                return True
            if self._state == state and at in (before, len(data)):  # it cannot go on
                self._buffer = data[at:]
                return False

    def end(self) -> bool:
        """The server has ended the connection in good order. True if that completes the answer."""
        if self._state == _TO_THE_END:
            self._state = _COMPLETE
            return True
        return False

    # ------------------------------------------------------------------ each part: where the next one begins

    def _head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            _check_unfinished_head(data, at)
            return at
        if end - at > MAX_HEAD:
            raise ProtocolError(f"its header is longer than {MAX_HEAD} bytes")
        lines = data[at:end].split(b"\r\n")
        match = _STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise ProtocolError(f"an answer does not begin with {_shown(lines[0])}")
        self.status = int(match[2])
        framing: dict[str, str] = {}
        del lines[0]
        self._read_fields(lines, framing)
        if self.status < 200:
            if self.status == 101:
                raise ProtocolError("it switches protocols (status 101) without being asked to")
            self.fields = {}
        else:
            self._begin_body(framing, old=match[1] == b"0")
        return end + 4

    def _read_fields(self, lines: list[bytes], framing: dict[str, str] | None) -> None:
        """Lines come again and again: each is taken apart once. `framing` gets what says how long the body is."""
        known = self._lines
        for line in lines:
            field = known.get(line)
            if field is None:
                field = self._read_field(line)
            if field is not _NOTHING:
                name, value = field
                into = self.fields if name not in _FRAMING else framing
                if into is not None:
                    into[name] = f"{into[name]}, {value}" if name in into else value

    def _read_field(self, line: bytes) -> _Field:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise ProtocolError(f"{_shown(line)} is not a header field")
        name = match[1].decode().lower()
        field = (name, match[2].decode("utf-8", "replace")) if name in self._names else _NOTHING
        if len(self._lines) >= _REMEMBERED:
            self._lines.clear()
        self._lines[line] = field
        return field

    def _begin_body(self, framing: dict[str, str], old: bool) -> None:
        connection = framing.get("connection", "").lower()
        if connection:
            options = {option.strip() for option in connection.split(",")}
            self.reusable = "keep-alive" in options if old else "close" not in options
        else:
            self.reusable = not old
        self._room = self._room_for_body()
        length = framing.get("content-length")
        coding = framing.get("transfer-encoding")
        size = None if length is None else _length(length)
        if self._bodiless or self.status in (204, 304):
            self._state = _COMPLETE
        elif coding is not None:
            if old:
                raise ProtocolError("transfer-encoding does not exist in HTTP/1.0")
            chunked = coding.lower().split(",")[-1].strip() == "chunked"
            self._state = _CHUNK_SIZE if chunked else _TO_THE_END
            if size is not None or not chunked:
                self.reusable = False  # RFC 9112, 6.3: somebody may be smuggling
        elif size is None:
            self._state = _TO_THE_END
            self.reusable = False
        else:
            self._left = size
            self._state = _LENGTH if size else _COMPLETE

    def _room_for_body(self) -> int:
        if self._stream and self.status < 300:
            return _EVERYTHING
        if self._keep_body:
            return MAX_BODY_KEPT
        return MAX_ERROR_KEPT if self.status >= 400 else 0

    def _take(self, data: bytes, at: int, then: int) -> int:
        """Up to `_left` bytes of the body."""
        end = at + self._left
        if end <= len(data):
            if self._room:
                self._keep(data[at:end])
            self._state = then
            return end
        if at < len(data):
            if self._room:
                self._keep(data[at:])
            self._left = end - len(data)
        return len(data)

    def _keep(self, part: bytes) -> None:
        if self._room and part:
            self.body.append(part[: self._room])
            self._room -= len(self.body[-1])

    def _chunk_size(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at, at + MAX_LINE + 2)
        if end < 0:
            if len(data) - at > MAX_LINE:
                raise ProtocolError(f"the line of a chunk's size is longer than {MAX_LINE} bytes")
            return at
        match = _CHUNK_LINE.fullmatch(data, at, end)
        if match is None:
            raise ProtocolError(f"{_shown(data[at:end])} is not a chunk's size")
        self._left = int(match[1], 16)
        self._state = _CHUNK if self._left else _TRAILERS
        return end + 2

    def _chunk_end(self, data: bytes, at: int) -> int:
        if len(data) - at < 2:
            return at
        if data[at : at + 2] != b"\r\n":
            raise ProtocolError(f"a chunk is longer than its size says: {_shown(data[at:])} follows")
        self._state = _CHUNK_SIZE
        return at + 2

    def _trailers(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._state = _COMPLETE
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            if len(data) - at > MAX_HEAD:
                raise ProtocolError(f"its trailers are longer than {MAX_HEAD} bytes")
            return at
        self._read_fields(data[at:end].split(b"\r\n"), None)
        self._state = _COMPLETE
        return end + 4


def _check_unfinished_head(data: bytes, at: int) -> None:
    """Tell what cannot become an answer from what only has not come yet."""
    start = data[at : at + 7]
    if not b"HTTP/1.".startswith(start) and start != b"HTTP/1.":
        hint = ": does it speak HTTP/2 only?" if start[:3] == b"\0\0\x12" or start[:2] == b"\0\0" else ""
        raise ProtocolError(f"an answer does not begin with {_shown(data[at:])}{hint}")
    if _BARE_LF.search(data, at):
        raise ProtocolError("a line of its header ends without a carriage return")
    if len(data) - at > MAX_HEAD:
        raise ProtocolError(f"its header is longer than {MAX_HEAD} bytes")


def _length(text: str) -> int:
    """RFC 9110, 8.6: a list of the same number is that number."""
    values = {value.strip() for value in text.split(",")}
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise ProtocolError(f"content-length: {text!r} is not a length")
    return int(value)


def _shown(data: bytes) -> str:
    return repr(data[:40])[1:] + ("..." if len(data) > 40 else "")
