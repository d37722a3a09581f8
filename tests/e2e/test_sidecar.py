"""Figures against the truth: a real Envoy, servers with known answers, clients that count, Prometheus that asks."""

from __future__ import annotations

import asyncio
import json
import socket
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import grpc
from aiohttp import web
from scraping import needs_prometheus, prometheus, sidecar_process

from headgate.config import Config
from headgate.envoy import EnvoyProcess
from headgate.sink import LINGER, Sink
from router.offline import load
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.server import Server
from sidecar.metrics.admin import Admin, address
from sidecar.metrics.follow import Follower
from sidecar.metrics.stats import PATH, Key, Outcome
from sidecar.metrics.totals import Figures
from xds.bootstrap import SECONDS, bootstrap
from xds.ir import (
    Backend,
    Endpoint,
    Gateway,
    HeaderMatch,
    Listener,
    Match,
    Mirror,
    ModelPlan,
    Protocol,
    Route,
    StringMatch,
    Target,
)

MODEL = "default/iris"
V1 = Key("default", "iris", "v1", "primary")
V2 = Key("default", "iris", "v2", "candidate")
OK, UNAVAILABLE, NOBODY, GONE = (
    Outcome("200", ""),
    Outcome("503", ""),
    Outcome("503", "", "UH"),
    Outcome("0", "", "DC"),
)


class KnownServer:
    """Answers with the code that the request asks for, after `delay` seconds; /hold until `release` is set."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay, self.release, self.held = delay, asyncio.Event(), asyncio.Event()
        self.port = 0
        self.took: list[float] = []

    async def answer(self, request: web.Request) -> web.Response:
        began = perf_counter()
        await request.read()
        if request.path == "/hold":
            self.held.set()
            await self.release.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        self.took.append(perf_counter() - began)
        return web.Response(status=int(request.headers.get("x-code", "200")), text="answer")


@asynccontextmanager
async def known_server(delay: float = 0.0) -> AsyncIterator[KnownServer]:
    server = KnownServer(delay)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.release.set()
        await runner.cleanup()


def plan(v1: KnownServer, v2: KnownServer, *, mirror: float = 0.0, share: int = 5_000, **more: Any) -> ModelPlan:
    """v1 is the primary, v2 the candidate, which testers pin; a copy of `mirror` % goes to v2 too."""
    ports = {f"{MODEL}/v1": v1.port, f"{MODEL}/v2": v2.port, f"{MODEL}/v2~shadow": v2.port}
    arms = (
        Target(f"{MODEL}/v1", 10_000 - share, "v1"),
        Target(f"{MODEL}/v2", share, "v2"),
    )
    testers = Match(headers=(HeaderMatch("x-test", StringMatch.PRESENT),))
    copies = (Mirror(f"{MODEL}/v2~shadow", mirror, "v2"),) if mirror else ()
    return ModelPlan(
        MODEL,
        "default",
        ("iris.test",),
        (
            Route("v2/match-0", testers, (Target(f"{MODEL}/v2", 10_000, "v2"),)),
            Route("weighted", Match(), tuple(arm for arm in arms if arm.weight), copies, **more),
        ),
        tuple(Backend(name, (Endpoint("127.0.0.1", port),), Protocol.HTTP1) for name, port in ports.items()),
        primary="v1",
    )


async def until(holds: Callable[[], Awaitable[object]], what: str, within: float = 20.0) -> None:
    """Ask again until it holds: Envoy brings its histograms up to date once a second."""
    try:
        async with asyncio.timeout(within):
            while not await holds():  # noqa: ASYNC110  # others tell, by HTTP only
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {within:g} s: {what}") from None


async def settled(follower: Follower, answered: dict[Key, int]) -> dict[Key, Figures]:
    """The figures once their histograms hold so many answered requests."""

    async def holds() -> bool:
        await follower.read_once()
        found = {key: times.count for key, one in follower.figures.items() if (times := one.times.get("duration"))}
        return found == answered

    await until(holds, f"{answered} answered")
    return dict(follower.figures)


@asynccontextmanager
async def following(envoy: EnvoyProcess) -> AsyncIterator[Follower]:
    async with Admin(address(f"http://127.0.0.1:{envoy.admin_port}")) as admin:
        yield Follower(admin)


def bucket(seconds: float) -> int:
    return bisect_left(SECONDS, seconds)


def test_counts_are_exact_and_quantiles_within_one_bucket(rig):
    """Envoy's time of a request lies between what its server took and what its client waited."""

    async def body(rig: Any) -> None:
        async with known_server(0.004) as v1, known_server(0.045) as v2:
            await rig.serve()
            rig.apply(plan(v1, v2))
            envoy = await rig.envoy()
            await rig.applied(MODEL)
            told: dict[str, Counter[str]] = {"v1": Counter(), "v2": Counter()}
            took: dict[str, list[float]] = {"v1": [], "v2": []}

            async def user(session: aiohttp.ClientSession, number: int) -> None:
                for turn in range(50):
                    code = "503" if (number + turn) % 10 == 0 else "200"
                    began = perf_counter()
                    url = f"http://127.0.0.1:{rig.port}/infer"
                    async with session.post(url, data=b"x" * 100, headers={"host": "iris.test", "x-code": code}) as got:
                        await got.read()
                        version = got.headers["app-version"]
                        told[version][str(got.status)] += 1
                        took[version].append(perf_counter() - began)

            async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
                for number in range(8):
                    tasks.create_task(user(session, number))
            async with following(envoy) as follower:
                figures = await settled(follower, {V1: len(took["v1"]), V2: len(took["v2"])})
            for key in (V1, V2):
                counted, durations = figures[key], sorted(took[key.version])
                assert {outcome.code: n for outcome, n in counted.requests.items()} == dict(told[key.version])
                assert counted.sums["request_bytes"] == 100 * len(durations)
                assert counted.sums["response_bytes"] == len("answer") * len(durations)
                inner = sorted((v1 if key is V1 else v2).took)
                assert sum(inner) <= counted.sums["duration_us"] / 1e6 <= sum(durations)
                for share in (0.5, 0.99):
                    quantile = counted.times["duration"].quantile(share)
                    assert quantile is not None
                    rank = min(int(share * len(durations)), len(durations) - 1)
                    assert bucket(inner[rank]) - 1 <= bucket(quantile) <= bucket(durations[rank]) + 1
                assert counted.times["first_byte"].count == len(durations)
            assert figures[V1].errors == told["v1"]["503"] > 0

    rig(body)


