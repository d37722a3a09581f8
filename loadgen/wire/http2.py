"""The client's half of an HTTP/2 connection, without sockets: bytes in, calls of streams' methods, bytes out.

No push, no priorities and, as servers are allowed no table of headers, no state between blocks (header_blocks.py):
that is what makes a call cheap. A server that breaks the protocol is told so by GOAWAY, its streams fail and `closed`
is set; nothing that it sends raises an exception.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from loadgen.wire.header_blocks import MOST, Block, Blocks, Unreadable

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
CODES: Final = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, CANCEL, COMPRESSION_ERROR = 0, 1, 3, 6, 8, 9
ENHANCE_YOUR_CALM = 11

FRAME: Final = 1 << 18  # bytes of a frame of the server's, at most
WINDOW: Final = 1 << 24  # bytes of a stream that come without our asking for more
ROOM: Final = 1 << 30  # of all streams of a connection
_DEFAULT_WINDOW, _DEFAULT_FRAME = 65_535, 16_384
_LAST = 2**31 - 1
_FRAMES_OF_A_BLOCK = 64  # each of them may be empty


class Loss(NamedTuple):
    """Why a stream ends without an answer: a kind of failure (call.py), in words, and whether the server has certainly
    not begun to deal with it, so that it can be sent again on another connection."""

    kind: str
    message: str
    untouched: bool = False


class Stream:
    """One exchange. What is done with the answer is a subclass' matter; it may open, send, reset in each of these.
    `live`: it has been opened and is not over. One that has failed may be opened again, somewhere else.

    After `ended` or `failed`, one of which comes once unless the stream is reset from here, nothing else comes.
    """

    __slots__ = ("_begun", "_credit", "_finish", "_unsent", "_window", "connection", "id", "live")

    id: int
    live: bool
    connection: Connection
    _begun: bool  # the answer's headers have come
    _credit: int  # bytes that came and of which the server has not been told that there is room again
    _window: int
    _unsent: bytes | memoryview
    _finish: bool  # nothing follows what is unsent; the end has been sent where there is nothing unsent

    def __init__(self) -> None:
        self.live = False

    def headed(self, block: Block) -> None:
        """The answer's headers have come (not those of informational ones)."""

    def data(self, data: bytes) -> None:
        """A part of the body has come."""

    def ended(self, trailers: Block | None) -> None:
        """The answer is complete."""

    def failed(self, loss: Loss) -> None:
        """There is no complete answer and will be none."""


