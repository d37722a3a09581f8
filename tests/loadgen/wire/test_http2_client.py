"""The HTTP/2 client: against servers that misbehave by the frame, and against nginx."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from h2_peer import FIRST, data, frame, headers, preface, requests, setting, told, trailers
from hub_thread import Exchange, exchange, on_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import Peer, raw_server

from loadgen.plan import Grpc, Load, Scenario, Target, Tls
from loadgen.wire.http2 import CANCEL, DATA, GOAWAY, RST_STREAM, SETTINGS

EVENTS = ("content-type", "text/event-stream")


def scenario(url: str, connections: int = 1, load: Load | None = None, **target: Any) -> Scenario:
    target = {"method": "POST", "timeout": 30, **target}
    return Scenario("a", Target(url, "http2", **target), load or Load("max", requests=1, connections=connections))


def said(calls: list[Any]) -> list[tuple[str, str | None, str]]:
    return [(call.code, call.failure, call.message) for call in calls]


async def well(peer: Peer) -> None:
    async for id in requests(peer):
        await peer.send(headers(id, ("app-version", "v1")) + data(id, b"ok", end=True))


def test_calls_share_a_connection_and_say_who_answered() -> None:
    with raw_server(well) as server:
        calls = exchange(scenario(server.url()), [b"one", b"two", b"three"])
    assert [(call.code, call.version, call.failure) for call in calls] == [("200", "v1", None)] * 3
    assert len(server.peers) == 1
    assert [call.connected > 0 for call in calls] == [True, False, False]
    for call in calls:
        assert 0 < call.sent < call.first <= call.ended


def test_connections_are_used_side_by_side_up_to_their_number() -> None:
    with raw_server(well) as server:
        calls = exchange(scenario(server.url(), 3), [b"x"] * 10, one_by_one=False)
        assert [call.failure for call in calls] == [None] * 10
        assert len(server.peers) == 3


def test_a_connection_for_each_request() -> None:
    with raw_server(well) as server:
        load = Load("max", requests=1, connections=2, reuse="per-request")
        calls = exchange(scenario(server.url(), load=load), [b"x"] * 3)
        assert [(call.failure, call.connected > 0) for call in calls] == [(None, True)] * 3
        assert len(server.peers) == 3


def test_no_more_streams_than_the_server_allows_and_the_others_wait_for_their_turn() -> None:
    most = 0

    async def narrow(peer: Peer) -> None:
        nonlocal most
        waiting: list[int] = []
        async for id in requests(peer, setting(3, 2)):
            waiting.append(id)
            most = max(most, len(waiting))
            if len(waiting) == 2 or id >= 9:
                await peer.send(b"".join(headers(each, end=True) for each in waiting))
                waiting.clear()

    with raw_server(narrow) as server:
        calls = exchange(scenario(server.url()), [b"x"] * 5, one_by_one=False)
    assert [call.failure for call in calls] == [None] * 5
    assert most == 2


def test_where_there_is_no_room_is_known_and_said() -> None:
    async def silent(peer: Peer) -> None:
        async for _ in requests(peer):
            pass

    def act() -> list[tuple[str | None, str]]:
        mine = Exchange(scenario(server.url(), load=Load("max", requests=1, connections=1, streams_per_connection=2)))
        assert mine.client.has_room()
        for _ in range(2):
            mine.send()
        assert not mine.client.has_room()
        mine.send()
        mine.client.close()
        return sorted((call.failure, call.message) for call in mine.wait())

    with raw_server(silent) as server:
        ended = on_hub(act)
    assert ended == [
        ("cancelled", "the run ended"),
        ("cancelled", "the run ended"),
        ("no room", "all 1 connections are taken"),
    ]


def test_goaway_moves_untouched_calls_to_a_new_connection_and_leaves_the_others() -> None:
    async def leaves(peer: Peer) -> None:
        first = []
        async for id in requests(peer):
            if peer.number:
                await peer.send(headers(id, ("app-version", "new"), end=True))
                continue
            first.append(id)
            if len(first) == 3:
                await peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0)))
                await peer.send(headers(1, ("app-version", "old"), end=True))

    def act() -> tuple[list[Any], int]:
        mine = Exchange(scenario(server.url()))
        for _ in range(3):
            mine.send()
        mine.wait()
        mine.send()
        mine.wait()
        mine.client.close()
        return sorted(mine.done, key=lambda call: call.seq), mine.client.retried

    with raw_server(leaves) as server:
        calls, retried = on_hub(act)
    assert [(call.failure, call.version) for call in calls] == [
        (None, "old"),
        (None, "new"),
        (None, "new"),
        (None, "new"),
    ]
    assert retried == 2
    assert len(server.peers) == 2


def test_a_call_that_met_the_end_of_an_idle_connection_is_sent_again_once() -> None:
    async def tires(peer: Peer) -> None:
        async for id in requests(peer):
            if id == 1 and peer.number < 2:
                await peer.send(headers(id, end=True))
            else:
                return  # closes without a word

    def act() -> tuple[list[Any], int]:
        mine = Exchange(scenario(server.url()))
        for _ in range(2):
            mine.send()
            mine.wait()
        mine.send()
        mine.wait()
        mine.client.close()
        return mine.done, mine.client.retried

    with raw_server(tires) as server:
        calls, retried = on_hub(act)
    assert [call.failure for call in calls] == [None, None, "closed early"]
    assert retried == 2
    assert "closed the connection" in calls[2].message


def test_a_server_that_only_ever_goes_away_is_not_asked_for_ever() -> None:
    async def rude(peer: Peer) -> None:
        async for _ in requests(peer):
            await peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11) + b"no"))
            return

    with raw_server(rude) as server:
        (call,) = exchange(scenario(server.url()))
        assert call.failure == "stream error"
        assert "GOAWAY ENHANCE_YOUR_CALM (no)" in call.message
        assert len(server.peers) == 9


def test_a_timeout_resets_the_stream_and_leaves_the_connection() -> None:
    reset = threading.Event()

    async def slow(peer: Peer) -> None:
        assert await preface(peer)
        async for each in told(peer):
            if each.kind == DATA and each.id == 3:
                await peer.send(headers(3, end=True))
            if each.kind == RST_STREAM:
                assert (each.id, each.payload) == (1, struct.pack(">I", CANCEL))
                reset.set()

    with raw_server(slow) as server:
        calls = exchange(scenario(server.url(), timeout=1.5), [b"x", b"y"])
        assert reset.wait(30)
    assert said(calls) == [
        ("", "timeout", f"127.0.0.1:{server.port}: no answer within 1.5 s"),
        ("200", None, ""),
    ]
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("answer", "code", "failure", "message"),
    [
        (headers(1, status="503") + data(1, b"overloaded", end=True), "503", "status 503", "overloaded"),
        (headers(1, ("content-length", "5")) + data(1, b"four", end=True), "200", "protocol", "content-length says 5"),
        (headers(1) + frame(RST_STREAM, 0, 1, struct.pack(">I", 2)), "200", "stream error", "INTERNAL_ERROR"),
        (headers(1) + data(1, b"x"), "200", "closed early", "closed the connection"),
        (data(1, b"x"), "", "protocol", "data before the headers"),
        (frame(DATA, 0, 99, b"x"), "", "protocol", "stream 99, which has not begun"),
    ],
)
def test_what_goes_wrong_is_said(answer: bytes, code: str, failure: str, message: str) -> None:
    async def serve(peer: Peer) -> None:
        async for _ in requests(peer):
            await peer.send(answer)
            return

    with raw_server(serve) as server:
        (call,) = exchange(scenario(server.url()))
    assert (call.code, call.failure) == (code, failure)
    assert message in call.message


@pytest.mark.parametrize(
    ("greeting", "failure", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol", "it speaks HTTP/1 here"),
        (frame(SETTINGS, 0, 0, b"x"), "protocol", "settings of the wrong length"),
        (b"", "closed early", "before it sent its settings"),
    ],
)
def test_what_is_no_http2_is_said(greeting: bytes, failure: str, message: str) -> None:
    async def serve(peer: Peer) -> None:
        await peer.reader.read(24)
        await peer.send(greeting)

    with raw_server(serve) as server:
        calls = exchange(scenario(server.url()), [b"1", b"2"], one_by_one=False)
    for call in calls:
        assert call.failure == failure
        assert message in call.message


def test_a_refused_connection_fails_each_call() -> None:
    with raw_server(well) as server:
        pass
    calls = exchange(scenario(server.url()), [b"1", b"2"], one_by_one=False)
    assert [call.failure for call in calls] == ["connection refused"] * 2


def test_headers_of_a_request_arrive_and_broken_ones_are_not_sent() -> None:
    seen: list[bytes] = []

    async def look(peer: Peer) -> None:
        assert await preface(peer)
        async for each in told(peer):
            if each.kind == 1:
                seen.append(each.payload)
                await peer.send(headers(each.id, end=True))

    def act() -> list[Any]:
        mine = Exchange(scenario(server.url(), headers=(("X-A", "b"), ("x-dyn", "{{ seq }}"), ("host", "iris"))))
        mine.send(b"", [(b"x-dyn", b"1")])
        mine.send(b"", [(b"x-dyn", b"1\r\nx: y")])
        mine.wait()
        mine.client.close()
        return mine.done

    from loadgen.wire.header_blocks import Blocks

    with raw_server(look) as server:
        calls = on_hub(act)
    assert sorted(call.failure or "" for call in calls) == ["", "protocol"]
    (block,) = (Blocks().read(each) for each in seen)
    assert block.fields == (
        (":method", "POST"),
        (":path", "/"),
        (":scheme", "http"),
        (":authority", "iris"),
        ("user-agent", "headgate-load"),
        ("accept", "*/*"),
        ("x-a", "b"),
        ("x-dyn", "1"),
        ("content-length", "0"),
    )


def test_streams_of_events_are_stamped_and_counted() -> None:
    chunk = b'data: {"model": "m", "model_version": "v7", "choices": [{"delta": {"content": "x"}}]}\n\n'

    async def talk(peer: Peer) -> None:
        async for id in requests(peer):
            await peer.send(headers(id, EVENTS))
            for _ in range(3):
                await peer.send(data(id, chunk))
            await peer.send(data(id, b"data: [DONE]\n\n") + trailers(id))

    with raw_server(talk) as server:
        calls = exchange(scenario(server.url(), stream=True), [b"{}"] * 4, one_by_one=False)
    for call in calls:
        assert (call.failure, call.version, call.output_tokens) == (None, "v7", 3)
        assert call.tokens is not None
        assert call.sent < call.first <= call.tokens[0] <= call.tokens[2] <= call.ended


def test_an_error_inside_a_stream_and_an_answer_that_is_none_fail() -> None:
    async def talk(peer: Peer) -> None:
        async for id in requests(peer):
            if id == 1:
                await peer.send(headers(id, EVENTS) + data(id, b'data: {"error": {"message": "boo"}}\n\n', end=True))
            else:
                await peer.send(headers(id, ("content-type", "text/html")) + data(id, b"<p>", end=True))

    with raw_server(talk) as server:
        calls = exchange(scenario(server.url(), stream=True), [b"{}"] * 2)
    assert [call.failure for call in calls] == ["stream error"] * 2
    assert calls[0].message == "boo"
    assert "text/html" in calls[1].message


@pytest.mark.parametrize("protocols", [["h2"], ["http/1.1"]])
def test_tls_agrees_on_http2_by_alpn_or_fails(protocols: list[str]) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(protocols)
    tls = Tls(ca=ca.cert_pem.bytes().decode())

    async def serve(peer: Peer) -> None:
        if protocols == ["h2"]:
            await well(peer)
        else:
            await peer.gone()

    with raw_server(serve, context) as server:
        (call,) = exchange(scenario(server.url(scheme="https"), tls=tls))
    if protocols == ["h2"]:
        assert (call.failure, call.version) == (None, "v1")
    else:
        assert (call.failure, call.message) == (
            "tls",
            f"127.0.0.1:{server.port} chose nothing by ALPN, where h2 was offered",
        )


@pytest.fixture
def nginx() -> Iterator[str]:
    """nginx on a socket that it inherits as in an upgrade of its binary, so that nobody else can take the port."""
    command = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(command).exists():
        pytest.skip("nginx is not installed")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        port = listening.getsockname()[1]
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;"
            "events { worker_connections 64; }"
            f"http {{ access_log off; client_body_temp_path {folder}/body; client_max_body_size 8m;"
            f" proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;"
            f" scgi_temp_path {folder}/s; keepalive_requests 20;"
            f" server {{ listen 127.0.0.1:{port} http2; root {folder};"
            ' location / { add_header app-version v1; return 200 "pong"; } } }'
        )
        handle = listening.fileno()
        process = subprocess.Popen(
            [command, "-c", str(config), "-p", folder, "-e", f"{folder}/error.log"],
            pass_fds=(handle,),
            env={**os.environ, "NGINX": f"{handle};"},
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.wait(30)


def test_nginx_answers_and_none_is_lost_when_it_goes_away_every_twenty_requests(nginx: str) -> None:
    bodies = [b"", b"x" * 100, b"x" * 300_000, *[b"y"] * 97]
    calls = exchange(scenario(nginx, timeout=60), bodies)
    assert [(call.failure, call.code, call.version) for call in calls] == [(None, "200", "v1")] * 100
    assert sum(call.connected > 0 for call in calls) >= 4
    at_once = exchange(scenario(nginx, timeout=60), [b"z"] * 90, one_by_one=False)
    assert [call.failure for call in at_once] == [None] * 90


def test_a_target_that_cannot_be_used_says_why() -> None:
    from loadgen.wire.clients import open_client

    for bad, why in (
        (scenario("ftp://x/"), "a target is http://"),
        (scenario("http://x/", headers=(("a b", "c"),)), "the header's name"),
        (scenario("http://x/", attribution=("x",)), "attribution"),
    ):
        with pytest.raises(ValueError, match=why):
            on_hub(lambda bad=bad: open_client(bad, lambda call: None))  # type: ignore[misc]


answers = st.one_of(
    st.builds(
        frame,
        st.integers(0, 10),
        st.integers(0, 255),
        st.sampled_from([0, 1, 3, 5]),
        st.one_of(st.binary(max_size=30), st.just(b"\x88"), st.just(b"\0\0\0\1")),
    ),
    st.sampled_from([headers(1), headers(3, end=True), headers(1, EVENTS), data(1, b"data: x\n\n"), trailers(1)]),
)


@pytest.mark.parametrize("protocol", ["http2", "stream", "grpc"])
@given(st.lists(answers, max_size=8), st.booleans())
@settings(max_examples=25, deadline=None)
def test_whatever_a_server_says_each_call_ends_once(protocol: Any, parts: list[bytes], greeted: bool) -> None:
    async def babble(peer: Peer) -> None:
        if greeted:
            await peer.send(FIRST)
        await peer.reader.read(1000)
        await peer.send(b"".join(parts))

    with raw_server(babble) as server:
        asked = scenario(server.url(""), stream=protocol == "stream", timeout=20)
        if protocol == "grpc":
            target = replace(asked.target, protocol="grpc", grpc=Grpc("t.T/U", b""))
            asked = replace(asked, target=target)
        calls = exchange(asked, [b"\0\0\0\0\0"] * 3, one_by_one=False)
    assert len(calls) == 3
    for call in calls:
        assert call.ended >= call.sent > 0
        assert call.failure != "timeout"
