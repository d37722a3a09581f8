"""The HTTP/1.1 client against a server that answers well, badly, late, in part or not at all."""

import asyncio
import socket
import threading

import gevent
import pytest
from hub_thread import Exchange, exchange, on_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import Handler, Peer, raw_server

from loadgen.plan import Load, Range, Scenario, Target
from loadgen.wire.http1 import Http1Client

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\napp-version: v1\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def scenario(url: str, connections: int = 16, reuse: str = "reuse", **target: object) -> Scenario:
    target.setdefault("method", "POST")
    return Scenario("a", Target(url, **target), Load("max", requests=1, connections=connections, reuse=reuse))


async def well(peer: Peer) -> None:
    while await peer.request():
        await peer.send(OK)


def answering(*answers: bytes, then_close: bool = False) -> Handler:
    """A server that answers with these, byte for byte, on whichever connection; after the last, with the last."""
    left = list(answers)

    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(left.pop(0) if len(left) > 1 else left[0])
            if then_close:
                return

    return handler


def one(handler: Handler, body: bytes = b"x", **target: object):  # type: ignore[no-untyped-def]
    """The call that comes of one request."""
    with raw_server(handler) as server:
        return exchange(scenario(server.url(), **target), [body])[0]


# ---------------------------------------------------------------------- answers


def test_calls_one_after_another_share_a_connection() -> None:
    with raw_server(well) as server:
        calls = exchange(scenario(server.url()), [b"one", b"two", b"three"])
    assert [(call.code, call.version, call.failure) for call in calls] == [("200", "v1", None)] * 3
    assert len(server.peers) == 1
    assert [call.connected > 0 for call in calls] == [True, False, False]
    for call in calls:
        assert 0 < call.sent < call.first <= call.ended
        assert call.received == len(OK)


@pytest.mark.parametrize(
    ("answer", "code", "failure", "message"),
    [
        (b"HTTP/1.1 503 No\r\ncontent-length: 11\r\n\r\nno upstream", "503", "status 503", "no upstream"),
        (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "404", "status 404", ""),
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "302", None, ""),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", "204", None, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + OK, "200", None, ""),
        (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", "200", None, ""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "", "protocol", "'x' is not a length"),
        (b"SSH-2.0-OpenSSH\r\n", "", "protocol", "does not begin with 'SSH-2.0"),
        (CHUNKED + b"zz\r\n", "200", "protocol", "'zz' is not a chunk's size"),
    ],
)
def test_answers_and_what_is_wrong_with_them(answer: bytes, code: str, failure: str | None, message: str) -> None:
    call = one(answering(answer))
    assert (call.code, call.failure) == (code, failure)
    assert message in call.message


def test_which_statuses_are_errors_is_the_targets_to_say() -> None:
    errors = (Range(lower=200, upper=299),)
    assert one(well, errors=errors).failure == "status 200"
    assert one(answering(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), errors=errors).failure is None


def test_a_body_may_end_with_the_connection() -> None:
    call = one(answering(b"HTTP/1.1 200 OK\r\n\r\nsome", then_close=True))
    assert (call.code, call.failure) == ("200", None)


def test_a_version_may_be_in_the_body_or_in_trailers() -> None:
    body = b'{"model_name":"iris","model_version":"v2","outputs":[]}'
    assert one(answering(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))).version == "v2"
    assert one(answering(CHUNKED + b"2\r\nok\r\n0\r\napp-version: v3\r\n\r\n")).version == "v3"
    assert one(well, attribution=("body:model_version",)).version is None
    assert one(well, version="v9").version == "v9"


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("POST", b"HTTP/1.1 204 Nothing\r\n\r\n"),
        ("POST", b"HTTP/1.1 304 The same\r\ncontent-length: 7\r\n\r\n"),
    ],
)
def test_after_an_answer_without_a_body_the_connection_goes_on(method: str, answer: bytes) -> None:
    with raw_server(answering(answer)) as server:
        calls = exchange(scenario(server.url(), method=method), [b"", b""])
    assert [call.failure for call in calls] == [None, None]
    assert len(server.peers) == 1


# ---------------------------------------------------------------------- requests