class Broken(Exception):
    """The server broke the protocol: nothing of this connection can be trusted any more."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


class Connection:
    """`receive` what came, `take` what is to be sent; `open` streams once the server's settings are there (`ready`).

    `draining`: no new streams here, open ones go on. `closed`: done with, by our choice or the server's fault.
    """

    def __init__(self, blocks: Blocks, streams: int = 100) -> None:
        self.ready = self.draining = self.closed = False
        self.fault = ""  # how the server broke the protocol
        self.streams: dict[int, Stream] = {}
        self._blocks = blocks
        self._most = streams  # at a time
        self._peer_most = _LAST
        self._parts: list[bytes] = []  # of a frame that has not come whole
        self._have = self._need = 0
        self._block: tuple[int, int, list[bytes]] | None = None  # a block of headers that is not complete
        self._next_id = 1
        self._window = self._first_window = _DEFAULT_WINDOW  # what we may send
        self._frame = _DEFAULT_FRAME
        self._waiting: dict[int, Stream] = {}  # streams with something unsent
        self._received = 0  # bytes of the connection's window that have not been given back
        self._going = ""  # why the server is going away
        settings = struct.pack(">HIHIHIHIHI", 1, 0, 2, 0, 4, WINDOW, 5, FRAME, 6, MOST)
        self._out = [PREFACE]
        self._write(SETTINGS, 0, 0, settings)
        self._write(WINDOW_UPDATE, 0, 0, (ROOM - _DEFAULT_WINDOW).to_bytes(4, "big"))

    # What the socket's side calls

    def receive(self, data: bytes) -> None:
        """Bytes have come."""
        if self.closed:
            return
        try:
            self._receive(data)
        except Broken as error:
            self._write(GOAWAY, 0, 0, struct.pack(">II", 0, error.code) + str(error).encode()[:200])
            self.fault = f"the server broke HTTP/2: {error}"
            self.lost("protocol", self.fault)

    def take(self) -> bytes:
        """What is to be sent now."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def lost(self, kind: str, message: str) -> None:
        """The connection is gone: its streams fail for this reason."""
        self.closed = True
        self._parts.clear()
        self._waiting.clear()
        loss = Loss(kind, f"{message}; {self._going}" if self._going else message)
        for stream in list(self.streams.values()):
            if stream.live:
                self._over(stream)
                stream.failed(loss)

    def close(self) -> None:
        """End at once. Open streams hear nothing of it."""
        if not self.closed:
            self._write(GOAWAY, 0, 0, bytes(8))
            self.closed = True
        for stream in self.streams.values():
            stream.live = False
        self.streams.clear()
        self._waiting.clear()

    # What callers do with streams

    def room(self) -> int:
        """How many streams can be opened now."""
        if self.draining or self.closed or not self.ready:
            return 0
        return min(self._most, self._peer_most) - len(self.streams)

    @property
    def used(self) -> bool:
        """Whether there has been a stream."""
        return self._next_id > 1

    def open(self, stream: Stream, block: bytes, body: bytes = b"", end: bool = True) -> None:
        """Begin an exchange: an encoded block of headers, and what there is of a body. There must be room."""
        id, size = self._next_id, len(body)
        self._next_id += 2
        if self._next_id > _LAST:
            self.draining = True  # there are no more numbers
        stream.id, stream.live, stream.connection, stream._window = id, True, self, self._first_window
        stream._begun, stream._credit, stream._unsent, stream._finish = False, 0, b"", False
        self.streams[id] = stream
        if len(block) > self._frame:
            self._write_long(block, id, END_STREAM if end and not size else 0)
        elif not size:
            self._out.append(_HEADER(len(block) << 8 | HEADERS, END_HEADERS | end, id) + block)
            stream._finish = end
            return
        elif size <= stream._window and size <= self._window and size <= self._frame:
            self._window -= size
            stream._window -= size
            stream._finish = end
            head = _HEADER(len(block) << 8 | HEADERS, END_HEADERS, id)
            self._out.append(b"".join((head, block, _HEADER(size << 8, end, id), body)))
            return
        else:
            self._write(HEADERS, END_HEADERS, id, block)
        if size:
            self.send(stream, body, end)
        else:
            stream._finish = end

    def send(self, stream: Stream, data: bytes, end: bool = False) -> None:
        """More of the request's body. What the server does not take yet is kept."""
        if not stream.live or stream._finish:
            return
        stream._finish = end
        if stream._unsent:
            stream._unsent = bytes(stream._unsent) + data
        elif data:
            stream._unsent = memoryview(data)
            self._waiting[stream.id] = stream
            self._flush(stream)
        elif end:
            self._write(DATA, END_STREAM, stream.id, b"")

    def reset(self, stream: Stream, code: int = CANCEL) -> None:
        """Give up on a stream; it hears nothing more."""
        if stream.live:
            if not self.closed:
                self._write(RST_STREAM, 0, stream.id, code.to_bytes(4, "big"))
            stream._finish, stream._unsent = True, b""
            self._waiting.pop(stream.id, None)
            self._over(stream)

    # Frames

    def _write(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._out.append(_HEADER(len(payload) << 8 | kind, flags, stream) + payload)

    def _write_long(self, block: bytes, id: int, end: int) -> None:
        """A block of headers that takes several frames."""
        size = self._frame
        pieces = [block[at : at + size] for at in range(0, len(block), size)]
        self._write(HEADERS, end, id, pieces[0])
        for at, piece in enumerate(pieces[1:], 2):
            self._write(CONTINUATION, END_HEADERS if at == len(pieces) else 0, id, piece)

    def _receive(self, data: bytes) -> None:
        parts = self._parts
        if parts:
            parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(parts)
            parts.clear()
        at, end, need = 0, len(data), 9
        while end - at >= 9:
            size_and_kind, flags, id = _READ(data, at)
            size, kind, id = size_and_kind >> 8, size_and_kind & 255, id & _LAST
            if not self.ready:
                self._first(data, size, kind, flags)
            if size > FRAME:
                raise Broken(FRAME_SIZE_ERROR, f"a frame of {size} bytes, where {FRAME} are allowed")
            if end - at - 9 < size:
                need = 9 + size
                break
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            if self._block is not None and kind != CONTINUATION:
                raise Broken(PROTOCOL_ERROR, "something else among the frames of a block of headers")
            if kind <= CONTINUATION:
                _FRAMES[kind](self, flags, id, payload)
                if self.closed:
                    return
        if at < end:
            parts.append(data[at:] if at else data)
            self._have, self._need = end - at, need

    def _first(self, data: bytes, size: int, kind: int, flags: int) -> None:
        if data.startswith(b"HTTP/1"):
            line = data.split(b"\r\n", 1)[0][:80].decode("latin-1")
            raise Broken(PROTOCOL_ERROR, f"it speaks HTTP/1 here ({line!r})")
        if kind != SETTINGS or flags & ACK:
            if kind == GOAWAY and size <= FRAME:
                return
            raise Broken(PROTOCOL_ERROR, "its first frame is no SETTINGS, so this is no HTTP/2 with prior knowledge")

    def _find(self, id: int, what: str) -> Stream | None:
        """The stream, or None where it is over here and the server has not known it yet."""
        stream = self.streams.get(id)
        if stream is None and (id >= self._next_id or id % 2 == 0):
            raise Broken(PROTOCOL_ERROR, f"{what} of stream {id}, which has not begun")
        return stream

    def _data(self, flags: int, id: int, data: bytes) -> None:
        size = len(data)
        self._received += size
        if self._received > ROOM // 4:
            self._write(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big"))
            self._received = 0
        stream = self.streams.get(id) or self._find(id, "data")
        if flags & PADDED:
            data = _unpadded(data)
        if stream is None:
            return
        if not stream._begun:
            self._fail(stream, "data before the headers of the answer")
            return
        stream._credit += size
        if stream._credit > WINDOW:
            raise Broken(FLOW_CONTROL_ERROR, f"more than the window of stream {id}")
        last = flags & END_STREAM
        if stream._credit > WINDOW // 2 and not last:
            self._write(WINDOW_UPDATE, 0, id, stream._credit.to_bytes(4, "big"))
            stream._credit = 0
        if data:
            stream.data(data)
        if last and stream.live:
            self._over(stream)
            stream.ended(None)

    def _headers(self, flags: int, id: int, data: bytes) -> None:
        if flags & PADDED:
            data = _unpadded(data)
        if flags & HAS_PRIORITY:
            if len(data) < 5:
                raise Broken(FRAME_SIZE_ERROR, "headers without the priority that they announce")
            data = data[5:]
        if flags & END_HEADERS:
            self._headers_complete(flags, id, data)
        else:
            self._find(id, "headers")
            self._block = (flags, id, [data])

    def _continuation(self, flags: int, id: int, data: bytes) -> None:
        if self._block is None or id != self._block[1]:
            raise Broken(PROTOCOL_ERROR, "the continuation of nothing")
        first, id, pieces = self._block
        pieces.append(data)
        if len(pieces) > _FRAMES_OF_A_BLOCK or sum(map(len, pieces)) > MOST:
            raise Broken(ENHANCE_YOUR_CALM, "a block of headers without end")
        if flags & END_HEADERS:
            self._block = None
            self._headers_complete(first, id, b"".join(pieces))

    def _headers_complete(self, flags: int, id: int, data: bytes) -> None:
        stream = self.streams.get(id) or self._find(id, "headers")
        if stream is None:
            return
        try:
            block = self._blocks.read(data)
        except Unreadable as error:
            raise Broken(COMPRESSION_ERROR, str(error)) from None
        last, status = flags & END_STREAM, block.status
        if stream._begun:
            if not last or status or not block.sound:
                self._fail(stream, "trailers that are none")
            else:
                self._over(stream)
                stream.ended(block)
        elif not status or not block.sound or status == 101:
            self._fail(stream, "headers without a valid status")
        elif status < 200:
            if last:
                self._fail(stream, f"an answer that ends with the informational status {status}")
        else:
            stream._begun = True
            stream.headed(block)
            if last and stream.live:
                self._over(stream)
                stream.ended(None)

    def _rst_stream(self, flags: int, id: int, data: bytes) -> None:
        if len(data) != 4:
            raise Broken(FRAME_SIZE_ERROR, "a reset of the wrong length")
        stream = self._find(id, "a reset")
        if stream is not None:
            stream._finish, stream._unsent = True, b""
            self._waiting.pop(id, None)
            self._over(stream)
            stream.failed(Loss("stream error", f"the server reset the stream: {code_name(data)}"))

    def _settings(self, flags: int, id: int, data: bytes) -> None:
        if id:
            raise Broken(PROTOCOL_ERROR, "settings of a stream")
        if len(data) % 6 or (flags & ACK and data):
            raise Broken(FRAME_SIZE_ERROR, "settings of the wrong length")
        if flags & ACK:
            return
        for key, value in struct.iter_unpack(">HI", data):
            if key == 2 and value:
                raise Broken(PROTOCOL_ERROR, "a server that wants to be pushed to")
            if key == 3:
                self._peer_most = value
            elif key == 4:
                if value > _LAST:
                    raise Broken(FLOW_CONTROL_ERROR, "a window that cannot be")
                for stream in self.streams.values():
                    stream._window += value - self._first_window
                    if stream._window > _LAST:
                        raise Broken(FLOW_CONTROL_ERROR, "a window that cannot be")
                self._first_window = value
            elif key == 5:
                if not 16_384 <= value <= 16_777_215:
                    raise Broken(PROTOCOL_ERROR, "a length of frames that cannot be")
                self._frame = value
        self.ready = True
        self._write(SETTINGS, ACK, 0, b"")
        self._flush_all()

    def _ping(self, flags: int, id: int, data: bytes) -> None:
        if id:
            raise Broken(PROTOCOL_ERROR, "a ping of a stream")
        if len(data) != 8:
            raise Broken(FRAME_SIZE_ERROR, "a ping of the wrong length")
        if not flags & ACK:
            self._write(PING, ACK, 0, data)

    def _goaway(self, flags: int, id: int, data: bytes) -> None:
        if id:
            raise Broken(PROTOCOL_ERROR, "a stream that goes away")
        if len(data) < 8:
            raise Broken(FRAME_SIZE_ERROR, "a goaway that is too short")
        last = int.from_bytes(data[:4], "big") & _LAST
        said = data[8:200].decode("utf-8", "replace")
        self._going = f"the server said GOAWAY {code_name(data[4:8])}" + (f" ({said})" if said else "")
        self.draining = True
        for stream in [each for each in self.streams.values() if each.id > last]:
            if stream.live:
                self._over(stream)
                stream.failed(Loss("stream error", self._going, untouched=True))
        self._close_when_empty()

    def _window_update(self, flags: int, id: int, data: bytes) -> None:
        if len(data) != 4:
            raise Broken(FRAME_SIZE_ERROR, "a window update of the wrong length")
        more = int.from_bytes(data, "big") & _LAST
        if not more:
            raise Broken(PROTOCOL_ERROR, "a window update of nothing")
        if id == 0:
            self._window += more
            if self._window > _LAST:
                raise Broken(FLOW_CONTROL_ERROR, "a window that cannot be")
            self._flush_all()
        elif (stream := self._find(id, "a window")) is not None:
            stream._window += more
            if stream._window > _LAST:
                self._fail(stream, "a window that cannot be", FLOW_CONTROL_ERROR)
            elif stream._unsent:
                self._flush(stream)

    def _priority(self, flags: int, id: int, data: bytes) -> None:
        if len(data) != 5:
            raise Broken(FRAME_SIZE_ERROR, "a priority of the wrong length")

    def _push_promise(self, flags: int, id: int, data: bytes) -> None:
        raise Broken(PROTOCOL_ERROR, "a push, which we do not take")

    # Sending what had to wait, and ends

    def _flush_all(self) -> None:
        for stream in list(self._waiting.values()):
            if self._window <= 0:
                return
            self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        data, at = stream._unsent, 0
        end = len(data)
        while at < end:
            size = min(end - at, stream._window, self._window, self._frame)
            if size <= 0:
                break
            last = stream._finish and at + size == end
            self._out.append(_HEADER(size << 8, last, stream.id))
            self._out.append(bytes(data[at : at + size]))
            at += size
            stream._window -= size
            self._window -= size
        stream._unsent = data[at:]
        if at == end:
            stream._unsent = b""
            self._waiting.pop(stream.id, None)

    def _fail(self, stream: Stream, what: str, code: int = PROTOCOL_ERROR) -> None:
        """The server broke the protocol within one stream."""
        self.reset(stream, code)
        stream.failed(Loss("protocol", f"the server broke HTTP/2: {what}"))

    def _over(self, stream: Stream) -> None:
        stream.live = False
        del self.streams[stream.id]
        if stream._unsent or not stream._finish:  # it has answered without reading all: the rest is of no use
            self._waiting.pop(stream.id, None)
            if stream._begun and not self.closed:
                self._write(RST_STREAM, 0, stream.id, CANCEL.to_bytes(4, "big"))
        if self.draining:
            self._close_when_empty()

    def _close_when_empty(self) -> None:
        if self.draining and not self.streams:
            self.closed = True


def code_name(data: bytes) -> str:
    code = int.from_bytes(data, "big")
    return CODES[code] if code < len(CODES) else f"error {code}"


def _unpadded(data: bytes) -> bytes:
    if not data or data[0] >= len(data):
        raise Broken(PROTOCOL_ERROR, "more padding than there is")
    return data[1 : len(data) - data[0]]


_HEADER = struct.Struct(">IBI").pack
_READ = struct.Struct(">IBI").unpack_from
_FRAMES: Final = (
    Connection._data,
    Connection._headers,
    Connection._priority,
    Connection._rst_stream,
    Connection._settings,
    Connection._push_promise,
    Connection._ping,
    Connection._goaway,
    Connection._window_update,
    Connection._continuation,
)
