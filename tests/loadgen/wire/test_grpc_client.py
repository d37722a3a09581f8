"""The gRPC client: against gRPC's own server, and against answers that no server should give."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import trustme
from h2_peer import data, headers, requests, trailers
from hub_thread import Exchange, exchange, on_hub
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import Peer, raw_server

from headgate.demo import v2_messages as pb
from loadgen.plan import Grpc, Load, Scenario, Target, Tls
from loadgen.wire.grpc_client import split, timeout_text
from loadgen.wire.grpc_status import NAMES

GRPC = ("content-type", "application/grpc")
INFER = "inference.GRPCInferenceService/ModelInfer"


def framed(*messages: bytes) -> bytes:
    return b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)


class Service:
    """t.T with a method of each kind, and ModelInfer."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.metadata: dict[str, str | bytes] = {}
        self.left: float | None = None

    def infer(self, request: bytes, context: Any) -> bytes:
        answer = pb.ModelInferResponse(model_name="iris", model_version="7", id=str(len(request)))
        return bytes(answer.SerializeToString())

    def unary(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        self.left = context.time_remaining()
        if request == b"wait":
            self.release.wait(60)
        if request == b"fail":
            context.set_trailing_metadata((("app-version", "v2"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "no ä such")
        if request == b"early":
            context.send_initial_metadata((("app-version", "v3"),))
        return b"x" * 2_000_000 if request == b"big" else b"%d" % len(request)

    def server_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        for at in range(int(request)):
            yield b"x" * at

    def client_stream(self, messages: Iterator[bytes], context: Any) -> bytes:
        return b",".join(messages)

    def bidi(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from messages


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Service, str]]:
    service = Service()
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(service.unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(service.server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(service.client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(service.bidi),
    }
    infer = {"ModelInfer": grpc.unary_unary_rpc_method_handler(service.infer)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("t.T", methods),
            grpc.method_handlers_generic_handler("inference.GRPCInferenceService", infer),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"http://127.0.0.1:{port}"
    service.release.set()
    server.stop(0).wait(30)


CLIENTS = pytest.mark.parametrize("client", ["own", "grpcio"])


def scenario(url: str, method: str = "t.T/Unary", kind: Any = "unary", grpc: Any = None, **target: Any) -> Scenario:
    target = {"timeout": 60, **target}
    return Scenario(
        "a",
        Target(url, "grpc", grpc=Grpc(method, b"", kind, **(grpc or {})), **target),
        Load("max", requests=1, connections=1),
    )


@CLIENTS
def test_unary_calls_say_their_status_and_who_answered(served: Any, client: str) -> None:
    _, url = served
    bodies = [framed(each) for each in (b"a", b"fail", b"early", b"big", b"y" * 3_000_000)]
    calls = exchange(scenario(url, grpc={"client": client}), bodies)
    assert [(call.code, call.failure, call.message, call.version) for call in calls] == [
        ("OK", None, "", None),
        ("NOT_FOUND", "grpc NOT_FOUND", "no ä such", "v2"),
        ("OK", None, "", "v3"),
        ("OK", None, "", None),
        ("OK", None, "", None),
    ]
    assert calls[3].received >= 2_000_000
    for call in calls:
        assert 0 < call.sent < call.first <= call.ended
        assert call.tokens is None


@CLIENTS
def test_the_version_is_found_in_the_answer_of_a_model(served: Any, client: str) -> None:
    _, url = served
    calls = exchange(scenario(url, INFER, grpc={"client": client}), [framed(b"a")] * 3, one_by_one=False)
    assert [call.version for call in calls] == ["7"] * 3


@CLIENTS
def test_streams_count_and_stamp_their_messages(served: Any, client: str) -> None:
    _, url = served
    more = {"client": client}
    (down,) = exchange(scenario(url, "t.T/ServerStream", "server-stream", more), [framed(b"4")])
    assert (down.code, down.failure, down.output_tokens) == ("OK", None, 4)
    assert down.tokens is not None
    assert len(down.tokens) == 4
    assert down.sent < down.first <= down.tokens[0] <= down.tokens[3] <= down.ended
    (none,) = exchange(scenario(url, "t.T/ServerStream", "server-stream", more), [framed(b"0")])
    assert (none.code, none.tokens, none.output_tokens) == ("OK", [], 0)
    (up,) = exchange(scenario(url, "t.T/ClientStream", "client-stream", more), [framed(b"a", b"bc", b"")])
    assert (up.code, up.failure, up.tokens) == ("OK", None, None)
    (both,) = exchange(scenario(url, "t.T/Bidi", "bidi-stream", more), [framed(b"a", b"b" * 200_000, b"c")])
    assert (both.code, both.failure, both.output_tokens) == ("OK", None, 3)
    assert both.received > 200_000


@CLIENTS
def test_messages_of_a_stream_can_be_sent_some_time_apart(served: Any, client: str) -> None:
    _, url = served
    paced = scenario(url, "t.T/Bidi", "bidi-stream", {"stream_interval": 0.05, "client": client})
    (call,) = exchange(paced, [framed(b"a", b"b", b"c")])
    assert call.tokens is not None
    assert len(call.tokens) == 3
    assert call.ended - call.sent > 0.09


@CLIENTS
def test_metadata_and_the_deadline_arrive(served: Any, client: str) -> None:
    service, url = served
    told = (("X-Model", "iris"), ("trace-bin", "AAEC"))
    (call,) = exchange(scenario(url, grpc={"client": client}, headers=told), [framed(b"a")])
    assert call.failure is None
    assert service.metadata["trace-bin"] == b"\x00\x01\x02"
    assert service.metadata["x-model"] == "iris"
    assert "headgate" in service.metadata["user-agent"]
    assert service.left is not None
    assert 0 < service.left <= 60.1


@CLIENTS
def test_a_deadline_is_kept(served: Any, client: str) -> None:
    service, url = served
    service.release.clear()
    (call,) = exchange(scenario(url, grpc={"client": client}, timeout=0.3), [framed(b"wait")])
    service.release.set()
    assert call.failure == "timeout"
    assert call.ended - call.sent > 0.25


@CLIENTS
def test_tls_is_checked_and_a_client_certificate_shown(client: str) -> None:
    authority = trustme.CA()
    theirs, mine = authority.issue_cert("models.example"), authority.issue_cert("client.example")
    chain = theirs.cert_chain_pems[0].bytes()
    ca = authority.cert_pem.bytes()
    server = grpc.server(ThreadPoolExecutor(1))
    methods = {"Unary": grpc.unary_unary_rpc_method_handler(Service().unary)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    pair = ((theirs.private_key_pem.bytes(), chain),)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair, ca, require_client_auth=True))
    server.start()

    def ask(ca: bytes | None, name: str | None, certificate: Any) -> tuple[str, str | None]:
        shown = {} if certificate is None else {
            "certificate": certificate.cert_chain_pems[0].bytes().decode(),
            "key": certificate.private_key_pem.bytes().decode(),
        }  # fmt: skip
        tls = Tls(ca=None if ca is None else ca.decode(), server_name=name, **shown)
        (call,) = exchange(scenario(f"https://127.0.0.1:{port}", grpc={"client": client}, tls=tls), [framed(b"abc")])
        return call.code, call.failure

    try:
        assert ask(ca, "models.example", mine) == ("OK", None)
        for wrong in ((None, "models.example", mine), (ca, "other.example", mine), (ca, "models.example", None)):
            code, failure = ask(*wrong)
            assert code != "OK"
            assert failure is not None
    finally:
        server.stop(0).wait(30)


@CLIENTS
def test_what_the_server_does_not_have_is_unimplemented(served: Any, client: str) -> None:
    _, url = served
    (call,) = exchange(scenario(url, "t.T/Nothing", grpc={"client": client}), [framed(b"a")])
    assert (call.code, call.failure) == ("UNIMPLEMENTED", "grpc UNIMPLEMENTED")
    assert "Method not found" in call.message


@CLIENTS
def test_an_answer_larger_than_allowed_is_not_taken(served: Any, client: str) -> None:
    _, url = served
    small = scenario(url, grpc={"max_message": 1000, "client": client})
    calls = exchange(small, [framed(b"big"), framed(b"a")])
    assert (calls[0].code, calls[0].failure) == ("RESOURCE_EXHAUSTED", "grpc RESOURCE_EXHAUSTED")
    assert "2000000" in calls[0].message
    assert calls[1].failure is None


@CLIENTS
def test_nobody_there_is_said(client: str) -> None:
    async def nothing(peer: Peer) -> None:
        pass

    with raw_server(nothing) as server:
        pass
    (call,) = exchange(scenario(server.url(""), grpc={"client": client}, timeout=5), [framed(b"a")])
    assert call.failure == "connection refused"


@CLIENTS
def test_what_is_in_flight_at_the_end_is_cancelled(served: Any, client: str) -> None:
    service, url = served
    service.release.clear()

    def act() -> list[str | None]:
        mine = Exchange(scenario(url, grpc={"client": client}))
        for _ in range(3):
            mine.send(framed(b"wait"))
        mine.client.close()
        return [call.failure for call in mine.wait()]

    try:
        assert on_hub(act) == ["cancelled"] * 3
    finally:
        service.release.set()


PATCHED = """
from gevent import monkey; monkey.patch_all()
import sys
import gevent
from gevent.event import Event
from loadgen.plan import Grpc, Load, Scenario, Target, Tls
from loadgen.wire.call import Call
from loadgen.wire.clients import open_client

def run(method, kind, body, count):
    ended, done = [], Event()
    def note(call):
        ended.append(call)
        if len(ended) == count:
            done.set()
    target = Target(sys.argv[1], "grpc", grpc=Grpc(method, b"", kind, client="grpcio"), timeout=60)
    client = open_client(Scenario("a", target, Load("max", requests=1, connections=2)), note)
    loop = gevent.get_hub().loop
    for _ in range(count):
        loop.run_callback(client.send, Call(), body)  # the hub calls, as the engine has it do
    done.wait(60)
    loop.run_callback(client.close)
    gevent.sleep(0)
    print(kind, len(ended), {call.failure for call in ended}, {call.output_tokens for call in ended})

run("t.T/Unary", "unary", b"\\0\\0\\0\\0\\1a", 50)
run("t.T/ServerStream", "server-stream", b"\\0\\0\\0\\0\\0013", 5)
"""


def test_grpcio_works_in_a_process_that_gevent_has_patched(served: Any) -> None:
    _, url = served
    told = subprocess.run(
        [sys.executable, "-c", PATCHED, url], capture_output=True, text=True, timeout=100, check=False
    )
    assert told.stdout.splitlines() == ["unary 50 {None} {None}", "server-stream 5 {None} {3}"], told.stderr


ONE = framed(b"m")


@pytest.mark.parametrize(
    ("answer", "code", "failure", "message"),
    [
        (headers(1, GRPC) + data(1, ONE, end=True), "", "protocol", "ends without a grpc-status"),
        (headers(1, GRPC, end=True), "", "protocol", "ends without a grpc-status"),
        (headers(1, GRPC, ("grpc-status", "8"), end=True), "RESOURCE_EXHAUSTED", "grpc RESOURCE_EXHAUSTED", ""),
        (headers(1, GRPC) + trailers(1, ("grpc-status", "0")), "OK", "protocol", "there are 0 messages"),
        (headers(1, GRPC) + data(1, ONE * 2) + trailers(1, ("grpc-status", "0")), "OK", "protocol", "there are 2"),
        (headers(1, GRPC) + data(1, ONE[:4]) + trailers(1, ("grpc-status", "0")), "OK", "protocol", "within a message"),
        (headers(1, GRPC) + data(1, ONE) + trailers(1, ("grpc-status", "x")), "", "protocol", "the grpc-status 'x'"),
        (headers(1, GRPC) + data(1, ONE) + trailers(1, ("grpc-status", "77")), "CODE_77", "grpc CODE_77", ""),
        (headers(1, GRPC) + data(1, b"\1\0\0\0\1x"), "", "protocol", "a compressed message"),
        (headers(1, ("content-type", "text/html")) + data(1, b"<p>", end=True), "", "protocol", "text/html"),
        (headers(1, status="503", end=True), "UNAVAILABLE", "grpc UNAVAILABLE", "HTTP status 503"),
        (headers(1, status="404") + data(1, b"?", end=True), "UNIMPLEMENTED", "grpc UNIMPLEMENTED", "HTTP status 404"),
        (headers(1, GRPC) + data(1, ONE), "", "closed early", "closed the connection"),
    ],
)
def test_answers_that_no_server_should_give(answer: bytes, code: str, failure: str, message: str) -> None:
    async def serve(peer: Peer) -> None:
        async for _ in requests(peer):
            await peer.send(answer)
            return

    with raw_server(serve) as server:
        (call,) = exchange(scenario(server.url("")), [framed(b"a")])
    assert (call.code, call.failure) == (code, failure)
    assert message in call.message


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4), st.lists(st.integers(1, 12), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_messages_are_told_apart_however_they_are_cut(messages: list[bytes], sizes: list[int]) -> None:
    whole = framed(*messages)
    cuts: list[bytes] = []
    while whole:
        size = sizes[len(cuts) % len(sizes)]
        cuts.append(whole[:size])
        whole = whole[size:]

    async def serve(peer: Peer) -> None:
        async for id in requests(peer):
            parts = b"".join(data(id, cut) for cut in cuts)
            await peer.send(headers(id, GRPC) + parts + trailers(id, ("grpc-status", "0")))

    with raw_server(serve) as server:
        (call,) = exchange(scenario(server.url(""), kind="server-stream"), [framed(b"a")])
    assert (call.failure, call.output_tokens) == (None, len(messages))


@given(st.lists(st.binary(max_size=10)))
def test_framed_messages_can_be_split(messages: list[bytes]) -> None:
    assert split(framed(*messages)) == [framed(each) for each in messages]


def test_deadlines_fit_into_eight_digits() -> None:
    assert timeout_text(20) == "20000m"
    assert timeout_text(0.0001) == "1m"
    assert timeout_text(604800) == "604800S"


def test_the_names_of_the_statuses_are_those_of_grpc() -> None:
    assert tuple(each.name for each in sorted(grpc.StatusCode, key=lambda code: code.value[0])) == NAMES
