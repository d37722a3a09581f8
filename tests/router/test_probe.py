"""Readiness probes: what answers amount to, when they are asked for, and what real servers make of them."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import grpc.aio
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from router import probe_grpc
from router.health import Health
from router.manifests import Located, parse
from router.probe import Network, Prober
from router.schedule import Outcome, Probe, Schedule, Target, Verdict, judge, wanted
from router.store import Store
from xds.ir import Endpoint

GOOD, BAD = Outcome(True), Outcome(False, "HTTP 503")
HERE = Endpoint("127.0.0.1", 8001)


def probe(**changes) -> Probe:
    return Probe(**({"kind": "tcp", "address": "127.0.0.1", "port": 8001, "interval": 5.0, "timeout": 1.0} | changes))


def located(*versions: str, name: str = "iris") -> Located:
    text = f"""
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {name}}}
spec:
  hosts: [{name}.test]
  versions: [{", ".join(versions)}]
"""
    parsed = parse(text.encode(), "iris.yaml")
    assert not parsed.problems, parsed.problems
    return parsed.rollouts[0]


def version(name: str = "v1", port: int = 8001, readiness: str = "{tcp: {}}") -> str:
    return f'{{name: {name}, readiness: {readiness}, backend: {{endpoints: ["127.0.0.1:{port}"]}}}}'


# What answers amount to


def after(answers: list[Outcome], **thresholds: int) -> list[bool | None]:
    verdict, seen = Verdict(), []
    for now, answer in enumerate(answers):
        verdict = judge(verdict, answer, probe(**thresholds), now)
        seen.append(verdict.health.ready if verdict.health else None)
    return seen


def test_a_ready_endpoint_stays_ready_until_it_failed_often_enough_in_a_row():
    answers = [GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, GOOD]
    assert after(answers, failure_threshold=3) == [True, True, True, True, True, True, False, True]


def test_an_unknown_endpoint_is_unready_after_its_first_failure():
    assert after([BAD], failure_threshold=3) == [False]


def test_successes_below_the_threshold_leave_an_unknown_endpoint_unknown_and_an_unready_one_unready():
    assert after([GOOD, GOOD, GOOD], success_threshold=3) == [None, None, True]
    assert after([BAD, GOOD, GOOD, BAD, GOOD, GOOD, GOOD], success_threshold=3) == [False] * 6 + [True]


def test_since_is_when_readiness_changed_not_when_the_reason_did():
    verdict = judge(Verdict(), Outcome(False, "connection refused"), probe(), 10.0)
    verdict = judge(verdict, BAD, probe(), 20.0)
    assert verdict.health == Health(False, "HTTP 503", 10.0)
    verdict = judge(verdict, GOOD, probe(), 30.0)
    assert judge(verdict, GOOD, probe(), 40.0).health == Health(True, "ready", 30.0)


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4))
def test_readiness_only_changes_after_a_whole_run_of_equal_answers(answers, success, failure):
    verdict, run = Verdict(), []
    for answer in answers:
        before = verdict.health
        verdict = judge(
            verdict, GOOD if answer else BAD, probe(success_threshold=success, failure_threshold=failure), 0
        )
        run = [*run, answer] if run and run[-1] == answer else [answer]
        if verdict.health and before and verdict.health.ready != before.ready:
            assert len(run) >= (success if verdict.health.ready else failure)
            assert verdict.health.ready == answer
        if len(run) >= max(success, failure):
            assert verdict.health is not None
            assert verdict.health.ready == answer


# When they are asked


class Hand:
    """A Schedule driven by hand with a clock of our own."""

    def __init__(self) -> None:
        self.schedule, self.now = Schedule(Random(1)), 0.0

    def follow(self, one: Located | None, model: str = "default/iris"):
        return self.schedule.follow(model, wanted(one.rollout) if one else {}, self.now)

    def due(self) -> list[Target]:
        taken = []
        while target := self.schedule.take(self.now):
            taken.append(target)
        return taken

    def answer(self, outcome: Outcome = GOOD):
        return [news for one in self.due() for news in self.schedule.done(one, outcome, self.now, self.now, self.now)]


def test_the_first_probe_is_due_at_once_and_the_next_after_the_interval_with_little_jitter():
    hand = Hand()
    hand.follow(located(version(readiness="{tcp: {}, interval: 10s}")))
    times = []
    for _ in range(100):
        hand.now = hand.schedule.next_at()
        times.append(hand.now)
        hand.answer()
    assert times[0] == 0.0
    gaps = [after - before for before, after in pairwise(times)]
    assert all(9.5 <= gap <= 10.5 for gap in gaps)
    assert len(set(gaps)) > 90


def test_endpoints_asked_in_the_same_way_are_asked_once_and_all_hear_of_it():
    hand = Hand()
    hand.follow(located(version("v1"), version("v2")))
    hand.follow(located(version("v1"), name="other"), "default/other")
    assert len(hand.schedule) == 1
    told = {user for user, _ in hand.answer()}
    assert told == {("default/iris", "v1", HERE), ("default/iris", "v2", HERE), ("default/other", "v1", HERE)}


def test_a_newcomer_hears_at_once_what_others_know():
    hand = Hand()
    hand.follow(located(version("v1")))
    hand.answer()
    known, _ = hand.follow(located(version("v1"), name="other"), "default/other")
    assert known == [(("default/other", "v1", HERE), Health(True, "ready", 0.0))]
    assert hand.due() == []


def test_a_changed_rollout_leaves_the_schedule_of_unchanged_endpoints_alone():
    hand = Hand()
    hand.follow(located(version("v1", 8001)))
    hand.answer()
    hand.now = 1.0
    _, gone = hand.follow(located(version("v1", 8001), version("v2", 8002)))
    assert gone == []
    assert [target.probe.port for target in hand.due()] == [8002]
    _, gone = hand.follow(located(version("v2", 8002)))
    assert gone == [("default/iris", "v1", HERE)]
    assert len(hand.schedule) == 1


def test_asking_in_another_way_takes_no_traffic_away_before_it_fails():
    hand = Hand()
    hand.follow(located(version()))
    hand.answer()
    known, gone = hand.follow(located(version(readiness="{http: {path: /typo}}")))
    assert known == [(("default/iris", "v1", HERE), Health(True, "ready", 0.0))]
    assert gone == []
    assert hand.answer(BAD) == []


def test_an_answer_for_an_endpoint_that_was_removed_meanwhile_is_dropped():
    hand = Hand()
    hand.follow(located(version()))
    (asked,) = hand.due()
    hand.follow(None)
    hand.follow(located(version()))
    assert hand.schedule.done(asked, BAD, 0, 0, 0) == []
    (again,) = hand.due()
    assert again is not asked
    assert hand.schedule.done(asked, BAD, 0, 0, 0) == []
    assert hand.due() == [], "the late answer must not put a second entry on the schedule"


def test_a_model_made_again_hears_what_is_known_though_its_probes_did_not_change():
    hand = Hand()
    hand.follow(located(version()))
    hand.answer()
    known, _ = hand.follow(located(version()))
    assert known == [(("default/iris", "v1", HERE), Health(True, "ready", 0.0))]


def test_every_kind_of_readiness_becomes_its_probe():
    rollout = located(
        version("a", readiness="{http: {path: /ready, port: 9, host: me.test}, interval: 2s, timeout: 500ms}"),
        version("b", readiness="{grpc: {service: iris}, successThreshold: 2, failureThreshold: 4}"),
        version("c", readiness="{tcp: {}}"),
        "{name: d, readiness: {tcp: {}}, backend: {service: {name: iris, namespace: ml, port: 80}}}",
        '{name: e, backend: {endpoints: ["127.0.0.1:8001"]}}',
    ).rollout
    asked = {key[0]: one for key, one in wanted(rollout).items()}
    assert asked["a"] == probe(kind="http", port=9, path="/ready", host="me.test", interval=2.0, timeout=0.5)
    assert asked["b"] == probe(kind="grpc", service="iris", success_threshold=2, failure_threshold=4)
    assert asked["c"] == probe()
    assert asked["d"].address == "iris.ml.svc.cluster.local"
    assert "e" not in asked


# The prober, its network replaced


def prober(scene: Callable[[Store, dict], Awaitable[None]], ask, **options) -> None:
    async def play() -> None:
        store = Store()
        running = asyncio.create_task(Prober(store, ask=ask, **options).run())
        try:
            async with asyncio.timeout(10):
                await scene(store)
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())


async def health(store: Store, condition: Callable[[Health], bool], model: str = "default/iris", name: str = "v1"):
    while True:
        for (of, _), found in store.health(model).items():
            if of == name and condition(found):
                return found
        await store.next_dirty()


def test_no_more_questions_are_under_way_than_allowed_and_all_are_asked():
    asked: list[int] = []
    under_way = most = 0

    async def ask(one: Probe) -> Outcome:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        asked.append(one.port)
        under_way -= 1
        return GOOD

    async def scene(store: Store) -> None:
        store.put("default/iris", located(*(version(f"v{n}", 1000 + n) for n in range(32))))
        for number in range(32):
            await health(store, lambda found: found.ready, name=f"v{number}")

    prober(scene, ask, concurrency=5)
    assert most == 5
    assert sorted(asked) == list(range(1000, 1032))


def test_a_server_that_never_answers_is_unready_and_keeps_nobody_waiting():
    async def ask(one: Probe) -> Outcome:
        if one.port == 8001:
            await asyncio.Event().wait()
        return GOOD

    async def scene(store: Store) -> None:
        stuck = version("v1", readiness="{tcp: {}, timeout: 50ms}")
        store.put("default/iris", located(stuck, version("v2", 8002)))
        await health(store, lambda found: found.ready, name="v2")
        found = await health(store, lambda found: not found.ready)
        assert found.reason == "no answer within 0.05 s"

    prober(scene, ask)


def test_a_defect_in_one_probe_is_that_endpoints_trouble_only():
    async def ask(one: Probe) -> Outcome:
        if one.port == 8001:
            raise KeyError("oops")
        return GOOD

    async def scene(store: Store) -> None:
        store.put("default/iris", located(version("v1"), version("v2", 8002)))
        found = await health(store, lambda found: not found.ready)
        assert "KeyError" in found.reason
        await health(store, lambda found: found.ready, name="v2")

    prober(scene, ask)


def test_an_endpoint_that_left_the_rollout_leaves_no_health():
    async def ask(one: Probe) -> Outcome:
        return GOOD

    async def scene(store: Store) -> None:
        store.put("default/iris", located(version("v1"), version("v2", 8002)))
        await health(store, lambda found: found.ready, name="v2")
        store.put("default/iris", located(version("v1")))
        while ("v2", Endpoint("127.0.0.1", 8002)) in store.health("default/iris"):
            await store.next_dirty()
        store.drop("default/iris")
        store.put("default/iris", located(version("v1")))
        await health(store, lambda found: found.ready)

    prober(scene, ask)


# Real servers on the loopback


def asked(kind: str, port: int, **changes) -> Outcome:
    async def play() -> Outcome:
        async with asyncio.timeout(10), Network() as network:
            return await network.ask(probe(kind=kind, port=port, **changes))

    return asyncio.run(play())


def against(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], kind: str, **changes):
    """Ask a server that does `answer` with every connection."""

    async def play() -> Outcome:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(reader, writer)
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, asyncio.timeout(10), Network() as network:
            return await network.ask(probe(kind=kind, port=server.sockets[0].getsockname()[1], **changes))

    return asyncio.run(play())


def http(status: str):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 99999\r\n\r\n".encode())
        await writer.drain()

    return answer


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "399 Odd"])
def test_http_2xx_and_3xx_are_ready_and_redirects_are_not_followed(status: str):
    assert against(http(status), "http", path="/ready") == GOOD


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "503 Busy"])
def test_other_http_answers_are_told_by_number(status: str):
    assert against(http(status), "http") == Outcome(False, f"HTTP {status[:3]}")


def test_http_sends_path_and_host_as_they_are_written():
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    against(answer, "http", path="/v2/models/iris%20x/ready?a=b%2Fc", host="iris.test")
    assert seen[0].startswith(b"GET /v2/models/iris%20x/ready?a=b%2Fc HTTP/1.1\r\n")
    assert b"\r\nHost: iris.test\r\n" in seen[0]


async def _says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def _talks_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\x01 garbage \r\n\r\n")
    await writer.drain()


def test_servers_that_do_not_speak_http_are_told_so():
    assert against(_says_nothing, "http") == Outcome(False, "connection closed without an answer")
    garbage = against(_talks_garbage, "http")
    assert not garbage.ok
    assert garbage.reason.startswith("no HTTP answer")


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
def test_a_closed_port_is_connection_refused(kind: str):
    async def free() -> int:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port

    assert asked(kind, asyncio.run(free())) == Outcome(False, "connection refused")


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_a_name_without_address_is_told(kind: str):
    assert asked(kind, 80, address="nobody.invalid") == Outcome(False, "no address known for nobody.invalid")


def test_tcp_needs_a_connection_only_and_names_are_resolved():
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return

    assert against(closes, "tcp") == GOOD
    assert against(closes, "tcp", address="localhost") == GOOD


class Health1(grpc.GenericRpcHandler):
    """A health service in bytes, as servers really answer."""

    def __init__(self, answers: dict[bytes, bytes | grpc.StatusCode]) -> None:
        self.answers = answers

    def service(self, call):
        async def check(request: bytes, context) -> bytes:
            answer = self.answers.get(request, grpc.StatusCode.NOT_FOUND)
            if isinstance(answer, grpc.StatusCode):
                await context.abort(answer, "no")
            return answer

        return grpc.unary_unary_rpc_method_handler(check) if call.method == "/grpc.health.v1.Health/Check" else None


def grpc_asked(service: str, *handlers: grpc.GenericRpcHandler) -> Outcome:
    async def play() -> Outcome:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with asyncio.timeout(10), Network() as network:
                return await network.ask(probe(kind="grpc", port=port, service=service))
        finally:
            await server.stop(None)

    return asyncio.run(play())


def test_grpc_health_is_asked_for_the_service_and_its_status_told():
    handler = Health1({b"": b"\x08\x01", b"\x0a\x04iris": b"\x08\x02", b"\x0a\x03odd": b"\x08"})
    assert grpc_asked("", handler) == GOOD
    assert grpc_asked("iris", handler) == Outcome(False, "gRPC NOT_SERVING")
    assert grpc_asked("odd", handler) == Outcome(False, "gRPC garbage")
    assert grpc_asked("other", handler) == Outcome(False, "gRPC NOT_FOUND: the health service knows no 'other'")
    assert "no grpc.health.v1 service" in grpc_asked("").reason


def test_the_hand_written_bytes_are_those_of_the_protocol():
    assert probe_grpc.request("") == b""
    assert probe_grpc.request("x" * 300) == b"\x0a\xac\x02" + b"x" * 300
    assert probe_grpc.serving_status(b"") == 0
    assert probe_grpc.serving_status(b"\x08\x01") == 1
    assert probe_grpc.serving_status(b"\x12\x02ab\x08\x03\x19" + b"12345678") == 3


@given(st.binary(max_size=40))
def test_no_bytes_break_the_reader(answer: bytes):
    status = probe_grpc.serving_status(answer)
    assert status is None or status >= 0


def test_a_server_that_starts_stops_and_hangs_is_followed_and_nothing_leaks():
    """The whole road: a real HTTP server, its health in the Store, a clean end."""

    async def play() -> None:
        status = 503
        answering = asyncio.Event()
        answering.set()

        async def ready(request: web.Request) -> web.Response:
            await answering.wait()
            return web.Response(status=status)

        app = web.Application()
        app.router.add_get("/ready", ready)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        store = Store()
        readiness = "{http: {path: /ready}, interval: 10ms, timeout: 100ms, failureThreshold: 2}"
        store.put("default/iris", located(version("v1", port, readiness)))
        running = asyncio.create_task(Prober(store).run())
        async with asyncio.timeout(20):
            assert (await health(store, lambda found: not found.ready)).reason == "HTTP 503"
            status = 200
            assert (await health(store, lambda found: found.ready)).reason == "ready"
            answering.clear()
            assert (await health(store, lambda found: not found.ready)).reason == "no answer within 0.1 s"
            answering.set()
            await runner.cleanup()
            await health(store, lambda found: found.reason == "connection refused")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(play(), debug=False)
        gc.collect()
    assert [str(one.message) for one in warned if issubclass(one.category, ResourceWarning)] == []
