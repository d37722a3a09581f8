"""The client's half of HTTP/2: what a server may send it, in whatever pieces, and what it makes of that."""

from __future__ import annotations

import struct

import pytest
from h2_peer import FIRST, frame, frames, setting
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.wire import http2
from loadgen.wire.header_blocks import Block, Blocks, Unreadable, encode
from loadgen.wire.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    Loss,
    Stream,
)

REQUEST = encode([(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
OK = encode([(":status", "200"), ("app-version", "v1")])
TRAILERS = encode([("grpc-status", "0")])


class Told(Stream):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[Block] = []
        self.body = b""
        self.trailers: Block | None = None
        self.ends: list[Loss | None] = []

    def headed(self, block: Block) -> None:
        assert not self.ends
        self.heads.append(block)

    def data(self, data: bytes) -> None:
        assert not self.ends
        self.body += data

    def ended(self, trailers: Block | None) -> None:
        self.trailers = trailers
        self.ends.append(None)

    def failed(self, loss: Loss) -> None:
        self.ends.append(loss)


def connected(settings: bytes = FIRST, streams: int = 100) -> Connection:
    connection = Connection(Blocks(), streams)
    assert connection.room() == 0, "nothing is sent before the server's settings are known"
    connection.receive(settings)
    begin = connection.take()
    assert begin.startswith(PREFACE)
    kinds = frames(begin[len(PREFACE) :])
    assert kinds[0][0] == SETTINGS
    assert kinds[0][3][:6] == struct.pack(">HI", 1, 0), "no table of headers"
    assert (SETTINGS, ACK, 0, b"") in kinds
    return connection


def opened(connection: Connection, body: bytes = b"", end: bool = True) -> Told:
    assert connection.room() > 0
    stream = Told()
    connection.open(stream, REQUEST, body, end)
    return stream


def test_a_request_is_headers_and_data_and_its_answer_is_told_in_order():
    connection = connected()
    stream = opened(connection, b"hello")
    assert frames(connection.take()) == [(HEADERS, END_HEADERS, 1, REQUEST), (DATA, END_STREAM, 1, b"hello")]
    connection.receive(frame(HEADERS, END_HEADERS, 1, OK))
    connection.receive(frame(DATA, 0, 1, b"wor") + frame(DATA, 0, 1, b"ld") + frame(HEADERS, 5, 1, TRAILERS))
    assert stream.heads[0].status == 200
    assert stream.heads[0].get("app-version") == "v1"
    assert stream.body == b"world"
    assert stream.trailers is not None
    assert stream.trailers.get("grpc-status") == "0"
    assert stream.ends == [None]
    assert not connection.streams


ANSWER = (
    frame(HEADERS, 0, 1, OK[:1])
    + frame(CONTINUATION, 0, 1, OK[1:3])
    + frame(CONTINUATION, END_HEADERS, 1, OK[3:])
    + frame(DATA, PADDED, 1, b"\x03abc\0\0\0")
    + frame(0xBE, 0xFF, 1, b"what is that?")
    + frame(PING, 0, 0, b"12345678")
    + frame(DATA, 0, 3, b"xyz")
    + frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)
)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_pieces_of_any_size_mean_the_same(sizes):
    connection = connected()
    first, second = opened(connection), opened(connection)
    connection.receive(frame(HEADERS, END_HEADERS, 3, OK))
    at, turn = 0, 0
    while at < len(ANSWER):
        size = sizes[turn % len(sizes)]
        connection.receive(ANSWER[at : at + size])
        at, turn = at + size, turn + 1
    assert (first.heads[0].status, first.body, first.ends) == (200, b"abc", [None])
    assert (second.body, second.ends) == (b"xyz", [])
    assert (PING, ACK, 0, b"12345678") in frames(connection.take())
    assert not connection.closed


raw = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 99]),
    st.one_of(st.binary(max_size=40), st.sampled_from([OK, TRAILERS, b"\0\0\0\1", bytes(8), b"\x7f\xff\xff\xff"])),
)


@given(st.lists(st.one_of(raw, st.binary(max_size=30)), max_size=12))
@settings(max_examples=300)
def test_nothing_a_server_sends_raises_and_each_stream_ends_at_most_once(pieces):
    connection = connected()
    streams = [opened(connection), opened(connection, b"x" * 100_000), opened(connection, end=False)]
    for piece in pieces:
        connection.receive(piece)
        connection.take()
    connection.lost("closed early", "the server closed the connection")
    for stream in streams:
        assert len(stream.ends) == 1
    assert connection.closed
    assert not connection.streams


@given(st.binary(max_size=200))
def test_blocks_are_read_or_refused(data):
    try:
        block = Blocks().read(data)
    except Unreadable:
        return
    assert all(isinstance(part, str) for field in block.fields for part in field)


names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)