def test_each_kind_of_outcome_is_its_versions(rig):
    async def body(rig: Any) -> None:
        async with known_server() as v1, known_server() as v2:
            await rig.serve()
            wanted = plan(v1, v2, mirror=100.0, share=0)
            rig.apply(wanted)
            envoy = await rig.envoy()
            await rig.applied(MODEL)
            for code in ("200", "200", "404", "503"):
                await rig.ask("iris.test", headers={"x-code": code})
            await rig.ask("iris.test", headers={"x-test": "1"})
            await rig.ask("nobody.test")
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(b"GET /hold HTTP/1.1\r\nhost: iris.test\r\n\r\n")
            await v1.held.wait()
            writer.close()
            async with following(envoy) as follower:
                header, copies = V2._replace(route="header"), V2._replace(route="mirror")
                unmatched = Key("", "", "", "unmatched")
                v2.release.set()
                figures = await settled(follower, {V1: 4, header: 1, unmatched: 1, copies: 5})

                async def told() -> bool:
                    await follower.read_once()
                    return GONE in follower.figures[V1].requests

                await until(told, "the client that left is counted")
                figures = dict(follower.figures)
                assert figures[V1].requests == {OK: 2, Outcome("404", ""): 1, UNAVAILABLE: 1, GONE: 1}
                assert figures[header].requests == {OK: 1}
                assert figures[unmatched].requests == {Outcome("404", "", "NR"): 1}
                assert figures[copies].requests == {OK: 3, Outcome("404", ""): 1, UNAVAILABLE: 1}
                rig.apply(replace(wanted, backends=tuple(replace(one, endpoints=()) for one in wanted.backends)))
                await rig.applied(MODEL)
                await rig.ask("iris.test")

                async def refused() -> bool:
                    await follower.read_once()
                    return follower.figures[V1].requests.get(NOBODY) == 1

                await until(refused, "what no server could take is counted")
            assert "non-number" not in envoy.log_file.read_text()

    rig(body)


