"""A plugin that keeps more than it may is suspended, named and started anew; others go on, and memory comes back."""

from __future__ import annotations

import gc
import logging
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from plugin_host import REQUEST, Exchange, TestHost

from sidecar.headers import HeaderList
from sidecar.instruments import Family
from sidecar.lean import Lane
from sidecar.loading import load
from sidecar.memory import Lookout
from sidecar.pipeline import Pipeline
from sidecar.quantity import quantity, quantity_text

MEBIBYTE = 1 << 20
LEAKY = """
import functools
from sidecar.plugin import *
from sidecar.plugin import Streamed

SEEN = []

def noted(one, seen=[]):
    seen.append(one)

@functools.cache
def worked_out(at):
    return bytes(250_000)

class Context(HttpContext["Leaky"]):
    seen = {}

    def on_request_headers(self, headers):
        root, many = self.root, [bytes(250_000) for _ in range(8)]
        root.asked += 1
        match headers.get("x-leak"):
            case "root": root.seen.extend(many)
            case "module": SEEN.extend(many)
            case "class": self.seen.update((len(self.seen) + at, one) for at, one in enumerate(many))
            case "context":
                self.many = many
                root.seen.append(self)
            case "circle": many.append(many); root.seen.append(many)
            case "cache": [worked_out(root.asked * 10 + at) for at in range(8)]
            case "default": noted(many)
        root.requests.add()
        headers.set("x-asked", f"{root.word} {root.asked}")

class Leaky(Plugin):
    context = Context
    memory = 4 << 20

    def on_configure(self, config):
        if config.get("failing"):
            open(config["failing"]).close()
        self.word = config.get("word", "")
        self.asked = 0
        self.seen = []
        self.requests = self.metrics.counter("requests")
        self.table = bytes(config.get("table", 0))
"""
GOOD = """
from sidecar.plugin import *
class Context(HttpContext):
    def on_request_headers(self, headers):
        headers.set("x-good", "yes")
class Good(Plugin):
    context = Context
"""
WAYS = ("root", "module", "class", "context", "circle", "cache", "default")


class Bench:
    """Plugins, a clock, and the lookout over them."""

    def __init__(self, folder: Path, **entry: Any) -> None:
        (folder / "leaky.py").write_text(LEAKY)
        (folder / "good.py").write_text(GOOD)
        loaded = load([{"plugin": "leaky.py"} | entry, {"plugin": "good.py"}], folder)
        assert loaded.faults == ()
        assert loaded.pipeline is not None
        self.pipeline = loaded.pipeline
        self.leaky, self.good = self.pipeline.plugins
        self.host = TestHost()
        self.lookout = Lookout(lambda: [self.pipeline], lambda: self.host.time, lambda: 0)

    def ask(self, leak: str = "") -> Any:
        """The request's headers as they go on, or the reply to it."""
        exchange = Exchange(self.pipeline, self.host)
        exchange.send((("x-leak", leak), (":method", "GET"), (":path", "/"), (":authority", "a")))
        return exchange.reply or exchange.request.headers

    def look(self) -> None:
        for _ in self.lookout.look():
            pass

    def pass_time(self, seconds: float) -> None:
        self.host.time += seconds

    def figure(self, name: str) -> float:
        families: dict[str, Family] = {one.name: one for one in self.pipeline.families(self.host.time)}
        return families[name].samples[0].value


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("way", WAYS)
def test_wherever_it_leaks_it_is_suspended_and_its_memory_comes_back(
    tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture, traced: None
) -> None:
    bench = Bench(tmp_path, config={"word": "hi"})
    assert bench.ask().get("x-asked") == "hi 1"
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(4):
        bench.ask(way)
    bench.look()
    assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    assert bench.leaky.health.counts == {("", "memory"): 1}
    assert "plugin 'Leaky': keeps more than its 4.0 MiB: " in caplog.text
    names = {"root": "self.seen", "module": "SEEN", "class": "Context.seen", "cache": "worked_out", "default": "noted"}
    assert f"MiB by {names.get(way, 'self.seen')}\n" in caplog.text
    assert "plugin 'Leaky': suspended for 30 s and started anew (if it needs more, say so by `memory`)" in caplog.text
    skipped = bench.ask(way)
    assert "x-asked" not in skipped
    assert skipped.get("x-good") == "yes"
    assert bench.figure("headgate_plugin_suspended") == 1
    assert bench.figure("headgate_plugin_memory_bytes") < 500_000
    bench.pass_time(31)
    bench.look()
    assert bench.ask().get("x-asked") == "hi 1"  # configured as at first
    assert bench.figure("headgate_plugin_Leaky_requests".lower()) == 6  # counters do not go back
    assert (bench.leaky.health.suspensions, bench.good.health.counts) == (1, {})