@given(st.lists(st.tuples(names, st.text(st.characters(max_codepoint=255), max_size=300)), max_size=10))
def test_blocks_that_we_encode_say_what_they_are_told_and_leave_no_state(fields):
    blocks = Blocks()
    block = encode(fields)
    assert blocks.read(block).fields == tuple(fields)
    assert blocks.read(block) is blocks.read(bytes(block))
    assert Blocks().read(block).fields == tuple(fields)


def test_a_block_that_needs_a_table_is_refused_and_one_that_fills_it_in_vain_is_not():
    entry = b"\x40\x01a\x01b"
    assert Blocks().read(b"\x20\x88" + entry).fields == ((":status", "200"), ("a", "b"))
    for block in (
        b"\x88\xbe",
        b"\x3f\xe1\x1f\x88",
        b"\x88\x20",
        b"\x88\x00\x7f",
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ):
        with pytest.raises(Unreadable):
            Blocks().read(block)


def test_a_body_larger_than_the_windows_waits_for_them_and_arrives_whole():
    connection = connected()
    body = bytes(range(256)) * 1024  # 256 KiB
    stream = opened(connection, body)
    sent = b""
    for turn in range(1000):
        for kind, flags, id, payload in frames(connection.take()):
            if kind != DATA:
                continue
            assert len(payload) <= 16_384
            assert id == 1
            sent += payload
            if flags & END_STREAM:
                assert sent == body
                assert turn > 2
                connection.receive(frame(HEADERS, 5, 1, OK))
                assert stream.ends == [None]
                return
        connection.receive(frame(WINDOW_UPDATE, 0, turn % 2, struct.pack(">I", 20_000)))
    pytest.fail("the body never ended")


def test_larger_windows_and_frames_of_the_server_are_used_for_what_is_waiting_too():
    connection = connected(setting(4, 10))
    stream = opened(connection, b"x" * 30)
    assert [each[3] for each in frames(connection.take())] == [REQUEST, b"x" * 10]
    connection.receive(setting(4, 25))
    assert [each[3] for each in frames(connection.take()) if each[0] == DATA] == [b"x" * 15]
    connection.receive(setting(4, 5))  # the window is negative now
    connection.receive(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 20)))
    assert not [each for each in frames(connection.take()) if each[0] == DATA]
    connection.receive(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 5)))
    assert frames(connection.take())[-1] == (DATA, END_STREAM, 1, b"x" * 5)
    assert stream.live


def test_a_long_block_of_headers_is_continued():
    connection = connected()
    block = encode([*((":method", "GET"),), ("cookie", "c" * 40_000)])
    stream = Told()
    connection.open(stream, block)
    sent = frames(connection.take())
    assert [(kind, flags) for kind, flags, _, _ in sent] == [
        (HEADERS, END_STREAM),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
    ]
    assert b"".join(each[3] for each in sent) == block


def test_received_bytes_are_given_back_to_the_server():
    connection = connected()
    stream = opened(connection)
    connection.receive(frame(HEADERS, END_HEADERS, 1, OK))
    piece = frame(DATA, 0, 1, bytes(http2.FRAME))
    for _ in range(http2.WINDOW // http2.FRAME + 5):
        connection.receive(piece)
    updates = [each for each in frames(connection.take()) if each[0] == WINDOW_UPDATE]
    assert {each[2] for each in updates} == {1}
    assert sum(int.from_bytes(each[3], "big") for each in updates) >= http2.WINDOW
    assert stream.live


def test_goaway_lets_streams_up_to_the_last_go_on_and_hands_back_the_others():
    connection = connected()
    first, second = opened(connection), opened(connection)
    connection.receive(frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 0)))
    assert connection.draining
    assert connection.room() == 0
    assert (first.ends, second.ends) == ([], [])
    connection.receive(frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"see you"))
    assert second.ends == [Loss("stream error", "the server said GOAWAY NO_ERROR (see you)", untouched=True)]
    assert not connection.closed
    connection.receive(frame(HEADERS, 5, 1, OK))
    assert first.ends == [None]
    assert connection.closed


def test_what_the_server_said_is_told_when_it_then_closes():
    connection = connected()
    stream = opened(connection)
    connection.receive(frame(GOAWAY, 0, 0, struct.pack(">II", 1, 11) + b"too_many_pings"))
    connection.lost("closed early", "the server closed the connection")
    assert stream.ends == [
        Loss(
            "closed early",
            "the server closed the connection; the server said GOAWAY ENHANCE_YOUR_CALM (too_many_pings)",
        )
    ]


def test_reset_of_a_stream_names_the_reason_and_leaves_the_others():
    connection = connected()
    first, second = opened(connection), opened(connection)
    connection.receive(frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))
    assert first.ends == [Loss("stream error", "the server reset the stream: REFUSED_STREAM")]
    connection.receive(frame(DATA, 0, 1, b"late") + frame(HEADERS, 5, 3, OK))
    assert second.ends == [None]


