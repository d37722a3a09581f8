"""The server's half of an HTTP/2 connection that carries gRPC, without sockets: bytes in, calls of handlers, bytes out.

Only what gRPC needs of RFC 9113, so that it costs a tenth of what a complete implementation in Python does: no push,
no priorities, messages without compression. A peer that breaks the protocol is told so by GOAWAY and `closed` is set;
what a peer can make us keep is bounded (`Limits`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

from hpack import Decoder
from hpack.exceptions import HPACKError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 2, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 9, 12, 13

_FRAME = 16_384  # of the peer's, at most; ours are as long as it allows
_WINDOW = 65_535
_LAST = 2**31 - 1
_BLOCK = 65_536  # bytes of a block of headers
_FRAMES_OF_A_BLOCK = 8  # each of them may be empty
_CACHED = 64
_EARLY = 12  # pieces that are to be sent although more has come that is not read yet: four or five answers
_DRAINING = b"headgate"  # the ping whose answer tells that the peer knows that we leave

# ":status: 200" and "content-type: application/grpc"; "grpc-status: 0". Nothing of it goes into the peer's tables.
_BEGIN: Final = b"\x88\x0f\x10\x10application/grpc"
_OK: Final = b"\x00\x0bgrpc-status\x010"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost."""

    streams: int = 2_000
    message: int = 8 << 20  # bytes of one message
    window: int = 1 << 20  # bytes of a stream that come without our asking for more
    held: int = 128 << 20  # bytes of all streams that wait: for the rest of their message, or to be sent