def test_requests_are_what_was_asked_for() -> None:
    async def handler(peer: Peer) -> None:
        while request := await peer.request():
            server.requests.append(request)
            await peer.send(OK)

    def act() -> None:
        url = server.url("/a b/ü?q=1 2").replace("http://", "http://me:s%40y@")
        headers = (("X-Static", "1"), ("x-user", "{{ user }}"), ("User-Agent", "mine"))
        mine = Exchange(scenario(url, headers=headers))
        mine.send(b"body", [(b"x-user", b"u7")])
        mine.wait()
        broken = mine.send(b"body", [(b"x-user", b"u7\r\nx-evil: 1")])
        mine.wait()
        assert (broken.failure, broken.message) == (
            "protocol",
            "the value of the header x-user holds a line break or a NUL",
        )
        mine.client.close()

    with raw_server(handler) as server:
        on_hub(act)
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /a%20b/%C3%BC?q=1%202 HTTP/1.1"
    assert sorted(lines[1:]) == sorted(
        [
            f"host: 127.0.0.1:{server.port}",
            "accept: */*",
            "authorization: Basic bWU6c0B5",
            "X-Static: 1",
            "User-Agent: mine",
            "x-user: u7",
            "content-length: 4",
        ]
    )
    assert body == b"body"


def test_all_that_cannot_be_sent_is_named_at_once() -> None:
    headers = (("a b", "1"), ("content-length", "3"), ("x", "a\nb"))
    with pytest.raises(
        ValueError, match=r"'G T' is none; .*'a b' is none; .*content-length is made .*; .*x holds a line"
    ):
        on_hub(lambda: Http1Client(scenario("http://x/", method="G T", headers=headers), print))
    with pytest.raises(ValueError, match="a target is http://HOST"):
        on_hub(lambda: Http1Client(scenario("ftp://x/"), print))


def test_large_bodies_go_out_as_the_server_takes_them() -> None:
    body = bytes(range(256)) * 40_000

    async def handler(peer: Peer) -> None:
        assert (await peer.request()).endswith(b"\r\n\r\n" + body)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    call = one(handler, body)
    assert call.failure is None
    assert call.written > len(body) < call.received


def test_an_answer_may_come_before_the_request_has_been_sent() -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too large\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge")
        await peer.gone()

    call = one(handler, b"x" * 30_000_000)
    assert (call.code, call.failure, call.message) == ("413", "status 413", "large")


# ---------------------------------------------------------------------- connections


def test_calls_at_once_take_a_connection_each_and_no_more_than_there_are() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        here.append(peer)
        if len(here) == 3:  # at the same time
            for other in here:
                await other.send(OK)
        await peer.gone()

    here: list[Peer] = []

    def act() -> list[str | None]:
        mine = Exchange(scenario(server.url(), connections=3))
        for _ in range(3):
            assert mine.client.has_room()
            mine.send(b"x")
        assert not mine.client.has_room()
        mine.send(b"x")
        mine.wait()
        assert mine.client.has_room()
        assert mine.client.opened == 3
        mine.client.close()
        return [call.failure for call in mine.done]

    with raw_server(handler) as server:
        assert on_hub(act) == ["no room", None, None, None]


def test_the_connection_used_last_is_used_first() -> None:
    async def handler(peer: Peer) -> None:
        while await peer.request():
            await peer.send(OK.replace(b"v1", b"p%d" % peer.number))

    def act() -> set[str | None]:
        mine = Exchange(scenario(server.url()))
        for _ in range(4):
            mine.send(b"x")
        mine.wait()
        for _ in range(5):
            mine.send(b"x")
            mine.wait()
        mine.client.close()
        return {call.version for call in mine.done[4:]}

    with raw_server(handler) as server:
        assert len(on_hub(act)) == 1


def test_each_request_may_have_a_connection_of_its_own() -> None:
    with raw_server(well) as server:
        calls = exchange(scenario(server.url(), reuse="per-request"), [b"x"] * 5)
        assert [call.failure for call in calls] == [None] * 5
        assert all(call.connected > 0 for call in calls)
    assert len(server.peers) == 5


