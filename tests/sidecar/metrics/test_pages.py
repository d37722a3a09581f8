"""What the sidecar's pages say, with an Envoy that is a few bytes of JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from sidecar.metrics.admin import Admin, NoAnswer, address
from sidecar.metrics.families import FAMILIES, OPENMETRICS, TEXT, Own, content_type, page
from sidecar.metrics.follow import STALE, Follower
from sidecar.metrics.pages import application
from sidecar.metrics.stats import Key, Outcome
from sidecar.metrics.totals import Figures, Times
from sidecar.stream.figures import HELP

ROOT = Path(__file__).parents[3]
ODD = 'a"b\\c\nd'
V1, COPY = Key("default", "iris", "v1", "primary"), Key("default", ODD, "v2", "mirror")
FIGURES = {
    V1: Figures(
        {Outcome("200", ""): 7, Outcome("200", "14"): 1},
        {"duration_us": 1_500_000, "first_byte_us": 1, "request_bytes": 10, "response_bytes": 20},
        {"duration": Times((0.0005, 1.0), (3, 8)), "first_byte": Times((0.0005, 1.0), (8, 8))},
    ),
    COPY: Figures({Outcome("503", ""): 2}, {}, {"duration": Times((0.001,), (2,))}),
}
OF_V1 = "v1@default/iris|default/iris/v1|v1"


class Envoy:
    """An admin endpoint in a variable."""

    def __init__(self) -> None:
        self.requests, self.trouble, self.now = 0, "", 0.0

    async def get(self, path: str) -> bytes:
        if self.trouble:
            raise NoAnswer(self.trouble)
        return json.dumps(
            {"stats": [{"name": f"headgate.requests.by.200||-|{OF_V1}", "value": self.requests}]}
        ).encode()

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(("kind", "parse"), [(TEXT, text_families), (OPENMETRICS, openmetrics_families)])
def test_prometheus_reads_the_page(kind, parse):
    families = {family.name: family for family in parse(page(FIGURES, Own(up=True, age=0.5), kind))}
    assert {family.name.removesuffix("_total") for family in FAMILIES} == set(families)
    samples = {
        (sample.name, sample.labels["version"], sample.labels.get("le"), sample.labels.get("grpc_status")): sample.value
        for family in families.values()
        for sample in family.samples
        if "version" in sample.labels
    }
    assert samples["headgate_requests_total", "v1", None, ""] == 7
    assert samples["headgate_requests_total", "v1", None, "14"] == 1
    assert samples["headgate_request_duration_seconds_bucket", "v1", "0.0005", None] == 3
    assert samples["headgate_request_duration_seconds_bucket", "v1", "+Inf", None] == 8
    assert samples["headgate_request_duration_seconds_sum", "v1", None, None] == 1.5
    assert samples["headgate_request_duration_seconds_bucket", "v2", "+Inf", None] == 2
    assert ("headgate_request_duration_seconds_sum", "v2", None, None) not in samples
    assert samples["headgate_response_bytes_total", "v1", None, None] == 20
    copies = [sample for sample in families["headgate_requests"].samples if sample.labels["shadow"] == "true"]
    assert [(sample.labels["model"], sample.value) for sample in copies] == [(ODD, 2)]
    if kind is OPENMETRICS:
        assert families["headgate_request_duration_seconds"].unit == "seconds"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [("", TEXT), ("text/plain", TEXT), ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", OPENMETRICS)],
)
def test_openmetrics_is_for_those_who_ask(accept, kind):
    assert content_type(accept) == kind


def test_every_metric_is_documented_and_every_documented_one_exists():
    text = (ROOT / "docs" / "sidecar.md").read_text()
    documented = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `headgate_")]
    streamed = [f"{name}_total" if kind == "counter" else name for name, (kind, _) in HELP.items()]
    assert documented == [*(family.name for family in FAMILIES), *streamed]


def asked(envoy: Envoy, path: str, follower: Follower) -> tuple[int, str]:
    async def ask() -> tuple[int, str]:
        async with (
            TestServer(application(follower)) as server,
            ClientSession() as session,
            session.get(server.make_url(path)) as answer,
        ):
            return answer.status, await answer.text()

    return asyncio.run(ask())


def test_it_is_ready_while_the_figures_are_fresh():
    envoy = Envoy()
    follower = Follower(envoy, clock=envoy.clock)
    assert asked(envoy, "/readyz", follower) == (503, "not ready: nothing has been read yet\n")
    asyncio.run(follower.read_once())
    assert asked(envoy, "/readyz", follower) == (200, "ready\n")
    envoy.trouble, envoy.now = "Envoy is away", STALE
    asyncio.run(follower.read_once())
    assert asked(envoy, "/readyz", follower) == (200, "ready\n")
    envoy.now = STALE + 0.1
    assert asked(envoy, "/readyz", follower) == (503, "not ready: Envoy is away\n")
    assert asked(envoy, "/healthz", follower) == (200, "ok\n")
    assert follower.own == Own(False, 2, 1, 0.0, STALE + 0.1, 1, 0)


def test_the_last_figures_are_told_while_envoy_is_away():
    envoy = Envoy()
    envoy.requests = 5
    follower = Follower(envoy, clock=envoy.clock)
    asyncio.run(follower.read_once())
    envoy.trouble = "Envoy is away"
    asyncio.run(follower.read_once())
    status, text = asked(envoy, "/versions", follower)
    told = json.loads(text)
    assert (status, told["trouble"], told["versions"][0]["total"]["requests"]) == (200, "Envoy is away", 5)
    assert "headgate_sidecar_envoy_up 0" in asked(envoy, "/metrics", follower)[1]


@pytest.mark.parametrize(("model", "found"), [("default/iris", 1), ("default/iri", 0), ("iris", 0)])
def test_one_model_can_be_asked_for(model, found):
    envoy = Envoy()
    follower = Follower(envoy, clock=envoy.clock)
    asyncio.run(follower.read_once())
    assert len(json.loads(asked(envoy, f"/versions?model={model}", follower)[1])["versions"]) == found


def test_one_window_can_be_asked_for():
    envoy = Envoy()
    follower = Follower(envoy, clock=envoy.clock)
    asyncio.run(follower.read_once())
    (version,) = json.loads(asked(envoy, "/versions?window=1m", follower)[1])["versions"]
    assert list(version["windows"]) == ["1m"]
    status, text = asked(envoy, "/versions?window=2m", follower)
    assert (status, json.loads(text)["hint"]) == (400, "there are 10s, 1m, 5m")


def test_a_brief_answer_has_rates_and_quantiles():
    envoy = Envoy()
    follower = Follower(envoy, clock=envoy.clock)
    asyncio.run(follower.read_once())
    (version,) = json.loads(asked(envoy, "/versions?window=10s&brief", follower)[1])["versions"]
    assert set(version) == {"namespace", "model", "version", "route", "shadow", "total", "windows"}
    assert set(version["windows"]["10s"]) == {"seconds", "requests", "errors", "rps", "duration_seconds"}
    assert version["total"] == {"requests": 0}


def test_an_unknown_page_names_those_that_there_are():
    envoy = Envoy()
    status, text = asked(envoy, "/stats", Follower(envoy))
    assert status == 404
    assert "/metrics, /versions" in json.loads(text)["hint"]


# Envoy's admin endpoint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unix:/run/envoy.sock", "unix:/run/envoy.sock"),
        ("unix:///run/envoy.sock", "unix:/run/envoy.sock"),
        ("http://127.0.0.1:9901", "http://127.0.0.1:9901"),
        ("http://127.0.0.1:9901/", "http://127.0.0.1:9901"),
        ("localhost:9901", "http://localhost:9901"),
        ("http://[::1]:9901", "http://[::1]:9901"),
    ],
)
def test_an_admin_address(text, told):
    assert str(address(text)) == told


@pytest.mark.parametrize(
    "text", ["", "unix:", "https://x:1", "http://x", "http://x:port", "http://x:1/stats", "http://x:1?y", "ftp://x:1"]
)
def test_what_is_no_admin_address(text):
    with pytest.raises(ValueError, match="unix:/path/to/socket"):
        address(text)


def failure(where: str, timeout: float = 5.0) -> str:
    async def get() -> str:
        async with Admin(address(where), timeout) as admin:
            with pytest.raises(NoAnswer) as caught:
                await admin.get("/stats")
            return str(caught.value)

    return asyncio.run(get())


def test_no_envoy_is_told_in_plain_words(tmp_path):
    assert "no such file or directory" in failure(f"unix:{tmp_path}/none")
    assert failure("http://127.0.0.1:1").startswith("cannot connect to http://127.0.0.1:1: ")


def test_another_server_is_told_in_plain_words():
    async def main() -> str:
        async with TestServer(web.Application()) as server, Admin(address(f"http://127.0.0.1:{server.port}")) as admin:
            with pytest.raises(NoAnswer) as caught:
                await admin.get("/stats")
            return str(caught.value)

    assert "answered 404: is it Envoy's admin endpoint?" in asyncio.run(main())


def test_a_silent_envoy_is_not_waited_for_long():
    async def main() -> str:
        stop = asyncio.Event()

        async def silent(request: web.Request) -> web.Response:
            await stop.wait()
            return web.Response()

        app = web.Application()
        app.router.add_get("/stats", silent)
        async with TestServer(app) as server, Admin(address(f"http://127.0.0.1:{server.port}"), 0.05) as admin:
            with pytest.raises(NoAnswer) as caught:
                await admin.get("/stats")
            stop.set()
            return str(caught.value)

    assert asyncio.run(main()).endswith("did not answer within 0.05 s")