def test_the_first_mirrored_model_is_counted_and_drains_no_connection(rig):
    """The router that counts copies comes and goes as a resource of its own, while one connection stays."""

    async def body(rig: Any) -> None:
        now = 0.0
        sink = Sink([Gateway("default", (Listener("http", "127.0.0.1", 0),))], clock=lambda: now)
        now += LINGER
        sink.stop_counting()
        copies = V2._replace(route="mirror")
        async with known_server() as v1, known_server() as v2:
            v2.release.set()
            await rig.serve(caches=dict(sink.caches))
            sink.apply(plan(v1, v2, share=0))
            envoy = await rig.envoy()
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)

            async def ask(mirror: float) -> None:
                sink.apply(plan(v1, v2, share=0, mirror=mirror))
                await rig.applied(MODEL)
                for _ in range(3):
                    writer.write(b"GET /infer HTTP/1.1\r\nhost: iris.test\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200"), head
                    assert b"connection: close" not in head.lower()
                    await reader.readexactly(len("answer"))

            async with following(envoy) as follower:
                await ask(0.0)
                await ask(100.0)
                await ask(0.0)  # before anybody has read the copies
                await settled(follower, {V1: 9, copies: 3})
                now += LINGER
                sink.stop_counting()
                await ask(0.0)
                await ask(100.0)
                await settled(follower, {V1: 15, copies: 6})
            writer.close()

    rig(body)


def test_an_answer_that_breaks_off_is_an_error_whatever_its_code(rig):
    async def body(rig: Any) -> None:
        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")
            writer.close()

        async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
            broken = KnownServer()
            broken.port = server.sockets[0].getsockname()[1]
            await rig.serve()
            rig.apply(plan(broken, broken, share=0))
            envoy = await rig.envoy()
            await rig.applied(MODEL)
            assert (await rig.ask("iris.test"))[0] == 0
            async with following(envoy) as follower:

                async def told() -> bool:
                    await follower.read_once()
                    return V1 in follower.figures and follower.figures[V1].count > 0

                await until(told, "the answer is counted")
                ((outcome, count),) = follower.figures[V1].requests.items()
                assert (outcome.code, count, outcome.failed) == ("200", 1, True), outcome

    rig(body)


HOLDING = """
from sidecar.plugin import Buffered, HttpContext, Plugin


class Context(HttpContext):
    def on_response_body(self, body):
        pass


class Holding(Plugin):
    context = Context
    response_body = Buffered()
"""


def test_an_answer_that_never_got_past_a_plugin_is_counted(rig, tmp_path):
    """Its client has left before the first byte, of which there is no time then."""
    (tmp_path / "holding.py").write_text(HOLDING)
    listen = f"unix:{tmp_path}/plugins.sock"
    chain = {"host": "ext-proc", "address": listen, "chain": [{"name": "holding", "models": "all"}]}
    gateway = {"name": "default", "listeners": [{"name": "http", "port": 0}], "plugins": chain}
    gateways = [one.as_ir() for one in Config.model_validate({"gateways": [gateway]}).gateways]

    async def body(rig: Any) -> None:
        begun = asyncio.Event()

        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello")
            begun.set()
            await reader.read()
            writer.close()

        async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            (tmp_path / "iris.yaml").write_text(f"""\
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: iris}}
spec:
  hosts: [iris.test]
  versions:
  - {{name: v1, backend: {{endpoints: ["127.0.0.1:{port}"]}}}}
""")
            spec = {"plugins": [{"plugin": "holding.py", "name": "holding"}], "folder": tmp_path}
            plugins = Server(Application(ExtProcSpec.model_validate(spec)))
            await plugins.start(listen)
            rig._stack.push_async_callback(plugins.stop, 0.5)
            await rig.serve(*gateways)
            (wanted,) = load(tmp_path / "iris.yaml", gateways={one.name: one for one in gateways}).plans.values()
            rig.apply(wanted)
            envoy = await rig.envoy()
            await rig.applied(MODEL)
            async with following(envoy) as follower:
                _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
                writer.write(b"GET /infer HTTP/1.1\r\nhost: iris.test\r\n\r\n")
                await begun.wait()

                async def held() -> bool:
                    return await counter(envoy, "cluster.default/iris/v1.upstream_cx_rx_bytes_total") > 0

                await until(held, "Envoy has the answer's headers")
                writer.close()

                async def told() -> bool:
                    await follower.read_once()
                    return V1 in follower.figures and follower.figures[V1].count > 0

                await until(told, "the answer is counted")
                assert follower.figures[V1].requests == {Outcome("200", "", "DC"): 1}

    rig(body)