@pytest.mark.parametrize("way", ["in good order", "reset"])
def test_a_call_that_meets_a_dying_idle_connection_is_sent_once_more(way: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if await peer.request() and peer.number == 0:
            if way == "reset":
                peer.reset()
            return
        await peer.send(OK)

    def act() -> None:
        mine = Exchange(scenario(server.url()))
        for _ in range(2):
            mine.send(b"x")
            mine.wait()
        assert [call.failure for call in mine.done] == [None, None]
        assert mine.done[1].connected > mine.done[1].sent > 0
        assert (mine.client.retried, mine.client.opened) == (1, 2)
        mine.client.close()

    with raw_server(handler) as server:
        on_hub(act)


@pytest.mark.parametrize(
    ("answer", "failure", "message"),
    [(b"", "closed early", "before it answered"), (b"HTTP/1.1 2", "closed early", "after 10 bytes")],
)
def test_otherwise_nothing_is_sent_twice(answer: bytes, failure: str, message: str) -> None:
    """Neither on a new connection nor after a byte of the answer."""

    async def handler(peer: Peer) -> None:
        if answer and peer.number == 0:
            await peer.request()
            await peer.send(OK)
        await peer.request()
        if answer:
            await peer.send(answer)

    def act() -> None:
        mine = Exchange(scenario(server.url()))
        for _ in range(2 if answer else 1):
            mine.send(b"x")
            mine.wait()
        assert mine.client.retried == 0
        assert (mine.done[-1].failure, mine.done[-1].ended > 0) == (failure, True)
        assert message in mine.done[-1].message
        mine.client.close()

    with raw_server(handler) as server:
        on_hub(act)
    assert len(server.peers) == 1


def test_an_idle_connection_that_the_server_ends_is_forgotten() -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await asyncio.get_running_loop().run_in_executor(None, asked.wait)
            await peer.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
            await peer.gone()

    def act() -> None:
        mine = Exchange(scenario(server.url()))
        assert isinstance(mine.client, Http1Client)
        for _ in range(3):
            mine.send(b"x")
            mine.wait()
            if mine.client.opened == 2:
                asked.set()
            while mine.client.idle:
                gevent.sleep(0.001)
        assert [call.failure for call in mine.done] == [None] * 3
        assert (mine.client.opened, mine.client.retried) == (3, 0)
        mine.client.close()

    asked = threading.Event()
    with raw_server(handler) as server:
        on_hub(act)


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\napp-version: v1\r\n\r\nsome",
        CHUNKED + b"4\r\nsome\r\n",
        b"HTTP/1.1 200",
    ],
)
def test_a_server_that_closes_within_its_answer_is_told_from_one_that_resets(answer: bytes) -> None:
    call = one(answering(answer, then_close=True))
    assert (call.failure, call.received) == ("closed early", len(answer))
    assert f"closed the connection after {len(answer)} bytes of its answer" in call.message
    assert (call.code, call.version) == (
        ("200", "v1") if b"app-version" in answer else ("200" if b"\n" in answer else "", None)
    )

    async def reset(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await asyncio.sleep(0)
        peer.reset()

    call = one(reset)
    assert call.failure == "connection reset"
    assert "Connection reset by peer" in call.message


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        calls = exchange(scenario(url, version="v2"), [b"x", b"y"], one_by_one=False)
    for call in calls:
        assert (call.failure, call.code, call.version) == ("connection refused", "", "v2")
        assert call.message.endswith("Connection refused")
        assert 0 < call.sent < call.ended


def test_a_name_that_does_not_exist() -> None:
    calls = exchange(scenario("http://no-such-host.invalid:80/"), [b"x", b"y"], one_by_one=False)
    assert [call.failure for call in calls] == ["name not resolved"] * 2
    assert calls[0].message.startswith("no-such-host.invalid: ")
    assert exchange(scenario("http://a..b/"))[0].failure == "name not resolved"


def test_of_several_addresses_one_that_answers_is_taken_and_the_name_looked_up_once() -> None:
    class Resolver:
        asked = 0

        def getaddrinfo(self, host: str, port: int, *_: object) -> list[tuple[object, ...]]:
            self.asked += 1
            gevent.sleep(0)
            return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1", "127.0.0.3")]

        def close(self) -> None:
            """The hub closes its resolver."""

    def act() -> None:
        hub = gevent.get_hub()
        hub.resolver = resolver = Resolver()
        mine = Exchange(scenario(server.url().replace("127.0.0.1", "models.example"), reuse="per-request"))
        for _ in range(2):
            mine.send(b"x")
            mine.send(b"y")
            mine.wait()
        assert [call.failure for call in mine.done] == [None] * 4
        assert resolver.asked == 1
        mine.client.close()

    with raw_server(well) as server:  # on one of the addresses
        on_hub(act)


@pytest.mark.parametrize(
    ("answer", "message"), [(b"", "no answer within 0.2 s"), (b"HTTP/1.1 200", "only 12 bytes of the")]
)
def test_what_takes_too_long_is_given_up_with_its_connection(answer: bytes, message: str) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.send(answer)
            await peer.gone()
        else:
            await peer.send(OK)

    with raw_server(handler) as server:
        first, second = exchange(scenario(server.url(), timeout=0.2), [b"x", b"y"])
    assert first.failure == "timeout"
    assert message in first.message
    assert first.ended - first.sent >= 0.2
    assert second.failure is None


def test_each_call_has_its_own_time() -> None:
    """Those that are answered leave no timer behind that would end the next ones."""

    async def handler(peer: Peer) -> None:
        while request := await peer.request():
            if request.endswith(b"quick"):
                await peer.send(OK)

    def act() -> None:
        mine = Exchange(scenario(server.url(), timeout=1.0, connections=0))
        for _ in range(3):
            mine.send(b"slow")
            for _ in range(10):
                mine.send(b"quick")
            gevent.sleep(0.1)
        mine.wait()
        late = [call for call in mine.done if call.failure == "timeout"]
        assert [call.seq for call in late] == [0, 11, 22]
        assert all(call.ended - call.sent >= 1.0 for call in late)
        assert sum(call.failure is None for call in mine.done) == 30
        mine.client.close()

    with raw_server(handler) as server:
        on_hub(act)


def test_a_connection_that_does_not_come_about_has_a_time_of_its_own() -> None:
    """Here nobody answers the TLS handshake."""

    async def silent(peer: Peer) -> None:
        await peer.gone()

    with raw_server(silent) as server:
        (call,) = exchange(scenario(server.url(scheme="https"), connect_timeout=0.2, timeout=30.0))
    assert call.failure == "connect timeout"
    assert call.message == f"no connection to 127.0.0.1:{server.port} within 0.2 s"


def test_closing_ends_what_is_in_flight() -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        server.requests.append(b"")
        await peer.gone()

    def act() -> list[str | None]:
        mine = Exchange(scenario(server.url()))
        mine.send(b"x")
        while not server.requests:
            gevent.sleep(0.001)
        mine.send(b"y")  # its connection does not exist yet
        mine.client.close()
        assert (mine.client.in_flight, mine.client.has_room()) == (0, False)
        mine.send(b"z")
        return [call.failure for call in mine.wait()]

    with raw_server(silent) as server:
        assert on_hub(act) == ["cancelled"] * 3


DEEDS = st.sampled_from(["well", "well", "well", "close", "cut", "reset", "refuse", "bad", "surplus", "last"])


@given(st.lists(DEEDS, min_size=1, max_size=25), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_call_is_accounted_for_whatever_the_server_does(deeds: list[str], connections: int) -> None:
    left = list(deeds)

    async def handler(peer: Peer) -> None:
        while await peer.request():
            match left.pop() if left else "well":
                case "close":
                    return
                case "cut":
                    await peer.send(OK[:20])
                    return
                case "reset":
                    peer.reset()
                    return
                case "refuse":
                    await peer.send(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
                case "bad":
                    await peer.send(b"nonsense")
                case "surplus":
                    await peer.send(OK + OK)
                case "last":
                    await peer.send(OK)
                    return
                case _:
                    await peer.send(OK)

    def act() -> None:
        total = len(deeds) + 5

        def again(call: object) -> None:
            if mine.sent < total:
                mine.send(b"x")

        mine = Exchange(scenario(server.url(), connections=connections), again)
        for _ in range(min(connections, total)):
            mine.send(b"x")
        mine.wait()
        client = mine.client
        assert (client.in_flight, mine.sent) == (0, total)
        assert client.has_room()
        assert all(call.ended >= call.sent > 0 for call in mine.done)
        assert sum(call.failure is not None for call in mine.done) <= len(deeds)
        for call in mine.done:
            assert (call.code == "200" and call.failure is None) or call.failure is not None
        client.close()

    with raw_server(handler) as server:
        on_hub(act)