def test_a_stream_that_we_reset_hears_nothing_more():
    connection = connected()
    stream = opened(connection, b"x" * 100_000)
    connection.take()
    connection.reset(stream)
    assert frames(connection.take()) == [(RST_STREAM, 0, 1, struct.pack(">I", http2.CANCEL))]
    connection.receive(frame(HEADERS, END_HEADERS, 1, OK) + frame(DATA, 1, 1, b"late"))
    connection.receive(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1_000_000)))
    assert connection.take() == b""
    assert (stream.heads, stream.ends) == ([], [])


def test_an_answer_before_the_request_is_sent_whole_ends_the_request_too():
    connection = connected()
    stream = opened(connection, b"x" * 100_000)
    connection.take()
    connection.receive(frame(HEADERS, 5, 1, encode([(":status", "413")])))
    assert stream.ends == [None]
    assert frames(connection.take()) == [(RST_STREAM, 0, 1, struct.pack(">I", http2.CANCEL))]


def test_at_most_as_many_streams_as_both_sides_allow():
    assert connected(setting(3, 5)).room() == 5
    assert connected(setting(3, 5), streams=2).room() == 2
    assert connected(setting(3, 0)).room() == 0


def test_informational_answers_are_passed_over():
    connection = connected()
    stream = opened(connection)
    connection.receive(frame(HEADERS, END_HEADERS, 1, encode([(":status", "103")])) + frame(HEADERS, 5, 1, OK))
    assert [block.status for block in stream.heads] == [200]


@pytest.mark.parametrize(
    "bad",
    [
        frame(HEADERS, END_HEADERS, 1, encode([("a", "b")])),
        frame(HEADERS, END_HEADERS, 1, encode([(":status", "abc")])),
        frame(HEADERS, END_HEADERS, 1, encode([(":status", "200"), (":path", "/")])),
        frame(HEADERS, END_HEADERS, 1, encode([(":status", "101")])),
        frame(DATA, 0, 1, b"x"),
        frame(HEADERS, END_HEADERS, 1, OK) + frame(HEADERS, END_HEADERS, 1, TRAILERS),
        frame(HEADERS, END_HEADERS, 1, OK) + frame(HEADERS, 5, 1, OK),
    ],
)
def test_a_fault_within_a_stream_costs_only_that(bad):
    connection = connected()
    stream, other = opened(connection), opened(connection)
    connection.receive(bad)
    assert [(loss.kind, loss.untouched) for loss in stream.ends if loss] == [("protocol", False)]
    assert (RST_STREAM, 0, 1, struct.pack(">I", 1)) in frames(connection.take())
    assert not connection.closed
    assert other.live


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">I", 2) + REQUEST), "PROTOCOL_ERROR"),
        (frame(HEADERS, END_HEADERS, 1, b"\xbe"), "COMPRESSION_ERROR"),
        (frame(HEADERS, 0, 1, OK) + frame(PING, 0, 0, bytes(8)), "PROTOCOL_ERROR"),
        (frame(HEADERS, 0, 1, OK) + frame(CONTINUATION, 0, 1) * 100, "ENHANCE_YOUR_CALM"),
        (frame(CONTINUATION, END_HEADERS, 1, OK), "PROTOCOL_ERROR"),
        (frame(DATA, 0, 7, b"x"), "PROTOCOL_ERROR"),
        (frame(DATA, PADDED, 1, b"\x09abc"), "PROTOCOL_ERROR"),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), "PROTOCOL_ERROR"),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), "FLOW_CONTROL_ERROR"),
        (setting(4, 2**31), "FLOW_CONTROL_ERROR"),
        (setting(5, 1), "PROTOCOL_ERROR"),
        (setting(2, 1), "PROTOCOL_ERROR"),
        (frame(SETTINGS, 0, 0, b"12345"), "FRAME_SIZE_ERROR"),
        (struct.pack(">IBI", (http2.FRAME + 1) << 8, 0, 1), "FRAME_SIZE_ERROR"),
        (frame(PING, 0, 0, b"1"), "FRAME_SIZE_ERROR"),
    ],
)
def test_a_fault_of_the_connection_ends_it_and_says_which(bad, code):
    connection = connected()
    stream, other = opened(connection), opened(connection)
    connection.receive(bad)
    assert connection.closed
    for each in (stream, other):
        assert [loss.kind for loss in each.ends if loss] == ["protocol"]
    kind, _, _, payload = frames(connection.take())[-1]
    assert kind == GOAWAY
    assert http2.code_name(payload[4:8]) == code


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it speaks HTTP/1 here ('HTTP/1.1 400 Bad Request')"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "its first frame is no SETTINGS"),
        (frame(HEADERS, 5, 1, OK), "its first frame is no SETTINGS"),
    ],
)
def test_a_server_of_another_protocol_is_told_from_its_first_bytes(answer, said):
    connection = Connection(Blocks())
    connection.receive(answer)
    assert connection.closed
    assert said in connection.fault