async def counter(envoy: EnvoyProcess, name: str) -> int:
    """One of Envoy's own counters."""
    async with Admin(address(f"http://127.0.0.1:{envoy.admin_port}")) as admin:
        found = json.loads(await admin.get(f"/stats?format=json&filter=^{name}$"))["stats"]
    return sum(one["value"] for one in found)


def test_grpc_calls_are_told_by_their_status(rig):
    async def body(rig: Any) -> None:
        await rig.serve()
        server = await rig.model("v1")
        backend = Backend(f"{MODEL}/v1", (Endpoint("127.0.0.1", server.grpc_port),), Protocol.H2C)
        route = Route("weighted", Match(), (Target(f"{MODEL}/v1", 10_000, "v1"),))
        rig.apply(ModelPlan(MODEL, "default", ("iris.test",), (route,), (backend,), primary="v1"))
        envoy = await rig.envoy()
        await rig.applied(MODEL)
        options = [("grpc.default_authority", "iris.test")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}", options=options) as channel:
            for method, code in (("ServerLive", grpc.StatusCode.OK), ("Nothing", grpc.StatusCode.UNIMPLEMENTED)):
                call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"")
                assert await call.code() is code
        async with following(envoy) as follower:
            figures = await settled(follower, {V1: 2})
            assert figures[V1].requests == {Outcome("200", "0"): 1, Outcome("200", "12"): 1}
            assert figures[V1].errors == 1

    rig(body)


def test_a_restart_of_envoy_takes_nothing_back(rig):
    async def body(rig: Any) -> None:
        async with known_server() as v1, known_server() as v2:
            xds = await rig.serve()
            rig.apply(plan(v1, v2, share=0))
            with socket.create_server(("127.0.0.1", 0)) as free:
                admin_port = free.getsockname()[1]
            config = bootstrap(
                node_id="e1", node_cluster="default", xds_address="127.0.0.1", xds_port=xds.port, admin_port=admin_port
            )
            async with Admin(address(f"127.0.0.1:{admin_port}")) as admin:
                follower = Follower(admin)
                for life in (1, 2):
                    async with EnvoyProcess(config, concurrency=1) as envoy:
                        rig.port = await envoy.wait_listener("http")
                        for _ in range(5 * life):
                            await rig.ask("iris.test")
                        figures = await settled(follower, {V1: 5 if life == 1 else 15})
                        assert figures[V1].requests == {OK: 5 if life == 1 else 15}
                    await follower.read_once()
                    assert follower.trouble is not None
                    assert "connect" in follower.trouble
                    assert follower.figures[V1].count == (5 if life == 1 else 15)

    rig(body)


def test_what_envoy_lets_go_of_is_kept(rig):
    async def body(rig: Any) -> None:
        async with known_server() as v1, known_server() as v2:
            xds = await rig.serve()
            rig.apply(plan(v1, v2, share=0))
            config = bootstrap(
                node_id="e1", node_cluster="default", xds_address="127.0.0.1", xds_port=xds.port, admin_port=0
            )
            config["stats_eviction_interval"] = "4s"
            async with EnvoyProcess(config, concurrency=1) as envoy, following(envoy) as follower:
                rig.port = await envoy.wait_listener("http")
                admin = f"http://127.0.0.1:{envoy.admin_port}{PATH}"
                for life in (1, 2):
                    for _ in range(5):
                        await rig.ask("iris.test")

                    async def counted(life: int = life) -> bool:
                        await follower.read_once()
                        found = follower.figures.get(V1)
                        return found is not None and found.count == found.times["duration"].count == 5 * life

                    async def let_go() -> bool:
                        await follower.read_once()
                        return "headgate." not in (await fetch(admin))[1]

                    await until(counted, f"{5 * life} requests are told")
                    await until(let_go, "Envoy has let go of them")
                assert follower.figures[V1].count == follower.figures[V1].times["duration"].count == 10

    rig(body)


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


