"""Server-sent events, and what they say about tokens, however the bytes are cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.wire.events import Event, EventReader, Tokens


def read(pieces: list[bytes]) -> list[Event]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: a\n\n", [Event("", b"a")]),
        (b"data:a\r\n\r\ndata:  b\r\r", [Event("", b"a"), Event("", b" b")]),
        (b"\xef\xbb\xbfdata: a\ndata\ndata: b\n\n", [Event("", b"a\n\nb")]),
        (
            b": comment\nid: 7\nretry: 5\nevent: error\ndata: {}\n\ndata: x\n\n",
            [Event("error", b"{}"), Event("", b"x")],
        ),
        (b"event: nothing\n\ndata: x\n\n", [Event("", b"x")]),
        (b"\n\n\ndatum: x\n\n", []),
        (b"data: never ended\n", []),
        (b"data: \xff\x0b\x85\n\n", [Event("", b"\xff\x0b\x85")]),
    ],
)
def test_events_are_what_the_standard_says(data: bytes, events: list[Event]) -> None:
    assert read([data]) == events
    assert read([data[at : at + 1] for at in range(len(data))]) == events


pieces = st.lists(
    st.sampled_from([b"data", b":", b" ", b"x", b"\n", b"\r", b"\r\n", b"event: e", b"\xef\xbb\xbf", b"id"])
)


@given(pieces.map(b"".join), st.lists(st.integers(0, 100)))
@settings(max_examples=400, deadline=None)
def test_events_are_the_same_however_they_are_cut(data: bytes, places: list[int]) -> None:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    cut = [data[start:end] for start, end in pairwise(ends)]
    assert read(cut) == read([data])


def chunk(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode() + b"\n\n"


FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7,'
    b'"completion_tokens_details":{"reasoning_tokens":3}}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def tokens(parts: list[bytes]) -> Tokens:
    """The parts come one second after another, beginning at 1."""
    made = Tokens("openai")
    for at, part in enumerate(parts, 1):
        made.feed(part, float(at))
    made.end()
    return made


def test_tokens_are_stamped_and_the_servers_count_of_them_is_believed() -> None:
    said = tokens(
        [
            *(
                chunk(role="assistant", content=""),
                chunk(reasoning_content="hm"),
                chunk(content="a") + chunk(content="b"),
            ),
            *(chunk(content="")[:30], chunk(content="")[30:], chunk(tool_calls=[{"index": 0}]), FINISH, USAGE, DONE),
        ]
    )
    assert said.stamps == [2.0, 3.0, 3.0, 6.0]
    assert said.output == 7
    assert said.trouble is None
    assert b'"role"' in said.first


def test_completions_without_chat_are_tokens_too() -> None:
    said = tokens([b'data: {"choices":[{"text":"a"}]}\n\n', b'data: {"choices":[{"text":""}]}\n\n', DONE])
    assert (said.stamps, said.output, said.trouble) == ([1.0], None, None)


@pytest.mark.parametrize(
    ("end", "trouble"),
    [
        (b'data: {"error":{"message":"out of memory","code":500}}\n\n', "out of memory"),
        (b'data: {"error":"busy"}\n\n', "busy"),
        (b'event: error\ndata: {"detail":1}\n\n', '{"detail":1}'),
        (b"data: nonsense\n\n", "not JSON"),
        (b"data: [1]\n\n", "not an object"),
        (b"", "ended without [DONE]"),
        (FINISH, None),
        (DONE, None),
        (b'data: {"choices":[null, 3],"usage":{"completion_tokens":"x"}}\n\n' + DONE, None),
    ],
)
def test_a_stream_may_fail_after_it_began_well(end: bytes, trouble: str | None) -> None:
    said = tokens([chunk(content="a"), end])
    assert said.stamps == [1.0]
    assert said.trouble == trouble or (trouble is not None and trouble in (said.trouble or ""))


def test_in_the_plain_dialect_every_event_is_a_token() -> None:
    made = Tokens("plain")
    made.feed(b"data: a\n\ndata: b\n\n: ping\n\n", 1.0)
    made.feed(b"event: error\ndata: broken\n\n", 2.0)
    made.end()
    assert (made.stamps, made.output, made.trouble) == ([1.0, 1.0], None, "broken")
