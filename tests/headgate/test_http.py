"""The control plane's pages, asked over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from headgate.http import HttpServer
from xds.metrics import XdsMetrics


class Answer:
    def __init__(self, status: int, text: str, content_type: str) -> None:
        self.status, self.text, self.content_type = status, text, content_type

    @property
    def json(self) -> Any:
        assert self.content_type == "application/json"
        return json.loads(self.text)


Get = Callable[..., Awaitable[Answer]]


@pytest.fixture
def ask(plane) -> Callable[..., Answer]:
    """Ask one page of a server that shows `plane`."""
    checks = {"manifests loaded": True, "xDS port open": True}

    def ask(path: str, *, method: str = "GET", **changed: bool) -> Answer:
        async def scenario() -> Answer:
            registry = CollectorRegistry()
            XdsMetrics(registry)
            shown = checks | {name.replace("_", " "): value for name, value in changed.items()}
            server = HttpServer(plane.status, registry, lambda: shown, address="127.0.0.1", port=0)
            await server.start()
            try:
                async with (
                    aiohttp.ClientSession() as client,
                    client.request(method, f"http://127.0.0.1:{server.port}{path}") as answer,
                ):
                    return Answer(answer.status, await answer.text(), answer.content_type)
            finally:
                await server.stop()

        return asyncio.run(scenario())

    return ask


def test_health_is_ok_even_before_anything_is_loaded(ask) -> None:
    answer = ask("/healthz", manifests_loaded=False)
    assert (answer.status, answer.text) == (200, "ok\n")


def test_ready_only_when_every_check_passes(ask) -> None:
    assert (ask("/readyz").status, ask("/readyz").text) == (200, "ready\n")
    answer = ask("/readyz", manifests_loaded=False)
    assert (answer.status, answer.text) == (503, "not ready: manifests loaded\n")


def test_verbose_readiness_lists_the_checks(ask) -> None:
    answer = ask("/readyz?verbose", manifests_loaded=False)
    assert answer.status == 503
    assert answer.text == "[-] manifests loaded\n[+] xDS port open\nnot ready\n"


def test_status_has_everything(ask, plane) -> None:
    plane.put("iris")
    plane.put("wine")
    document = ask("/status").json
    assert set(document) == {"version", "ready", "problems", "gateways", "envoys", "sidecars", "models"}
    assert [one["model"] for one in document["models"]] == ["default/iris", "default/wine"]
    assert document["models"][0] == plane.status.model("default/iris")


def test_a_control_plane_without_models_says_so(ask) -> None:
    assert ask("/models").json == []
    assert ask("/envoys").json == []
    assert ask("/status").json["models"] == []


def test_hundreds_of_models_are_streamed_whole(ask, plane) -> None:
    for index in range(350):
        plane.put(f"model-{index:03}")
    assert [one["name"] for one in ask("/models").json] == [f"model-{index:03}" for index in range(350)]


def test_one_model_is_found_by_name(ask, plane) -> None:
    plane.put("iris")
    assert ask("/models/default/iris").json == plane.status.model("default/iris")


def test_a_misspelt_model_is_answered_with_the_nearest_name(ask, plane) -> None:
    plane.put("iris")
    answer = ask("/models/default/irs")
    assert answer.status == 404
    assert answer.json == {"error": "no model 'default/irs'", "hint": "did you mean 'default/iris'?"}


def test_the_arm_of_a_sticky_user(ask, plane) -> None:
    plane.put("iris", sticky={"header": "x-user"})
    answer = ask("/models/default/iris/arm?key=alice%20%C3%BC")
    assert (answer.json["key"], answer.json["version"]) == ("alice ü", "v1")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/models/default/iris/arm", 400, "key is missing"),
        ("/models/default/iris/arm?key=x", 409, "default/iris is not sticky"),
        ("/models/default/none/arm?key=x", 404, "no model 'default/none'"),
        ("/modells", 404, "no page '/modells'"),
    ],
)
def test_what_cannot_be_answered_is_explained(ask, plane, path: str, status: int, error: str) -> None:
    plane.put("iris")
    answer = ask(path)
    assert (answer.status, answer.json["error"]) == (status, error)
    assert answer.json["hint"]


def test_nothing_can_be_changed(ask) -> None:
    answer = ask("/status", method="POST")
    assert answer.status == 405
    assert answer.json["hint"] == "everything here is read with GET"


def test_metrics_count_models_problems_and_xds(ask, plane) -> None:
    plane.put("iris")
    answer = ask("/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["headgate_models", "Pending", "default"] == 1
    assert samples["headgate_models", "Programmed", "default"] == 0
    assert samples["headgate_problems", "error"] == 0
    assert samples["headgate_build_info", "0.1.0"] == 1
    assert "# TYPE headgate_xds_connected_envoys gauge" in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_a_taken_port_is_an_os_error(plane) -> None:
    async def scenario() -> None:
        first = HttpServer(plane.status, CollectorRegistry(), dict, address="127.0.0.1", port=0)
        await first.start()
        second = HttpServer(plane.status, CollectorRegistry(), dict, address="127.0.0.1", port=first.port)
        try:
            with pytest.raises(OSError, match="address already in use"):
                await second.start()
        finally:
            await second.stop()
            await first.stop()

    asyncio.run(scenario())


def test_garbage_of_a_client_is_answered_and_leaves_no_traceback_in_the_log(plane, caplog) -> None:
    async def scenario() -> bytes:
        server = HttpServer(plane.status, CollectorRegistry(), dict, address="127.0.0.1", port=0)
        await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n")
            answer = await reader.readline()
            writer.close()
            return answer
        finally:
            await server.stop()

    assert b" 400 " in asyncio.run(scenario())
    assert "Traceback" not in caplog.text