def test_it_is_caught_each_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for times in range(1, 4):
        for _ in range(4):
            assert "x-asked" in bench.ask("module")
        bench.look()
        bench.look()
        assert bench.leaky.health.suspensions == times
        bench.pass_time(31)


def test_a_plugin_within_its_limit_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, memory="16Mi", config={"table": 7 * MEBIBYTE})
    for way in ("root", "module", "root"):
        bench.ask(way)
    bench.look()
    assert bench.leaky.health.counts == {}
    assert bench.ask().get("x-asked") == " 4"
    assert 10 * MEBIBYTE < bench.figure("headgate_plugin_memory_bytes") < 16 * MEBIBYTE


def test_what_may_not_be_left_out_refuses_requests_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(tmp_path, onFailure="closed")
    for _ in range(4):
        bench.ask("root")
    bench.look()
    assert (bench.ask().status, bench.ask().body) == (503, b"plugin Leaky is suspended\n")
    assert "requests are refused" in caplog.text


def test_a_plugin_of_a_package_gets_its_module_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: None
) -> None:
    package = tmp_path / "a_package_of_plugins"
    package.mkdir()
    (package / "__init__.py").write_text("from .leaky import Leaky")
    (package / "leaky.py").write_text(LEAKY)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    try:
        bench = Bench(tmp_path, plugin="a_package_of_plugins:Leaky", config={"word": "hi"})
        old = sys.modules["a_package_of_plugins.leaky"]
        for _ in range(4):
            bench.ask("module")
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        bench.look()
        new = sys.modules["a_package_of_plugins.leaky"]
        package_now = sys.modules["a_package_of_plugins"]
        assert (package_now.leaky, package_now.Leaky) == (new, new.Leaky)
        assert (type(bench.leaky.plugin), type(bench.leaky.plugin) is old.Leaky) == (new.Leaky, False)
        del old
        gc.collect()
        assert held - tracemalloc.get_traced_memory()[0] > 7_000_000
        bench.pass_time(31)
        assert bench.ask().get("x-asked") == "hi 1"
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


def test_one_that_cannot_be_started_anew_keeps_nothing_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    needed = tmp_path / "needed"
    needed.touch()
    bench = Bench(tmp_path, config={"failing": str(needed)})
    for _ in range(4):
        bench.ask("root")
    needed.unlink()
    bench.look()
    assert not hasattr(bench.leaky.plugin, "seen")
    assert bench.leaky.health.counts == {("", "memory"): 1, ("on_configure", "raised"): 1}
    assert "on_configure: raised FileNotFoundError" in caplog.text
    assert "cannot be started anew, and stays suspended" in caplog.text
    needed.touch()
    bench.pass_time(29)
    bench.look()
    assert "x-asked" not in bench.ask()
    bench.pass_time(2)
    bench.look()
    assert bench.ask().get("x-asked") == " 1"


def test_the_short_way_knows_the_new_plugin(tmp_path: Path) -> None:
    """Inside Envoy the C module holds the root and the class of its contexts for good."""
    bench = Bench(tmp_path, config={"word": "hi"})
    assert Lane.fits(bench.pipeline)
    (_, hook, _, make, root, _), _ = Lane(bench.pipeline).request
    for _ in range(4):
        getattr(make(root), hook)(HeaderList((("x-leak", "class"),)))
    old = bench.leaky.plugin.context
    bench.look()
    headers = HeaderList((("x-leak", ""),))
    context: Any = make(root)
    getattr(context, hook)(headers)
    assert headers.get("x-asked") == "hi 1"
    assert (old, bench.leaky.plugin.context) != (old, old)
    assert isinstance(context, bench.leaky.plugin.context)
    assert sys.getrefcount(old.seen) < 10
    assert context.seen == {}


