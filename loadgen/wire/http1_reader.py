"""Bytes of a connection -> HTTP/1.1 answers, one after another. No sockets, no clock: drive it by hand."""

from __future__ import annotations

import re

from loadgen.wire.http1_head import CHUNKED, MAX_HEAD, TO_THE_END, Head, Heads, ProtocolError, check_unfinished, shown

MAX_LINE = 4096  # bytes of a chunk's size and extensions
MAX_BODY_KEPT = 1 << 20
MAX_ERROR_KEPT = 2048
_EVERYTHING = 1 << 62
_MOST_SIZES = 256

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?")

_HEAD, _LENGTH, _CHUNK_SIZE, _CHUNK, _CHUNK_END, _TRAILERS, _TO_THE_END, _COMPLETE = range(8)


class Reader:
    """Call `expect`, then `feed` with what arrives, until it says that the answer is complete.

    `head` is there once it has come, `trailers` those of the fields of interest. `body` holds parts of the body: of a
    successful stream all (the caller takes them out); with `keep_body`, where the head tells no version, at most
    MAX_BODY_KEPT; and of errors a little to show. `surplus`: the server sent more than the answer.
    """

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_heads",
        "_keep_body",
        "_left",
        "_room",
        "_sizes",
        "_special",
        "_state",
        "_stream",
        "body",
        "head",
        "surplus",
        "trailers",
    )

    def __init__(self, heads: Heads, keep_body: bool = False, stream: bool = False) -> None:
        self._heads = heads
        self._special = stream
        self._keep_body, self._stream = keep_body, stream
        self._left = self._room = 0
        self._sizes: dict[bytes, int] = {}  # by the lines that tell them
        self._state = _COMPLETE
        self._buffer = b""
        self._bodiless = self.surplus = False
        self.head: Head | None = None
        self.trailers: dict[str, str] = {}
        self.body: list[bytes] = []

    def expect(self, bodiless: bool = False) -> None:
        """The next answer is about to come; `bodiless` if it answers a HEAD."""
        self._state = _HEAD
        self._bodiless = bodiless
        self._special = bodiless or self._stream
        self.head = None
        if self.body:
            self.body = []
        if self.trailers:
            self.trailers = {}

    def feed(self, data: bytes) -> bool:
        """True when the answer is complete. Raises ProtocolError; the connection is then of no more use."""
        if self._state == _HEAD and not self._buffer:  # most answers come in one piece, with a head seen before
            end = data.find(b"\r\n\r\n") + 4
            head = self._heads.known.get(data[:end])
            if head is not None and head.length == len(data) - end and head.plain and not self._special:
                if self._keep_body and head.version is None:
                    self.body.append(data[end:])
                self.head = head
                self._state = _COMPLETE
                self.surplus = False
                return True
        elif self._state == _CHUNK_SIZE and not self._buffer and self._stream:  # most events come as one chunk
            end = data.find(b"\r\n") + 2
            size = self._sizes.get(data[:end])
            if size is not None and end + size + 2 == len(data) and data.endswith(b"\r\n"):
                self._keep(data[end:-2])
                return False
        return self._go_on(data)

    def end(self) -> bool:
        """The server has ended the connection in good order. True if that completes the answer."""
        if self._state == _TO_THE_END:
            self._state = _COMPLETE
            return True
        return False

    def _go_on(self, data: bytes) -> bool:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        at = 0
        while True:
            state, before = self._state, at
            if state == _HEAD:
                at = self._read_head(data, at)
            elif state == _LENGTH:
                at = self._take(data, at, _COMPLETE)
            elif state == _CHUNK_SIZE:
                at = self._chunk_size(data, at)
            elif state == _CHUNK:
                at = self._take(data, at, _CHUNK_END)
            elif state == _CHUNK_END:
                at = self._chunk_end(data, at)
            elif state == _TRAILERS:
                at = self._read_trailers(data, at)
            elif state == _TO_THE_END:
                self._keep(data[at:])
                return False
            elif at == 0 and data:
                raise ProtocolError(f"the server sent {shown(data)} without being asked")
            else:
                self.surplus = at < len(data)
                return True
            if self._state == state and at in (before, len(data)):  # it cannot go on
                self._buffer = data[at:]
                return False

    # ------------------------------------------------------------------ each part: where the next one begins

    def _read_head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at) + 4
        if end < 4:
            check_unfinished(data, at)
            return at
        if end - at > MAX_HEAD:
            raise ProtocolError(f"its header is longer than {MAX_HEAD} bytes")
        block = data[at:end]
        head = self._heads.known.get(block) or self._heads.read(block)
        if head.status == 101:
            raise ProtocolError("it switches protocols (status 101) without being asked to")
        if head.status >= 200:
            self.head = head
            self._room = self._room_for_body(head)
            if self._bodiless or head.status in (204, 304) or head.length == 0:
                self._state = _COMPLETE
            elif head.length == CHUNKED:
                self._state = _CHUNK_SIZE
            elif head.length == TO_THE_END:
                self._state = _TO_THE_END
            else:
                self._left = head.length
                self._state = _LENGTH
        return end

    def _room_for_body(self, head: Head) -> int:
        if self._stream and head.status < 300:
            return _EVERYTHING
        if self._keep_body and head.version is None:
            return MAX_BODY_KEPT
        return MAX_ERROR_KEPT if head.status >= 400 else 0

    def _take(self, data: bytes, at: int, then: int) -> int:
        """Up to `_left` bytes of the body."""
        end = at + self._left
        if end <= len(data):
            self._keep(data[at:end])
            self._state = then
            return end
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
            raise ProtocolError(f"{shown(data[at:end])} is not a chunk's size")
        self._left = int(match[1], 16)
        self._state = _CHUNK if self._left else _TRAILERS
        if self._left and len(self._sizes) < _MOST_SIZES:
            self._sizes[data[at : end + 2]] = self._left
        return end + 2

    def _chunk_end(self, data: bytes, at: int) -> int:
        if len(data) - at < 2:
            return at
        if data[at : at + 2] != b"\r\n":
            raise ProtocolError(f"a chunk is longer than its size says: {shown(data[at:])} follows")
        self._state = _CHUNK_SIZE
        return at + 2

    def _read_trailers(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._state = _COMPLETE
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            if len(data) - at > MAX_HEAD:
                raise ProtocolError(f"its trailers are longer than {MAX_HEAD} bytes")
            return at
        self.trailers = self._heads.trailers(data[at : end + 4])
        self._state = _COMPLETE
        return end + 4