class Broken(Exception):
    """The peer broke the protocol: nothing of this connection can be trusted any more."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


class Handler(Protocol):
    """What is at the end of a stream."""

    def message(self, data: bytes) -> None:
        """A message has come."""

    def half_closed(self) -> None:
        """No more messages will come."""

    def gone(self) -> None:
        """The stream is over, whoever ended it."""


class Stream:
    """One call of a method. `send` and `finish` may be called at any time; after its end they do nothing."""

    __slots__ = (
        *("_begun", "_connection", "_credit", "_handler", "_last", "_part", "_unsent", "_window"),
        *("id", "metadata", "open", "reading"),
    )

    def __init__(self, connection: Connection, id: int, metadata: str = "") -> None:
        self.id = id
        self.metadata = metadata  # the value of the header that the connection was told to look for
        self.open = True
        self.reading = True
        self._connection = connection
        self._handler: Handler | None = None
        self._begun = False
        self._part: bytes | bytearray = b""  # of a message that has not come whole
        self._credit = 0  # bytes that came and of which the peer has not been told that there is room again
        self._unsent = b""
        self._window = connection._first_window  # what we may send
        self._last: bytes | None = None  # the trailers, when they have to wait for what is unsent

    def send(self, message: bytes) -> None:
        """Send a message. What the peer does not take yet is kept."""
        if not self.open or self._last is not None:
            return
        connection = self._connection
        if not self._begun:
            self._begun = True
            connection.write(HEADERS, END_HEADERS, self.id, _BEGIN)
        connection.send_data(self, b"\x00" + len(message).to_bytes(4, "big") + message)

    def answer(self, framed: bytes, last: bool) -> None:
        """`send` of a message that has its five bytes before it, and `finish` if it is the last: nearly all there is
        to say to Envoy, therefore in one go when nothing is in its way."""
        connection, size = self._connection, len(framed)
        held = self._unsent or size > self._window or size > connection._window or size > connection._frame
        if held or not self.open or self._last is not None:
            self.send(framed[5:])
            if last:
                self.finish()
            return
        self._window -= size
        connection._window -= size
        out = connection._out
        if not self._begun:
            self._begun = True
            out.append(_HEADER(_BEGIN_SIZE, END_HEADERS, self.id) + _BEGIN)
        out.append(_HEADER(size << 8, 0, self.id) + framed)
        if last:
            out.append(_HEADER(_OK_SIZE, END_HEADERS | END_STREAM, self.id) + _OK)
            connection._gone(self)

    def finish(self, status: int = OK, message: str = "") -> None:
        """End the stream with a gRPC status."""
        if not self.open or self._last is not None:
            return
        block = b"" if self._begun else _BEGIN
        self._begun = True
        block += _OK if status == OK else _status(status, message)
        if self._unsent:
            self._last = block
        else:
            self._connection.end(self, block)

    def pause(self) -> None:
        """Let the peer send no more than fits into the window."""
        self.reading = False

    def resume(self) -> None:
        self.reading = True
        self._connection.give_credit(self, 0)


Open = Callable[[Stream, str], Handler | None]


class Connection:
    """`receive` what came, `take` what is to be sent. `open` makes the handler of a stream by its path, if there is
    such a method."""

    def __init__(
        self,
        open: Open,
        limits: Limits | None = None,
        metadata: bytes = b"",
        early: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits = limits or Limits()
        self._metadata = metadata
        self._early = early
        self.closed = False
        self.broken = False  # closed, and not because all was done
        self.draining = False
        self.streams: dict[int, Stream] = {}
        self.held = 0
        self._open = open
        self._in = b""
        self._out: list[bytes] = []
        self._begun = False
        self._decoder = Decoder(max_header_list_size=_BLOCK)
        self._decoder.max_allowed_table_size = 4096
        self._cache: dict[bytes, tuple[str, str]] = {}
        self._last_id = 0
        self._block: tuple[int, int, bytes, int] | None = None  # a block of headers that is not complete
        self._received = 0  # bytes of the connection's window that have not been given back
        self._window = _WINDOW  # what we may send
        self._first_window = _WINDOW
        self._frame = _FRAME
        self._waiting: dict[int, Stream] = {}  # streams with something unsent
        window = self.limits.window
        self.write(
            SETTINGS,
            0,
            0,
            struct.pack(">HIHIHI", 3, self.limits.streams, 4, window, 6, _BLOCK),
        )
        self._room = max(16 * window, _WINDOW)  # of all streams together
        self._give = self._room // 4  # from so many bytes on they are given back
        self._stream_room, self._stream_give = window, window // 2
        if self._room > _WINDOW:
            self.write(WINDOW_UPDATE, 0, 0, (self._room - _WINDOW).to_bytes(4, "big"))

    # What the socket's side calls

    def receive(self, data: bytes) -> None:
        """Bytes have come."""
        if self.closed:
            return
        try:
            self._receive(self._in + data if self._in else data)
        except Broken as error:
            self.close(error.code, str(error))

    def take(self) -> bytes:
        """What is to be sent now."""
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def drain(self) -> None:
        """Take no new streams and end when those that there are have ended; `closed` is set then."""
        if self.draining or self.closed:
            return
        self.draining = True
        # First "soon", and when the peer has seen that, which streams are the last: none is refused.
        self.write(GOAWAY, 0, 0, struct.pack(">II", _LAST, NO_ERROR))
        self.write(PING, 0, 0, _DRAINING)

    def close(self, code: int = NO_ERROR, what: str = "") -> None:
        """End at once."""
        if self.closed:
            return
        self.broken = True
        self.write(GOAWAY, 0, 0, struct.pack(">II", self._last_id, code) + what.encode()[:200])
        self.lost()

    def lost(self) -> None:
        """The connection is gone."""
        self.closed = True
        self._in = b""
        self._waiting.clear()
        for stream in list(self.streams.values()):
            self._gone(stream)

    # What streams call

    def write(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame. The kind and the length are in the first four bytes."""
        self._out.append(_HEADER(len(payload) << 8 | kind, flags, stream) + payload)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send so much of it as the peer takes, and keep the rest."""
        size = len(data)
        if stream._unsent or size > self.room(stream):
            if not self._hold(stream, size):
                return
            stream._unsent += data
            self._waiting[stream.id] = stream
            self._flush(stream)
            return
        self._window -= size
        stream._window -= size
        self._out.append(_HEADER(size << 8, 0, stream.id) + data)

    def room(self, stream: Stream) -> int:
        """Bytes that can go into one frame of it now."""
        return min(stream._window, self._window, self._frame)

    def give_credit(self, stream: Stream, size: int) -> None:
        """So many bytes of the stream have been dealt with."""
        stream._credit += size
        if stream._credit >= self._stream_give and stream.reading and stream.open:
            self.write(WINDOW_UPDATE, 0, stream.id, stream._credit.to_bytes(4, "big"))
            stream._credit = 0

    def end(self, stream: Stream, block: bytes) -> None:
        """The trailers. Should the peer still want to send something, it need not."""
        self.write(HEADERS, END_HEADERS | END_STREAM, stream.id, block)
        self._gone(stream)

    # Frames

    def _receive(self, data: bytes) -> None:
        at = 0
        if not self._begun:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise Broken(PROTOCOL_ERROR, "this is not HTTP/2 with prior knowledge")
            if len(data) < len(PREFACE):
                self._in = data
                return
            at, self._begun = len(PREFACE), True
        end = len(data)
        while end - at >= 9:
            size_and_kind, flags, id = _READ(data, at)
            size, kind, id = size_and_kind >> 8, size_and_kind & 255, id & _LAST
            if size > _FRAME:
                raise Broken(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            begin = at + 9
            if end - begin < size:
                break
            at = begin + size
            if self._block is not None and (kind != CONTINUATION or id != self._block[0]):
                raise Broken(PROTOCOL_ERROR, "something else among the frames of a block of headers")
            if kind == HEADERS and flags == END_HEADERS:
                self._headers_complete(id, flags, data[begin:at])
            elif kind != DATA:
                if kind <= CONTINUATION:
                    _FRAMES[kind](self, flags, id, data[begin:at])
            elif flags or not self._message(id, data, begin, size):
                self._data(flags, id, data[begin:at])
            if self.closed:
                return
            if len(self._out) >= _EARLY:
                self._early()
        self._in = data[at:]

    def _message(self, id: int, data: bytes, begin: int, size: int) -> bool:
        """A frame that is one message, as nearly all of Envoy's are. False when it is something else."""
        stream = self.streams.get(id)
        if stream is None or stream._part or size < 5 or _PREFIX(data, begin) != (0, size - 5):
            return False
        received, credit = self._received + size, stream._credit + size
        if received >= self._give or credit > self._stream_room:
            return False
        self._received, stream._credit = received, credit
        stream._handler.message(data[begin + 5 : begin + size])  # type: ignore[union-attr]
        if credit >= self._stream_give:
            self.give_credit(stream, 0)
        return True

    def _data(self, flags: int, id: int, data: bytes) -> None:
        size = len(data)
        self._received += size
        if self._received > self._room:
            raise Broken(FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._received >= self._give:
            self.write(WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big"))
            self._received = 0
        if flags & PADDED:
            data = _unpadded(data)
        stream = self.streams.get(id)
        if stream is None:
            if id > self._last_id or id % 2 == 0:
                raise Broken(PROTOCOL_ERROR, f"data of stream {id}, which has not begun")
            return  # it ended here before the peer knew
        if stream._credit + size > self._stream_room:
            raise Broken(FLOW_CONTROL_ERROR, f"more than the window of stream {id}")
        handler = stream._handler
        if stream._part:
            self._more(stream, data)
        elif len(data) >= 5 and data[0] == 0 and int.from_bytes(data[1:5], "big") == len(data) - 5:
            handler.message(data[5:])  # type: ignore[union-attr]
        elif data:
            self._more(stream, data)
        self.give_credit(stream, size)
        if flags & END_STREAM and stream.open:
            if stream._part:
                stream.finish(INVALID_ARGUMENT, "the stream ends within a message")
            else:
                handler.half_closed()  # type: ignore[union-attr]

    def _more(self, stream: Stream, data: bytes) -> None:
        """A piece of a message, or several messages."""
        if not self._hold(stream, len(data)):
            return
        part = stream._part
        if not isinstance(part, bytearray):
            part = stream._part = bytearray()
        part += data
        at, end = 0, len(part)
        while end - at >= 5 and stream.open:
            size = int.from_bytes(part[at + 1 : at + 5], "big")
            if part[at]:
                stream.finish(UNIMPLEMENTED, "messages are not compressed here")
                return
            if size > self.limits.message:
                stream.finish(RESOURCE_EXHAUSTED, f"a message of {size} bytes; {self.limits.message} are allowed")
                return
            if end - at - 5 < size:
                break
            with memoryview(part) as view:
                message = bytes(view[at + 5 : at + 5 + size])
            stream._handler.message(message)  # type: ignore[union-attr]
            at += 5 + size
        if at and stream.open:
            self.held -= at
            del part[:at]

    def _hold(self, stream: Stream, size: int) -> bool:
        """Whether there is room for so much; the stream is over when there is not."""
        if self.held + size > self.limits.held:
            self.write(RST_STREAM, 0, stream.id, ENHANCE_YOUR_CALM.to_bytes(4, "big"))
            self._gone(stream)
            return False
        self.held += size
        return True

    def _headers(self, flags: int, id: int, data: bytes) -> None:
        if flags & PADDED:
            data = _unpadded(data)
        if flags & HAS_PRIORITY:
            if len(data) < 5:
                raise Broken(FRAME_SIZE_ERROR, "headers without the priority that they announce")
            data = data[5:]
        if flags & END_HEADERS:
            self._headers_complete(id, flags, data)
        else:
            self._block = (id, flags, data, 1)

    def _continuation(self, flags: int, id: int, data: bytes) -> None:
        if self._block is None:
            raise Broken(PROTOCOL_ERROR, "the continuation of nothing")
        id, first, block, frames = self._block
        if len(block) + len(data) > _BLOCK or frames > _FRAMES_OF_A_BLOCK:
            raise Broken(ENHANCE_YOUR_CALM, "a block of headers without end")
        if flags & END_HEADERS:
            self._block = None
            self._headers_complete(id, first, block + data)
        else:
            self._block = (id, first, block + data, frames + 1)

    def _headers_complete(self, id: int, flags: int, block: bytes) -> None:
        path, metadata = self._cache.get(block) or self._decoded(block)
        stream = self.streams.get(id) if id <= self._last_id else None
        if stream is not None:
            if not flags & END_STREAM:
                raise Broken(PROTOCOL_ERROR, f"headers of stream {id} for the second time")
            handler = stream._handler
            if stream._part:
                stream.finish(INVALID_ARGUMENT, "the stream ends within a message")
            elif handler is not None:
                handler.half_closed()
            return
        if id % 2 == 0:
            raise Broken(PROTOCOL_ERROR, f"a client's stream cannot be {id}")
        if id <= self._last_id:
            return  # trailers of a stream that ended here before the peer knew
        self._last_id = id
        if len(self.streams) >= self.limits.streams or self.closed:
            self.write(RST_STREAM, 0, id, REFUSED_STREAM.to_bytes(4, "big"))
            return
        stream = self.streams[id] = Stream(self, id, metadata)
        handler = stream._handler = self._open(stream, path) if path else None
        if handler is None:
            if stream.open:
                stream.finish(UNIMPLEMENTED, f"there is no method {path}" if path else "this is no gRPC")
        elif flags & END_STREAM:
            handler.half_closed()

    def _decoded(self, block: bytes) -> tuple[str, str]:
        """The path of a gRPC call, "" when it is none, and the metadata that we look for."""
        try:
            headers = self._decoder.decode(block, raw=True)
        except (HPACKError, ValueError, IndexError) as error:
            raise Broken(COMPRESSION_ERROR, f"headers that cannot be read: {type(error).__name__}") from None
        found = {bytes(name): bytes(value) for name, value in headers}
        is_grpc = found.get(b":method") == b"POST" and found.get(b"content-type", b"").startswith(b"application/grpc")
        path = found.get(b":path", b"").decode("latin-1") if is_grpc else ""
        told = path, found.get(self._metadata, b"").decode("utf-8", "replace")
        if not _leaves_tables(block):
            self._cache.clear()  # what was read by the tables as they were may mean something else now
        elif len(self._cache) < _CACHED:
            self._cache[block] = told
        return told

    def _rst_stream(self, flags: int, id: int, data: bytes) -> None:
        if len(data) != 4:
            raise Broken(FRAME_SIZE_ERROR, "a reset of the wrong length")
        if id == 0 or id > self._last_id:
            raise Broken(PROTOCOL_ERROR, f"a reset of stream {id}, which has not begun")
        stream = self.streams.get(id)
        if stream is not None:
            self._gone(stream)

    def _settings(self, flags: int, id: int, data: bytes) -> None:
        if id:
            raise Broken(PROTOCOL_ERROR, "settings of a stream")
        if len(data) % 6 or (flags & ACK and data):
            raise Broken(FRAME_SIZE_ERROR, "settings of the wrong length")
        if flags & ACK:
            return
        for at in range(0, len(data), 6):
            key, value = struct.unpack_from(">HI", data, at)
            if key == 4:
                if value > _LAST:
                    raise Broken(FLOW_CONTROL_ERROR, "a window that cannot be")
                for stream in self.streams.values():
                    stream._window += value - self._first_window
                self._first_window = value
            elif key == 5:
                if not 16_384 <= value <= 16_777_215:
                    raise Broken(PROTOCOL_ERROR, "a length of frames that cannot be")
                self._frame = value
        self.write(SETTINGS, ACK, 0, b"")
        self._flush_all()

    def _ping(self, flags: int, id: int, data: bytes) -> None:
        if id:
            raise Broken(PROTOCOL_ERROR, "a ping of a stream")
        if len(data) != 8:
            raise Broken(FRAME_SIZE_ERROR, "a ping of the wrong length")
        if not flags & ACK:
            self.write(PING, ACK, 0, data)
        elif self.draining and data == _DRAINING:
            self.write(GOAWAY, 0, 0, struct.pack(">II", self._last_id, NO_ERROR))
            self.limits = Limits(0, self.limits.message, self.limits.window, self.limits.held)
            self._close_when_empty()

    def _goaway(self, flags: int, id: int, data: bytes) -> None:
        if len(data) < 8:
            raise Broken(FRAME_SIZE_ERROR, "a goaway that is too short")

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
        elif (stream := self.streams.get(id)) is not None:
            stream._window += more
            if stream._window > _LAST:
                self.write(RST_STREAM, 0, id, FLOW_CONTROL_ERROR.to_bytes(4, "big"))
                self._gone(stream)
            elif stream._unsent:
                self._flush(stream)
        elif id > self._last_id:
            raise Broken(PROTOCOL_ERROR, f"a window of stream {id}, which has not begun")

    def _priority(self, flags: int, id: int, data: bytes) -> None:
        if len(data) != 5:
            raise Broken(FRAME_SIZE_ERROR, "a priority of the wrong length")

    def _push_promise(self, flags: int, id: int, data: bytes) -> None:
        raise Broken(PROTOCOL_ERROR, "a push of a client")

    # Sending what had to wait

    def _flush_all(self) -> None:
        for stream in list(self._waiting.values()):
            if self._window <= 0:
                return
            self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        data, at = stream._unsent, 0
        while at < len(data):
            size = min(len(data) - at, self.room(stream))
            if size <= 0:
                break
            self._out.append(_HEADER(size << 8, 0, stream.id))
            self._out.append(data[at : at + size])
            at += size
            stream._window -= size
            self._window -= size
        self.held -= at
        stream._unsent = data[at:]
        if not stream._unsent:
            self._waiting.pop(stream.id, None)
            if stream._last is not None:
                self.end(stream, stream._last)

    def _gone(self, stream: Stream) -> None:
        if not stream.open:
            return
        stream.open = False
        self.streams.pop(stream.id, None)
        if stream._part or stream._unsent:
            self.held -= len(stream._part) + len(stream._unsent)
            stream._part = stream._unsent = b""
            self._waiting.pop(stream.id, None)
        handler, stream._handler = stream._handler, None
        if handler is not None:
            handler.gone()
        if self.draining:
            self._close_when_empty()

    def _close_when_empty(self) -> None:
        if self.draining and not self.streams and not self.limits.streams:
            self.closed = True


def _leaves_tables(block: bytes) -> bool:
    """Whether a block of headers, known to be sound, adds nothing to the tables of HPACK and leaves their size.

    Such a block means the same each time until the tables change, and need not be read again: Envoy's are that way
    from the second stream of a connection on, and reading them would take as long as all the rest.
    """
    at, end = 0, len(block)
    while at < end:
        first = block[at]
        if 0x20 <= first < 0x80:
            return False
        index, at = _integer(block, at, 7 if first >= 0x80 else 4)
        for _ in range(0 if first >= 0x80 else 1 if index else 2):
            size, at = _integer(block, at, 7)
            at += size
    return True


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    value, most = block[at] & ((1 << bits) - 1), (1 << bits) - 1
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        one = block[at]
        value, at, shift = value + ((one & 127) << shift), at + 1, shift + 7
        if one < 128:
            return value, at


def _unpadded(data: bytes) -> bytes:
    if not data or data[0] >= len(data):
        raise Broken(PROTOCOL_ERROR, "more padding than there is")
    return data[1 : len(data) - data[0]]


def _status(status: int, message: str) -> bytes:
    number, told = str(status).encode(), quote(message[:100], safe=" /:;,()'").encode()[:120]
    block = b"\x00\x0bgrpc-status" + bytes((len(number),)) + number
    return block + b"\x00\x0cgrpc-message" + bytes((len(told),)) + told if told else block


_HEADER = struct.Struct(">IBI").pack
_READ = struct.Struct(">IBI").unpack_from
_PREFIX = struct.Struct(">BI").unpack_from  # of a message: whether it is compressed, and its length
_BEGIN_SIZE: Final = len(_BEGIN) << 8 | HEADERS
_OK_SIZE: Final = len(_OK) << 8 | HEADERS
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