def test_bodies_that_an_endless_request_gathers_are_counted_and_let_go(tmp_path: Path, traced: None) -> None:
    (tmp_path / "gathers.py").write_text(
        dedent("""
        from sidecar.plugin import *
        class Context(HttpContext):
            def on_request_headers(self, headers):
                self.parts = []
            def on_request_body(self, body):
                self.parts.append(body.data)
        class Gathers(Plugin):
            context = Context
            request_body = STREAMED
    """)
    )
    loaded = load([{"plugin": "gathers.py", "memory": "1Mi"}], tmp_path)
    assert loaded.pipeline is not None
    pipeline, host = loaded.pipeline, TestHost()
    lookout = Lookout(lambda: [pipeline], lambda: host.time, lambda: 0)
    before = tracemalloc.get_traced_memory()[0]
    exchange = Exchange(pipeline, host)
    exchange.chain.request_headers(HeaderList(REQUEST))
    for _ in range(20):
        assert len(exchange.chain.request_body(bytes(100_000)).data) == 100_000
    for _ in lookout.look():
        pass
    assert pipeline.plugins[0].health.counts == {("", "memory"): 1}
    assert "parts of open requests" in str(pipeline.plugins[0].health.last)
    assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    out = exchange.chain.request_body(b"the end", True)  # goes on without it
    assert (out.data, out.end) == (b"the end", True)
    exchange.chain.finish()


def test_one_that_is_over_its_limit_from_the_start_is_refused(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    loaded = load([{"plugin": "leaky.py", "config": {"table": 9 << 20}}], tmp_path)
    assert list(map(str, loaded.faults)) == [
        "plugins[0].memory: once configured, Leaky keeps more than its 4.0 MiB: 9.0 MiB by self.table "
        "(if it needs more, say so here or in its on_configure)"
    ]
    assert load([{"plugin": "leaky.py", "config": {"table": 9 << 20}, "memory": "16Mi"}], tmp_path).faults == ()


def test_a_plugin_can_say_by_its_configuration_what_it_needs(tmp_path: Path) -> None:
    said = LEAKY.replace("self.asked = 0", 'self.asked = 0; self.memory = config["memory"]')
    (tmp_path / "leaky.py").write_text(said)

    def loaded(**config: Any) -> Any:
        return load([{"plugin": "leaky.py", "config": config}], tmp_path)

    assert loaded(memory=16 << 20, table=9 << 20).pipeline.plugins[0].memory == 16 << 20
    (wrong,) = loaded(memory="many").faults
    assert str(wrong) == "plugins[0].plugin: Leaky.memory is 'many', not a number of bytes, at least 1048576"


@pytest.mark.parametrize(("written", "read"), [
    ("64Mi", 64 << 20), ("1Gi", 1 << 30), ("2048Ki", 2 << 20), ("64M", 64_000_000), ("1G", 10**9), (1 << 20, 1 << 20),
    ("3000000", 3_000_000),
])  # fmt: skip
def test_quantities_are_read_as_kubernetes_writes_them(written: Any, read: int) -> None:
    assert quantity(written) == read
    assert quantity(quantity_text(read)) == read


@pytest.mark.parametrize(
    "wrong", ["", "64", "64MB", "64 Mi", "-1Mi", "1.5Mi", "many", True, None, 0, 1000, 1e9, [], "9" * 30]
)
def test_a_wrong_limit_is_told(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    loaded = load([{"plugin": "leaky.py", "memory": wrong}], tmp_path)
    if wrong is None:
        assert loaded.faults == ()
    else:
        (fault,) = loaded.faults
        assert fault.field == "plugins[0].memory"
        assert fault.what.endswith(": write for example 64Mi")
        assert "error" not in fault.what


def test_looks_take_a_fiftieth_of_the_time_and_come_early_when_the_process_grows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    resident = 0
    looks = 0

    def pipelines() -> list[Pipeline]:
        nonlocal looks
        looks += 1
        return [bench.pipeline]

    lookout = Lookout(pipelines, lambda: bench.host.time, lambda: resident)
    turns = lookout.turns()
    for _ in range(100):
        bench.pass_time(next(turns))
    assert 40 < looks < 60  # two for each look: next to nothing is kept, so one each second
    bench.leaky.plugin.table = list(map(str, range(200_000)))  # type: ignore[attr-defined]
    bench.leaky._memory = 1 << 30
    looks = 0
    while looks < 2:
        bench.pass_time(next(turns))
    assert looks == 2
    resident = bench.leaky.memory
    waited = 0.0
    while looks == 2:
        waited += (wait := next(turns))
        bench.pass_time(wait)
    resident = 0
    while looks < 4:
        bench.pass_time(next(turns))
    later = 0.0
    while looks == 4:
        later += (wait := next(turns))
        bench.pass_time(wait)
    assert later > 2 * waited


def test_logging_does_not_tell_of_what_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench(tmp_path)
    bench.ask("root")
    bench.look()
    assert caplog.text == ""