def test_the_process_waits_for_envoy_and_goes_when_told(rig, tmp_path):
    """Over the unix socket that nothing else can reach."""

    async def body(rig: Any) -> None:
        path = tmp_path / "admin.sock"
        async with known_server() as v1, known_server() as v2, sidecar_process(f"unix:{path}") as (process, url):
            status, text = await fetch(f"{url}/readyz")
            assert status == 503
            assert "nothing has been read yet" in text or "no such file or directory" in text
            xds = await rig.serve()
            rig.apply(plan(v1, v2, share=0))
            async with envoy_with_socket(path, xds.port, tmp_path):

                async def ready() -> bool:
                    return (await fetch(f"{url}/readyz"))[0] == 200

                await until(ready, "the sidecar is ready")
                assert "headgate_sidecar_envoy_up 1" in (await fetch(f"{url}/metrics"))[1]
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 20) == 0

    rig(body)


def test_a_sidecar_that_was_killed_comes_back_with_the_same_totals(rig):
    async def body(rig: Any) -> None:
        async with known_server() as v1, known_server() as v2:
            await rig.serve()
            rig.apply(plan(v1, v2, share=0))
            envoy = await rig.envoy()
            await rig.applied(MODEL)
            admin = f"http://127.0.0.1:{envoy.admin_port}"
            async with rig.load("iris.test", users=2) as tally, sidecar_process(admin) as (process, url):
                await until(lambda: total_at(url), "the first sidecar has read")
                process.kill()
                await process.wait()
            async with sidecar_process(admin) as (_, url):

                async def all_of_them() -> bool:
                    return await total_at(url) == tally.total

                await until(all_of_them, f"{tally.total} requests are told")
            assert not tally.failures

    rig(body)


async def total_at(url: str) -> int:
    """Requests of v1, as /versions tells."""
    versions = json.loads((await fetch(f"{url}/versions?model={MODEL}"))[1])["versions"]
    return sum(one["total"]["requests"] for one in versions)


@asynccontextmanager
async def envoy_with_socket(path: Path, xds_port: int, folder: Path) -> AsyncIterator[None]:
    from headgate.envoy import find_binary

    config = bootstrap(node_id="e1", node_cluster="default", xds_address="127.0.0.1", xds_port=xds_port)
    config["admin"] = {"address": {"pipe": {"path": str(path)}}}
    (folder / "envoy.json").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        *(str(find_binary()), "-c", str(folder / "envoy.json"), "--use-dynamic-base-id", "--concurrency", "1"),
        *("--log-level", "error"),
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@needs_prometheus
def test_prometheus_answers_the_questions_of_the_guide(rig, tmp_path):
    async def body(rig: Any) -> None:
        async with known_server() as v1, known_server() as v2:
            await rig.serve()
            rig.apply(plan(v1, v2, share=0, mirror=100.0))
            envoy = await rig.envoy()
            await rig.applied(MODEL)
            async with (
                sidecar_process(f"http://127.0.0.1:{envoy.admin_port}") as (_, url),
                prometheus(tmp_path, {"sidecar": [url.removeprefix("http://")]}) as asked,
                rig.load("iris.test", users=1) as tally,
            ):

                async def errors_and_p99() -> bool:
                    await rig.ask("iris.test", headers={"x-code": "503"})
                    answers = [await asked.ask(query) for query in questions()]
                    return all(answer and float(answer[0]["value"][1]) > 0 for answer in answers)

                await until(errors_and_p99, "Prometheus answers", within=60.0)
                (up,) = await asked.ask("headgate_sidecar_envoy_up")
                assert up["value"][1] == "1"
                (errors, p99) = [(await asked.ask(query))[0] for query in questions()]
                assert errors["metric"] == {"model": "iris", "version": "v1"}
                assert 0 < float(errors["value"][1]) < 1
                assert 0 < float(p99["value"][1]) < 3600
                copies = await asked.ask('sum(headgate_requests_total{shadow="true"})')
                assert 0 < float(copies[0]["value"][1]) <= tally.total * 2 + 100_000

    rig(body)


def questions() -> list[str]:
    """The PromQL of docs/sidecar.md."""
    text = (Path(__file__).parents[2] / "docs" / "sidecar.md").read_text()
    block = text.split("Useful questions:")[1].split("```")[1]
    return [" ".join(part.split("\n")[1:]) for part in block.strip().split("\n\n")]
