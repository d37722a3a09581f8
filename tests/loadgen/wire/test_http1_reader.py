"""The reader of HTTP/1.1 answers: however the bytes are cut, they mean the same."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.wire.http1_head import MAX_HEAD, Heads, ProtocolError
from loadgen.wire.http1_reader import MAX_BODY_KEPT, MAX_ERROR_KEPT, Reader


def a_reader(keep_body: bool = True, stream: bool = False) -> Reader:
    return Reader(Heads(("app-version", "x-other"), ("app-version",)), keep_body, stream)


@dataclass(frozen=True)
class Meaning:
    status: int
    version: str | None
    body: bytes
    reusable: bool
    trailers: tuple[tuple[str, str], ...]


def read(reader: Reader, pieces: list[bytes], bodiless: bool = False, ends: bool = False) -> Meaning | str | None:
    """What the answer means, what is wrong with it, or None if it is not complete."""
    reader.expect(bodiless)
    try:
        complete = [reader.feed(piece) for piece in pieces if piece]
    except ProtocolError as error:
        return str(error)
    ended = not (complete and complete[-1])
    if ended and not (ends and reader.end()):
        return None
    assert not any(complete[:-1])
    head = reader.head
    assert head is not None
    trailers = tuple(reader.trailers.items())
    return Meaning(head.status, head.version, b"".join(reader.body), head.reusable and not ended, trailers)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, Meaning]:
    """An answer with a body, and what it means."""
    body = draw(st.binary(max_size=200))
    status = draw(st.sampled_from([200, 201, 302, 404, 503, 999]))
    version = draw(st.none() | st.sampled_from(["v1", "v2-rc.1", "ü"]))
    lines = [f"HTTP/1.1 {status} {draw(st.sampled_from(['OK', '', 'Any thing']))}".encode()]
    lines += draw(st.lists(st.sampled_from([b"Date: now", b"x-empty:", b"X-Request-ID: 7", b"set-cookie: a=b; c"])))
    if version is not None:
        name = draw(st.sampled_from(["app-version", "App-Version", "APP-VERSION"]))
        space = draw(st.sampled_from(["", " ", "\t "]))
        lines.append(f"{name}:{space}{version} ".encode())
    closes = draw(st.booleans())
    if closes:
        lines.append(b"connection: Close")
    trailers: tuple[tuple[str, str], ...] = ()
    if draw(st.booleans()):
        lines.append(b"Transfer-Encoding: chunked")
        coded = b""
        rest = body
        while rest:
            size = draw(st.integers(1, len(rest)))
            extension = draw(st.sampled_from(["", ";a=b", " ; c"]))
            coded += f"{size:{draw(st.sampled_from(['x', 'X', '04x']))}}{extension}\r\n".encode()
            coded += rest[:size] + b"\r\n"
            rest = rest[size:]
        coded += b"0\r\n"
        if draw(st.booleans()):
            trailers = (("x-other", "late"),)
            coded += b"X-Other: late\r\nunknown: 1\r\n"
        coded += b"\r\n"
    else:
        lines.append(b"Content-Length: %d" % len(body))
        coded = body
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * draw(st.integers(0, 2))
    whole = interim + b"\r\n".join([lines[0], *draw(st.permutations(lines[1:]))]) + b"\r\n\r\n" + coded
    kept = body if version is None else body[:MAX_ERROR_KEPT] if status >= 400 else b""
    return whole, Meaning(status, version, kept, not closes, trailers)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


places = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(st.tuples(answers(), places), min_size=1, max_size=4))
@settings(max_examples=250, deadline=None)
def test_an_answer_means_the_same_however_it_is_cut(series: list[tuple[tuple[bytes, Meaning], list[int]]]) -> None:
    reader = a_reader()  # the same for all of them: what it remembers must not matter
    for (data, meaning), where in series:
        assert read(reader, cut(data, where)) == meaning
        assert read(reader, [data]) == meaning
        assert read(reader, [data[at : at + 1] for at in range(len(data))]) == meaning


STARTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204 x",
    b"HTTP/1.0 200 k\r\n",
    b"HTTP/1.1 100 c\r\n\r\n",
    b"HTTP/1.1 101 s",
]
FIELDS = [b"content-length: 3\r\n", b"content-length: x", b"connection: close\r\n", b"a b: c", b" ", b":", b"\0"]
CODINGS = [b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip", b"3\r\nabc\r\n", b"0\r\n", b"f" * 17, b"abc"]
ENDS = [b"\r\n", b"\r\n\r\n", b"\r", b"\n"]
alphabet = st.sampled_from([*STARTS, *FIELDS, *CODINGS, *ENDS])


@given(
    st.tuples(st.sampled_from(STARTS), st.lists(alphabet, max_size=9)).map(lambda some: some[0] + b"".join(some[1])),
    places,
)
@settings(max_examples=400, deadline=None)
def test_nonsense_is_refused_or_incomplete_however_it_is_cut(data: bytes, where: list[int]) -> None:
    def verdict(pieces: list[bytes]) -> object:
        """Up to the end of the first answer: what follows is cut off differently."""
        reader = a_reader()
        reader.expect()
        for piece in pieces:
            try:
                if reader.feed(piece):
                    assert reader.head is not None
                    return reader.head, b"".join(reader.body)
            except ProtocolError:
                return "refused"
        return reader.end(), b"".join(reader.body)

    whole = verdict([data])
    for pieces in (cut(data, where), [data[at : at + 1] for at in range(len(data))]):
        assert verdict(pieces) == whole


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an answer does not begin with 'SSH-2.0"),
        (b"\0\0\x12\4\0\0\0\0\0", "does it speak HTTP/2 only?"),
        (b"HTTP/1.1 200 OK\nserver: x\n\n", "without a carriage return"),
        (b"HTTP/1.1 2OO OK\r\n\r\n", "an answer does not begin with"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "an answer does not begin with"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "'-1' is not a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "'1, 2' is not a length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1" + b"0" * 5000 + b"\r\n\r\n", "is not a length"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "'no colon' is not a header field"),
        (b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", "' folded' is not a header field"),
        (b"HTTP/1.1 200 OK\r\na : b\r\n\r\n", "'a : b' is not a header field"),
        (b"HTTP/1.1 200 OK\r\na: b\0\r\n\r\n", "NUL"),
        (b"HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n", "bare carriage return"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switches protocols"),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "does not exist in HTTP/1.0"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "'xyz' is not a chunk's size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabcd", "a chunk is longer than its size says"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"0" * 5000, "longer than 4096 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20000,
            "its trailers are longer",
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000, f"its header is longer than {MAX_HEAD} bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000 + b"\r\n", f"its header is longer than {MAX_HEAD} bytes"),
    ],
)
def test_what_http_does_not_allow_is_named(data: bytes, what: str) -> None:
    said = read(a_reader(), [data])
    assert isinstance(said, str)
    assert what in said


@pytest.mark.parametrize("status", [200, 204, 304])
def test_answers_without_a_body_end_with_their_head(status: int) -> None:
    data = b"HTTP/1.1 %d x\r\ncontent-length: 5\r\n\r\n" % status
    meaning = read(a_reader(), [data], bodiless=status == 200)
    assert meaning == Meaning(status, None, b"", True, ())
    reader = a_reader()
    assert isinstance(read(reader, [data + b"12345"]), Meaning)
    assert reader.surplus is (status != 200)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    data = [b"HTTP/1.1 200 OK\r\n\r\n", b"some", b"thing"]
    assert read(a_reader(), data) is None
    assert read(a_reader(), data, ends=True) == Meaning(200, None, b"something", False, ())


def test_the_end_of_the_connection_completes_nothing_else() -> None:
    for data in (b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n1234"):
        assert read(a_reader(), [data], ends=True) is None
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for rest in (b"", b"3\r\nab", b"3\r\nabc\r\n", b"0\r\n", b"0\r\nx-other: 1\r\n"):
        assert read(a_reader(), [chunked + rest], ends=True) is None


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, CLOSE\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n", False),  # and a length: one of them lies
    ],
)
def test_when_a_connection_may_be_used_again(head: bytes, reusable: bool) -> None:
    body = b"0\r\n\r\n" if b"chunked" in head else b"ok"
    meaning = read(a_reader(), [head + b"content-length: 2\r\n\r\n" + body])
    assert isinstance(meaning, Meaning)
    assert meaning.reusable is reusable


def test_bytes_that_nobody_asked_for_are_noticed() -> None:
    reader = a_reader()
    assert isinstance(read(reader, [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + b"HTTP/1.1 408 x"]), Meaning)
    assert reader.surplus
    with pytest.raises(ProtocolError, match="without being asked"):
        reader.feed(b"HTTP/1.1 408 x")


def test_of_a_body_only_so_much_is_kept() -> None:
    big = b"HTTP/1.1 %d x\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000
    for status, keep, kept in ((200, False, 0), (200, True, MAX_BODY_KEPT), (500, False, MAX_ERROR_KEPT)):
        meaning = read(a_reader(keep_body=keep), cut(big % status, [70_000, 1_000_000]))
        assert isinstance(meaning, Meaning)
        assert len(meaning.body) == kept
