"""The HTTP/2 of the plugins' server: what gRPC sends is understood, the peer's windows hold, a bad peer is refused."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from ext_proc_messages import ProcessingRequest, ProcessingResponse
from hpack import Decoder, Encoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.ext_proc import http2
from sidecar.ext_proc.application import CHECK, PROCESS, Application, ExtProcSpec
from sidecar.ext_proc.http2 import PREFACE, Connection, Limits, Stream
from sidecar.ext_proc.server import Server
from sidecar.pipeline import bind
from sidecar.plugin import Body, Buffered, HttpContext, Plugin
from sidecar.reload import Plugins


class Echo:
    """Sends back what comes, `times` times."""

    def __init__(self, stream: Stream, times: int = 1) -> None:
        self.stream = stream
        self.times = times
        self.got: list[bytes] = []
        self.over = 0

    def message(self, data: bytes) -> None:
        self.got.append(data)
        for _ in range(self.times):
            self.stream.send(data)

    def half_closed(self) -> None:
        self.stream.finish()

    def gone(self) -> None:
        self.over += 1


class Peer:
    """The other side, frame by frame."""

    def __init__(self, limits: Limits | None = None, times: int = 1) -> None:
        self.handlers: list[Echo] = []
        self.connection = Connection(lambda stream, path: self._open(stream, path, times), limits)
        self.encoder, self.decoder = Encoder(), Decoder()
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.rest = b""
        self.send(PREFACE)
        self.frame(http2.SETTINGS, 0, 0)

    def _open(self, stream: Stream, path: str, times: int) -> Echo | None:
        if path != "/a/b":
            return None
        self.handlers.append(Echo(stream, times))
        return self.handlers[-1]

    def send(self, data: bytes) -> None:
        self.connection.receive(data)
        self.rest += self.connection.take()
        while len(self.rest) >= 9:
            size, kind, flags, stream = int.from_bytes(self.rest[:3], "big"), *struct.unpack(">BBI", self.rest[3:9])
            self.frames.append((kind, flags, stream, self.rest[9 : 9 + size]))
            self.rest = self.rest[9 + size :]

    def frame(self, kind: int, flags: int, stream: int, data: bytes = b"") -> None:
        self.send(frame(kind, flags, stream, data))

    def begin(self, stream: int, path: str = "/a/b", flags: int = 0, **more: str) -> None:
        self.frame(http2.HEADERS, http2.END_HEADERS | flags, stream, self.encoder.encode(call(path, **more)))

    def data(self, stream: int) -> bytes:
        return b"".join(data for kind, _, one, data in self.frames if kind == http2.DATA and one == stream)

    def last(self, stream: int) -> dict[str, str]:
        """The last headers of a stream."""
        blocks = [data for kind, _, one, data in self.frames if kind == http2.HEADERS and one == stream]
        return {str(k): str(v) for k, v in self.decoder.decode(blocks[-1])}

    def refused(self) -> int | None:
        """The code of the GOAWAY."""
        codes = [struct.unpack(">I", data[4:8])[0] for kind, _, _, data in self.frames if kind == http2.GOAWAY]
        return codes[-1] if codes and self.connection.closed else None


def frame(kind: int, flags: int, stream: int, data: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(data) << 8 | kind, flags, stream) + data


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


def call(path: str, **more: str) -> list[tuple[str, str]]:
    begin = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("te", "trailers")]
    return [*begin, ("content-type", "application/grpc"), *more.items()]


# What is understood


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_messages_come_whole_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    peer = Peer()
    text = b"".join(map(message, messages))
    frames = b""
    while text:
        size = data.draw(st.integers(1, len(text)))
        frames, text = frames + frame(http2.DATA, 0, 1, text[:size]), text[size:]
    sent = frame(http2.HEADERS, http2.END_HEADERS, 1, peer.encoder.encode(call("/a/b"))) + frames
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        peer.send(sent[:size])
        sent = sent[size:]
    peer.frame(http2.DATA, http2.END_STREAM, 1)
    assert peer.handlers[0].got == messages
    assert peer.data(1) == b"".join(map(message, messages))
    assert peer.last(1)["grpc-status"] == "0"
    assert peer.handlers[0].over == 1
    assert peer.connection.held == 0


@given(st.lists(st.sampled_from(["/a/b", "/a/c", "/a/d"]), min_size=1, max_size=30), st.booleans())
def test_paths_are_read_by_the_tables_as_they_are(paths: list[str], indexed: bool) -> None:
    peer = Peer()
    for at, path in enumerate(paths):
        headers = [(name, value, not indexed and name == ":path") for name, value in call(path, count=str(at % 5))]
        peer.frame(http2.HEADERS, http2.END_HEADERS, 2 * at + 1, peer.encoder.encode(headers))
    assert len(peer.handlers) == paths.count("/a/b")
    for at, path in enumerate(paths):
        assert (2 * at + 1 in peer.connection.streams) == (path == "/a/b")


def test_the_same_block_means_something_else_when_the_tables_have_changed() -> None:
    peer = Peer()
    first = b"\x83\x86\x44\x04/a/b\x5f\x10application/grpc"  # the path gets number 63, then the type 62
    peer.frame(http2.HEADERS, http2.END_HEADERS, 1, first)
    again = b"\x83\x86\xbf\xbe"
    peer.frame(http2.HEADERS, http2.END_HEADERS, 3, again)
    peer.frame(http2.HEADERS, http2.END_HEADERS, 5, again)
    assert len(peer.handlers) == 3
    peer.frame(http2.HEADERS, http2.END_HEADERS, 7, b"\x83\x86\x44\x04/a/x\x5f\x10application/grpc")
    peer.frame(http2.HEADERS, http2.END_HEADERS, 9, again)
    assert len(peer.handlers) == 3
    assert peer.refused() is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (call("/a/c"), "12"),
        ([(":method", "GET"), (":path", "/a/b"), ("content-type", "application/grpc")], "12"),
        ([(":method", "POST"), (":path", "/a/b"), ("content-type", "text/plain")], "12"),
    ],
)
def test_what_is_not_our_method_is_told_so(headers: list[tuple[str, str]], status: str) -> None:
    peer = Peer()
    peer.frame(http2.HEADERS, http2.END_HEADERS, 1, peer.encoder.encode(headers))
    assert peer.last(1)["grpc-status"] == status
    assert not peer.connection.streams


def test_a_compressed_message_and_one_that_is_too_long_end_their_stream_only() -> None:
    peer = Peer(Limits(message=100))
    for stream, text in ((1, b"\1\0\0\0\1a"), (3, message(b"x" * 101)), (5, message(b"x" * 100))):
        peer.begin(stream)
        peer.frame(http2.DATA, 0, stream, text[:50])
        peer.frame(http2.DATA, 0, stream, text[50:])
    assert (peer.last(1)["grpc-status"], peer.last(3)["grpc-status"]) == ("12", "8")
    assert peer.handlers[2].got == [b"x" * 100]


# Windows


@given(st.integers(0, 200), st.lists(st.integers(1, 300), max_size=8), st.integers(1, 500))
def test_no_more_is_sent_than_the_peer_takes(first: int, updates: list[int], size: int) -> None:
    peer = Peer(times=2)
    peer.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, first))
    peer.begin(1)
    peer.frame(http2.DATA, http2.END_STREAM, 1, message(b"x" * size))
    whole = message(b"x" * size) * 2
    window = first
    for more in (0, *updates):
        if more:
            window += more
            peer.frame(http2.WINDOW_UPDATE, 0, 1, more.to_bytes(4, "big"))
        assert peer.data(1) == whole[:window]
    ended = "grpc-status" in peer.last(1)
    assert ended == (window >= len(whole))
    assert peer.connection.held == max(0, len(whole) - window)
    peer.frame(http2.RST_STREAM, 0, 1, b"\0\0\0\x08")
    assert peer.connection.held == 0


def test_a_stream_that_is_paused_gets_no_new_window() -> None:
    peer = Peer(Limits(window=100))
    peer.begin(1)
    stream = peer.handlers[0].stream
    stream.pause()
    for _ in range(9):
        peer.frame(http2.DATA, 0, 1, message(b"12345"))
    assert [one for one in peer.frames if one[0] == http2.WINDOW_UPDATE and one[2] == 1] == []
    stream.resume()
    peer.send(b"")
    assert [one[3] for one in peer.frames if one[0] == http2.WINDOW_UPDATE and one[2] == 1] == [b"\0\0\0\x5a"]


def test_what_waits_is_bounded() -> None:
    peer = Peer(Limits(held=10_000))
    peer.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    for stream in range(1, 41, 2):
        peer.begin(stream)
        peer.frame(http2.DATA, 0, stream, message(b"x" * 995))
    assert peer.connection.held == 10_000
    assert len(peer.connection.streams) == 10
    assert sum(one.over for one in peer.handlers) == 10


def test_streams_beyond_the_limit_are_refused() -> None:
    peer = Peer(Limits(streams=2))
    for stream in (1, 3, 5):
        peer.begin(stream)
    assert [(one[2], one[3]) for one in peer.frames if one[0] == http2.RST_STREAM] == [(5, b"\0\0\0\x07")]


@given(st.integers(0, 200), st.lists(st.integers(1, 300), max_size=8), st.lists(st.integers(0, 99), min_size=1))
def test_answers_in_one_go_keep_to_what_the_peer_takes(first: int, updates: list[int], sizes: list[int]) -> None:
    peer, whole = Peer(times=0), b""
    peer.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, first))
    peer.begin(1)
    stream = peer.handlers[0].stream
    for at, size in enumerate(sizes):
        whole += message(b"x" * size)
        stream.answer(message(b"x" * size), at == len(sizes) - 1)
    stream.answer(message(b"more"), True)
    for more in (0, *updates):
        first += more
        if more:
            peer.frame(http2.WINDOW_UPDATE, 0, 1, more.to_bytes(4, "big"))
        peer.send(b"")
        assert peer.data(1) == whole[:first]
    ended = "grpc-status" in peer.last(1)
    assert ended == (first >= len(whole)) == (not peer.connection.streams)


def test_what_is_answered_is_sent_before_all_that_came_is_read() -> None:
    sent: list[int] = []
    peer = Peer()
    peer.connection = Connection(
        lambda stream, path: peer._open(stream, path, 1),
        early=lambda: sent.append(peer.connection.take().count(b"question")),
    )
    asked = PREFACE + frame(http2.SETTINGS, 0, 0)
    for stream in range(1, 81, 2):
        asked += frame(http2.HEADERS, http2.END_HEADERS, stream, Encoder().encode(call("/a/b")))
        asked += frame(http2.DATA, 0, stream, message(b"question"))
    peer.connection.receive(asked)
    assert sum(sent) + peer.connection.take().count(b"question") == 40
    assert len(sent) > 4
    assert max(sent) <= 8


# Leaving


def test_a_peer_is_told_to_leave_and_then_which_streams_are_the_last() -> None:
    peer = Peer()
    peer.begin(1)
    peer.connection.drain()
    peer.send(b"")
    ping = next(one for one in peer.frames if one[0] == http2.PING)
    peer.begin(3)
    peer.frame(http2.PING, http2.ACK, 0, ping[3])
    last = [struct.unpack(">II", one[3]) for one in peer.frames if one[0] == http2.GOAWAY]
    assert last == [(2**31 - 1, 0), (3, 0)]
    peer.begin(5)
    for stream in (1, 3):
        assert not peer.connection.closed
        peer.frame(http2.DATA, http2.END_STREAM, stream, message(b"x"))
    assert peer.connection.closed
    assert not peer.connection.broken
    assert [one.got for one in peer.handlers] == [[b"x"], [b"x"]]


# Peers that break the protocol

BAD = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "a frame that is too long": (struct.pack(">IBI", 16_385 << 8, 0, 1), 6),
    "data of no stream": (frame(http2.DATA, 0, 7, b"x"), 1),
    "data of an even stream": (frame(http2.DATA, 0, 2, b"x"), 1),
    "headers of an even stream": (frame(http2.HEADERS, 4, 2, b"\x82"), 1),
    "headers that are nonsense": (frame(http2.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), 9),
    "an index that is not there": (frame(http2.HEADERS, 4, 1, b"\xfe"), 9),
    "padding that is too long": (frame(http2.HEADERS, 4 | 8, 1, b"\x09\x82"), 1),
    "a priority that is too short": (frame(http2.HEADERS, 4 | 0x20, 1, b"\x09"), 6),
    "a continuation of nothing": (frame(http2.CONTINUATION, 4, 1, b"\x82"), 1),
    "something between headers": (frame(http2.HEADERS, 0, 1, b"\x82") + frame(http2.PING, 0, 0, b"x" * 8), 1),
    "headers without end": (frame(http2.HEADERS, 0, 1) + frame(http2.CONTINUATION, 0, 1) * 20, 11),
    "a block that is too long": (frame(http2.HEADERS, 0, 1) + frame(http2.CONTINUATION, 0, 1, b"x" * 16_384) * 6, 11),
    "a push": (frame(http2.PUSH_PROMISE, 4, 1, b"\0\0\0\2"), 1),
    "settings that are cut off": (frame(http2.SETTINGS, 0, 0, b"\0\0\0"), 6),
    "settings of a stream": (frame(http2.SETTINGS, 0, 1), 1),
    "a window that cannot be": (frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), 3),
    "frames of no length": (frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 5, 1)), 1),
    "a ping that is too short": (frame(http2.PING, 0, 0, b"x"), 6),
    "a window update of nothing": (frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), 1),
    "too large a window": (frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2, 3),
    "a window of a stream to come": (frame(http2.WINDOW_UPDATE, 0, 9, b"\0\0\0\1"), 1),
    "a reset of a stream to come": (frame(http2.RST_STREAM, 0, 9, b"\0\0\0\1"), 1),
    "a goaway that is too short": (frame(http2.GOAWAY, 0, 0, b"x"), 6),
}


@pytest.mark.parametrize("what", BAD)
def test_a_peer_that_breaks_the_protocol_is_told_and_left(what: str) -> None:
    text, code = BAD[what]
    peer = Peer()
    if what == "no preface":
        peer.connection = Connection(lambda stream, path: None)
        peer.frames.clear()
    peer.send(text)
    assert peer.refused() == code


def test_a_peer_that_ignores_our_windows_is_left() -> None:
    peer = Peer(Limits(window=1000, message=1 << 20))
    peer.begin(1)
    peer.handlers[0].stream.pause()
    for _ in range(3):
        peer.frame(http2.DATA, 0, 1, message(b"x" * 495))
    assert peer.refused() == http2.FLOW_CONTROL_ERROR
    assert peer.handlers[0].over == 1


class Upper(HttpContext["UpperPlugin"]):
    def on_request_body(self, body: Body) -> None:
        body.replace(body.data.upper())


class UpperPlugin(Plugin):
    context = Upper
    request_body = Buffered(1 << 20)


def application() -> Application:
    plugins = Plugins()
    plugins.pipeline = bind(UpperPlugin())
    return Application(ExtProcSpec(), plugins)


kinds = st.integers(0, 12)
pieces = st.one_of(
    st.binary(max_size=40),
    st.builds(frame, kinds, st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)),
    st.builds(
        lambda stream, data: frame(http2.DATA, 0, stream, message(data)),
        st.sampled_from((1, 3, 5)),
        st.one_of(st.binary(max_size=40), st.sampled_from((b"\x12\x02\x18\x01", b"\x22\x02\x10\x01", b"\x3a\x00"))),
    ),
    st.sampled_from((1, 3, 5)).map(lambda id: frame(http2.HEADERS, 4, id, Encoder().encode(call(PROCESS)))),
)


@settings(max_examples=300)
@given(st.lists(pieces, max_size=12))
@example([frame(http2.DATA, http2.END_STREAM, 1, b"\0\0")])
def test_whatever_a_peer_sends_nothing_breaks(sent: list[bytes]) -> None:
    app = application()
    connection = Connection(lambda stream, path: app.open(stream, path, lambda: None), app.http2_limits())
    connection.receive(PREFACE + frame(http2.SETTINGS, 0, 0))
    connection.receive(frame(http2.HEADERS, 4, 1, Encoder().encode(call(PROCESS))))
    for piece in sent:
        connection.receive(piece)
    connection.take()
    connection.lost()
    assert connection.streams == {}
    assert connection.held == 0


questions = st.sampled_from(
    (
        ProcessingRequest(request_headers={"end_of_stream": False}),
        ProcessingRequest(request_headers={"end_of_stream": True}),
        ProcessingRequest(request_body={"body": b"piece"}),
        ProcessingRequest(request_body={"body": b"end", "end_of_stream": True}),
        ProcessingRequest(request_trailers={"trailers": {}}),
        ProcessingRequest(response_headers={"end_of_stream": False}),
        ProcessingRequest(response_body={"body": b"end", "end_of_stream": True}),
        ProcessingRequest(response_trailers={"trailers": {}}),
        ProcessingRequest(observability_mode=True),
    )
)


@settings(max_examples=300)
@given(st.lists(questions, max_size=8))
def test_questions_in_any_order_are_answered_or_refused(asked: list[Any]) -> None:
    app = application()
    peer = Peer()
    peer.connection = Connection(lambda stream, path: app.open(stream, path, lambda: None))
    peer.send(PREFACE)
    peer.begin(1, PROCESS)
    for one in asked:
        peer.frame(http2.DATA, 0, 1, message(one.SerializeToString()))
    answers, rest = 0, peer.data(1)
    while rest:
        size = int.from_bytes(rest[1:5], "big")
        ProcessingResponse.FromString(rest[5 : 5 + size])
        answers, rest = answers + 1, rest[5 + size :]
    assert answers <= len(asked)
    if 1 not in peer.connection.streams:
        assert peer.last(1)["grpc-status"] == "3"
    peer.frame(http2.RST_STREAM, 0, 1, b"\0\0\0\x08")
    assert not peer.connection.streams


# gRPC's own client


async def questions_of(body: bytes) -> AsyncIterator[bytes]:
    yield ProcessingRequest(request_headers={"end_of_stream": False}).SerializeToString()
    yield ProcessingRequest(request_body={"body": body, "end_of_stream": True}).SerializeToString()


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
def test_grpcs_client_is_understood(tmp_path: Path, size: int) -> None:
    async def story() -> None:
        plugins = Plugins()
        plugins.pipeline = bind(type("Big", (UpperPlugin,), {"request_body": Buffered(4 << 20)})())
        server = Server(Application(ExtProcSpec(buffer=4 << 20), plugins))
        await server.start(f"unix:{tmp_path}/s")
        channel = grpc.aio.insecure_channel(f"unix:{tmp_path}/s", options=[("grpc.max_receive_message_length", -1)])
        async with channel:
            body = b"x" * size

            async def one() -> None:
                answers = [ProcessingResponse.FromString(bytes(got)) async for got in process(questions_of(body))]
                assert [answer.WhichOneof("one") for answer in answers] == ["request_headers", "request_body"]
                assert answers[1].request_body.response.body_mutation.body == body.upper()

            process = channel.stream_stream(PROCESS)
            await asyncio.gather(*(one() for _ in range(200 if size < 1000 else 4)))
            assert await channel.unary_unary(CHECK)(b"") == b"\x08\x01"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary("/a/b")(b"")
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        await server.stop()
        assert not server.links

    asyncio.run(story())


async def until(true: Callable[[], object]) -> None:
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not become true in time")


def test_a_peer_that_still_sends_reads_our_last_answers(tmp_path: Path) -> None:
    """A socket that we close at once would break in the peer's hands before it has read what we sent last."""

    async def story() -> None:
        loop, server = asyncio.get_running_loop(), Server(application())
        await server.start(f"unix:{tmp_path}/s")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.setblocking(False)
            await loop.sock_connect(peer, f"{tmp_path}/s")
            asked = message(ProcessingRequest(request_headers={"end_of_stream": True}).SerializeToString())
            begun = PREFACE + frame(http2.SETTINGS, 0, 0)
            for stream in (1, 3):
                begun += frame(http2.HEADERS, http2.END_HEADERS, stream, Encoder().encode(call(PROCESS)))
            await loop.sock_sendall(peer, begun)
            await until(lambda: server.links and len(next(iter(server.links)).connection.streams) == 2)
            link = next(iter(server.links))
            left, told = asyncio.create_task(server.stop(10)), b""
            while b"headgate" not in told:  # the ping that waits for us to know that it leaves
                told += await asyncio.wait_for(loop.sock_recv(peer, 1 << 16), 10)
            last = frame(http2.PING, http2.ACK, 0, b"headgate")
            for stream in (1, 3):
                last += frame(http2.DATA, http2.END_STREAM, stream, asked)
            await loop.sock_sendall(peer, last)
            await until(lambda: link not in server.links or link.connection.closed)
            await loop.sock_sendall(peer, frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\x01"))
            rest = b""
            while more := await asyncio.wait_for(loop.sock_recv(peer, 1 << 16), 10):
                rest += more
            assert rest.count(b"grpc-status\x010") == 2
            assert not left.done()
        await asyncio.wait_for(left, 10)
        assert not server.links

    asyncio.run(story())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_answers_to_a_peer_that_reads_late_are_whole_and_in_order(tmp_path: Path, loop: str) -> None:
    count, body = 60, b"x" * 20_000

    async def story() -> None:
        server = Server(application())
        await server.start(f"unix:{tmp_path}/s")
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
        # First all windows that will ever be needed, then questions without reading an answer.
        asked = PREFACE + frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 20))
        asked += frame(http2.WINDOW_UPDATE, 0, 0, (1 << 28).to_bytes(4, "big"))
        questions = [message(data) for data in [one async for one in questions_of(body)]]
        for stream in range(1, 2 * count, 2):
            asked += frame(http2.HEADERS, http2.END_HEADERS, stream, Encoder().encode(call(PROCESS)))
            for question in questions:
                pieces = [question[at : at + 16_384] for at in range(0, len(question), 16_384)]
                asked += b"".join(frame(http2.DATA, 0, stream, piece) for piece in pieces)
        writer.write(asked)
        await until(lambda: server.links and not next(iter(server.links))._transport.is_reading())  # type: ignore[union-attr]
        answers: dict[int, bytes] = {}
        while sum(len(data) for data in answers.values()) < count * len(body) or len(answers) < count:
            size_and_kind, _, stream = struct.unpack(">IBI", await asyncio.wait_for(reader.readexactly(9), 20))
            data = await asyncio.wait_for(reader.readexactly(size_and_kind >> 8), 20)
            if size_and_kind & 255 == http2.DATA:
                answers[stream] = answers.get(stream, b"") + data
        assert len(set(answers.values())) == 1
        assert body.upper() in answers[1]
        writer.close()
        await server.stop()

    with asyncio.Runner(loop_factory=pytest.importorskip(loop).new_event_loop) as runner:
        runner.run(story())
