"""Tasks `http` and `grpc` with the real engine: Iter8's own tables for them."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from experiment_bench import Bench, go, served

from headgate.demo.model_server import ModelServer
from loadgen.experiment.metric import read
from loadgen.experiment.result import Result
from loadgen.run import run as engine

LAX = "maxLag: 5s"  # of a busy machine


def value(result: Result, metric: str, version: int = 0) -> float | None:
    return read(metric, result.insights.observed[version]).value


def failure(result: Result) -> Any:
    assert result.tasks[-1].state == "failed"
    return result.tasks[-1]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_http(bench: Bench) -> None:
    """Several endpoints at once, a body, an own header, codes that are no errors here."""

    async def body() -> None:
        async with served() as server:
            result = await bench.run(
                f"""
spec:
- task: http
  with:
    {LAX}
    qps: 50
    numRequests: 20
    headers: {{x-all: "1"}}
    percentiles: [97.5]
    endpoints:
      get: {{url: "{server.url}/ok", headers: {{x-own: "2"}}}}
      post: {{url: "{server.url}/status/404", payloadStr: '{{"a": 1}}', contentType: application/json,
             errorRanges: [{{lower: 500}}]}}
""",
                engine=engine,
            )
            assert result.completed(), bench.lines
            assert result.insights.versions == ("",)
            assert result.insights.labels() == ("version 0",)
            for name in ("get", "post"):
                assert value(result, f"http-{name}/request-count") == 20
                assert value(result, f"http-{name}/error-count") == 0
                assert value(result, f"http-{name}/error-rate") == 0
                least, most = value(result, f"http-{name}/latency-min"), value(result, f"http-{name}/latency-max")
                middle = value(result, f"http-{name}/latency-p97.5")
                assert least is not None
                assert most is not None
                assert middle is not None
                assert 0 < least <= middle <= most
            get = next(one for one in server.asked if one.path == "/ok")
            post = next(one for one in server.asked if one.path == "/status/404")
            assert (get.method, get.headers["x-all"], get.headers["x-own"]) == ("GET", "1", "2")
            assert (post.method, post.body, post.headers["content-type"]) == ("POST", b'{"a": 1}', "application/json")
            # Iter8 gets the initial requests of fortio for nothing, too: one for each connection
            assert len([one for one in server.asked if one.path == "/ok"]) == 24

    go(body())


def test_an_endpoint_that_is_not_there_fails_the_task_before_any_load(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            single = await bench.run(f"spec: [{{task: http, with: {{url: '{server.url}/status/404'}}}}]")
            assert failure(single).message.startswith(f"error 404 for {server.url}/status/404 (6 bytes)")
            assert failure(single).code == 3
            several = await bench.run(
                f"spec: [{{task: http, with: {{endpoints: {{a: {{url: '{server.url}/status/404'}}, "
                f"b: {{url: '{server.url}/status/500'}}, c: {{url: '{server.url}/ok'}}}}}}}}]"
            )
            assert "error 404" in failure(several).message
            assert "error 500" in failure(several).message
            assert "/ok" not in failure(several).message

    go(body())


def test_nobody_there(bench: Bench) -> None:
    async def body() -> None:
        port = unused_port()
        refused = await bench.run(f"spec: [{{task: http, with: {{url: 'http://127.0.0.1:{port}/'}}}}]")
        assert failure(refused).message.startswith(f"http://127.0.0.1:{port}/: connect")
        assert failure(refused).code == 3
        all_the_same = await bench.run(
            f"spec: [{{task: http, with: {{url: 'http://127.0.0.1:{port}/', allowInitialErrors: true, "
            f"numRequests: 5, qps: 50, {LAX}}}}}]",
            engine=engine,
        )
        assert failure(all_the_same).message.startswith("not one of 5 requests was answered: connection refused (5)")
        assert failure(all_the_same).code == 3
        assert value(all_the_same, "http/error-rate") == 1  # and what was measured is there

    go(body())


def test_a_warm_up_leaves_nothing_behind(bench: Bench) -> None:
    async def body() -> None:
        async with served() as server:
            result = await bench.run(
                f"spec: [{{task: http, with: {{url: '{server.url}/ok', numRequests: 4, qps: 0, warmup: true}}}}]",
                engine=engine,
            )
            assert result.completed()
            assert result.insights.versions == ()
            assert len(server.asked) == 8

    go(body())


GRPC = """
spec:
- task: grpc
  with:
    {lax}
    call: inference.GRPCInferenceService.ModelInfer
    data: {{model_name: iris, inputs: [{{name: input, datatype: FP32, shape: [1, 4],
           contents: {{fp32_contents: [5.1, 3.5, 1.4, 0.2]}}}}]}}
    concurrency: 2
    total: 12
    {more}
"""


def test_grpc(bench: Bench) -> None:
    async def body() -> None:
        server = ModelServer("v1")
        await server.start()
        try:
            host = f"127.0.0.1:{server.grpc_port}"
            single = await bench.run(GRPC.format(lax=LAX, more=f"host: {host}"), engine=engine)
            assert single.completed(), bench.lines
            [version] = single.insights.labels()
            assert value(single, "grpc/request-count") == 12
            assert value(single, "grpc/error-rate") == 0
            assert value(single, "grpc/latency/count") == 12
            p95 = value(single, "grpc/latency/p95")
            assert p95 is not None
            assert 0 < p95 < 60_000
            assert version in ("v1", "version 0")
            before = server.counts.requests
            several = await bench.run(
                GRPC.format(lax=LAX, more=f"endpoints: {{a: {{host: '{host}'}}, b: {{host: '{host}', total: 3}}}}"),
                engine=engine,
            )
            assert [value(several, f"grpc-{name}/request-count") for name in "ab"] == [12, 3]
            assert server.counts.requests - before == 15
        finally:
            await server.stop()

    go(body())


@pytest.mark.parametrize(
    ("change", "what", "code"),
    [
        (("ModelInfer\n", "ModelInferr\n"), "there is no method 'ModelInferr'", 2),
        (("model_name: iris", "model_nam: iris"), "model_nam", 2),
        (("fp32_contents: [5.1,", "fp32_contents: [text,"), "fp32_contents", 2),
        (("total: 12", "proto: nowhere.proto"), "nowhere.proto is not there", 2),
        (("inference.GRPCInferenceService", "my.Service"), "127.0.0.1", 2),
    ],
)
def test_what_no_server_could_take_is_found_before_any_load(
    bench: Bench, change: tuple[str, str], what: str, code: int
) -> None:
    text = GRPC.format(lax=LAX, more=f"host: 127.0.0.1:{unused_port()}\n    connect-timeout: 1s").replace(*change)
    result = go(bench.run(text))
    assert what in failure(result).message
    assert failure(result).code == code


def test_nobody_there_over_grpc(bench: Bench) -> None:
    result = go(bench.run(GRPC.format(lax=LAX, more=f"host: 127.0.0.1:{unused_port()}"), engine=engine))
    assert failure(result).message.startswith("not one of 12 requests was answered: connection refused (12)")
    assert failure(result).code == 3
