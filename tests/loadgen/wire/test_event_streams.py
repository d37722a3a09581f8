"""Answers that are streams of events: when their tokens came, how many there were, what became of them."""

import asyncio
import time

import pytest
from hub_thread import exchange
from raw_server import Handler, Peer, raw_server

from loadgen.plan import Load, Scenario, Target
from loadgen.wire.call import Call

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = b'data: {"model":"m-7b","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":12}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ask(handler: Handler, calls: int = 1, **target: object) -> list[Call]:
    with raw_server(handler) as server:
        made = Target(server.url(), method="POST", stream=True, **target)
        return exchange(Scenario("a", made, Load("max", requests=1)), [b"{}"] * calls)


def sending(*parts: bytes, then: str = "") -> Handler:
    async def handler(peer: Peer) -> None:
        while await peer.request():
            for part in parts:
                await peer.send(part)
            if then == "close":
                return
            if then == "stall":
                await peer.gone()

    return handler


def test_tokens_are_stamped_when_they_arrive() -> None:
    sent: list[float] = []

    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(HEAD)
            for _ in range(5):
                sent.append(time.perf_counter())
                await peer.send(chunked(TOKEN))
                await asyncio.sleep(0.01)
            await peer.send(chunked(USAGE) + chunked(DONE) + b"0\r\n\r\n")

    calls = ask(handler, calls=2, attribution=("body:model",))
    for call, truth in zip(calls, (sent[:5], sent[5:]), strict=True):
        assert (call.code, call.failure, call.version, call.output_tokens) == ("200", None, "m-7b", 12)
        assert call.tokens is not None
        assert len(call.tokens) == 5
        assert all(stamp >= start for stamp, start in zip(call.tokens, truth, strict=True))
        assert call.sent < call.first <= call.tokens[0]
        assert call.tokens == sorted(call.tokens)
        assert call.tokens[-1] <= call.ended
    assert calls[1].connected == 0.0


def test_without_the_servers_count_tokens_are_counted_as_they_arrive() -> None:
    (call,) = ask(sending(HEAD, chunked(TOKEN[:9]), chunked(TOKEN[9:] + TOKEN), chunked(DONE) + b"0\r\n\r\n"))
    assert (call.failure, call.output_tokens) == (None, 2)


@pytest.mark.parametrize(
    ("parts", "then", "failure", "tokens", "message"),
    [
        (
            [HEAD, chunked(TOKEN), chunked(b'data: {"error":{"message":"oom"}}\n\n0'), b"0\r\n\r\n"],
            "",
            "stream error",
            1,
            "oom",
        ),
        ([HEAD, chunked(TOKEN), b"0\r\n\r\n"], "", "stream error", 1, "ended without [DONE]"),
        ([HEAD, chunked(TOKEN * 2), b"9"], "close", "closed early", 2, "bytes of its answer"),
        ([HEAD, chunked(TOKEN), b"zz\r\n"], "", "protocol", 1, "'zz' is not a chunk's size"),
        ([HEAD, chunked(TOKEN)], "stall", "timeout", 1, "bytes of the answer within 0.5 s"),
        ([b"HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\nbad"], "", "status 500", 0, "bad"),
        (
            [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"],
            *("", "stream error", 0, "the answer is application/json and not a stream of events"),
        ),
    ],
)
def test_what_arrived_before_a_failure_is_kept(
    parts: list[bytes], then: str, failure: str, tokens: int, message: str
) -> None:
    for answer in (parts, [b"".join(parts)]):
        (call,) = ask(sending(*answer, then=then), timeout=0.5 if then == "stall" else 20.0)
        assert call.failure == failure
        assert message in call.message
        assert len(call.tokens or ()) == tokens


def test_a_plain_stream_may_end_with_its_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    (call,) = ask(sending(head, b"data: a\n\n", b"data: b\n\n", then="close"), dialect="plain")
    assert (call.failure, call.output_tokens) == (None, 2)


def test_what_follows_an_answer_is_not_taken_for_the_next_one() -> None:
    whole = HEAD + chunked(TOKEN) + chunked(DONE) + b"0\r\n\r\n"

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole + whole)
        await peer.gone()

    first, second = ask(handler, calls=2)
    assert [len(first.tokens or ()), len(second.tokens or ())] == [1, 1]
    assert second.connected > 0
