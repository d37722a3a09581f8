"""Loading plugins: what is wrong is told, all at once, and a reload never makes things worse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from plugin_host import Exchange

from sidecar.checking import check
from sidecar.loading import load
from sidecar.plugin import CONTINUE, Body, Headers, HttpContext, Plugin, Result, Streamed
from sidecar.reload import Plugins

HELLO = """
from sidecar.plugin import CONTINUE, HttpContext, Plugin

class Context(HttpContext["Hello"]):
    def on_request_headers(self, headers):
        headers.set("x-word", self.root.word)
        return CONTINUE

class Hello(Plugin):
    context = Context

    def on_configure(self, config):
        if "word" not in config:
            raise ValueError("word is missing")
        self.word = config["word"]
"""


def written(folder: Path, text: str, name: str = "hello.py") -> str:
    (folder / name).write_text(dedent(text))
    return name


def word(plugins: Plugins) -> str:
    exchange = Exchange(plugins.pipeline).send()
    assert exchange.request.headers is not None
    return exchange.request.headers.get("x-word")


def entry(**config: Any) -> dict[str, Any]:
    return {"plugin": "hello.py", "config": config}


def test_a_file_with_one_plugin_needs_no_class(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    assert word(Plugins([entry(word="hi")], tmp_path)) == "hi"
    assert word(Plugins([entry(word="hi") | {"plugin": "hello.py:Hello"}], tmp_path)) == "hi"


@pytest.mark.parametrize(
    ("text", "plugin", "told"),
    [
        (HELLO, "nothing.py", "cannot read"),
        (HELLO, "hello.py:Hallo", "there is no 'Hallo' in hello.py; there are: Hello"),
        (HELLO, "hello.py:Context", "is not a class made from sidecar.plugin.Plugin"),
        (HELLO, "hello", "it has to be 'module:Class' or a file"),
        (HELLO, "no_such_module:Hello", "cannot import no_such_module: raised ModuleNotFoundError"),
        (HELLO, "hello.py", "word is missing"),
        (
            "import no_such_module",
            "hello.py",
            "raised ModuleNotFoundError: No module named",
        ),
        ("def f(:\n  pass", "hello.py", "at hello.py:1"),
        ("raise SystemExit(3)", "hello.py", "raised SystemExit: 3 at hello.py:1"),
        ("x = 1", "hello.py", "hello.py has 0 plugins"),
        (HELLO + "\nclass Other(Hello): pass\n", "hello.py", "name one, as hello.py:Class; there are: Hello, Other"),
        (
            HELLO.replace("raise ValueError", "exit"),
            "hello.py",
            "on_configure raised SystemExit: word is missing",
        ),
    ],
)
def test_what_cannot_be_loaded_is_told(tmp_path: Path, text: str, plugin: str, told: str) -> None:
    written(tmp_path, text)
    loaded = load([{"plugin": plugin}], tmp_path)
    assert loaded.pipeline is None
    assert told in "\n".join(map(str, loaded.faults))


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    limits = "sidecar.plugins.rate_limit:RateLimit"
    loaded = load(
        [
            {"plugin": limits, "config": {"per_second": -1, "brust": 3}},
            {"plugin": "hello.py"},
            {"plugin": "hello.py", "onFailure": "never"},
            {"name": "x"},
        ],
        tmp_path,
    )
    assert [one.field for one in loaded.faults] == [
        "plugins[0].config.per_second",
        "plugins[0].config.brust",
        "plugins[1].config",
        "plugins[2].onFailure",
        "plugins[3].plugin",
    ]


def test_two_plugins_of_one_name_are_told(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    loaded = load([entry(word="a"), entry(word="b")], tmp_path)
    assert "two plugins are called" in str(loaded.faults[0])
    assert load([entry(word="a"), entry(word="b") | {"name": "other"}], tmp_path).pipeline is not None


def test_a_reload_that_fails_keeps_the_old_plugins(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    plugins = Plugins([entry(word="one")], tmp_path)
    old = plugins.pipeline
    written(tmp_path, "def broken(")
    assert not plugins.reload()
    assert plugins.pipeline is old
    assert word(plugins) == "one"
    assert "hello.py" in str(plugins.faults[0])
    written(tmp_path, HELLO.replace("self.root.word", "'new'"))
    assert plugins.reload()
    assert word(plugins) == "new"
    assert plugins.faults == ()
    assert (plugins.reloads, plugins.failed_reloads) == (1, 1)


def test_requests_under_way_keep_the_plugin_they_began_with(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    plugins = Plugins([entry(word="one")], tmp_path)
    exchange = Exchange(plugins.pipeline)
    written(tmp_path, HELLO.replace("self.root.word", "'new'"))
    plugins.reload()
    exchange.send()
    assert exchange.request.headers is not None
    assert exchange.request.headers.get("x-word") == "one"


def test_shared_data_outlive_a_reload(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    plugins = Plugins([entry(word="one")], tmp_path)
    plugins.pipeline.plugins[0].plugin.shared.set("k", b"v")
    plugins.reload()
    assert plugins.pipeline.plugins[0].plugin.shared.get("k")[0] == b"v"


async def _watched(tmp_path: Path) -> list[bool]:
    plugins = Plugins([entry(word="one")], tmp_path)
    seen: asyncio.Queue[bool] = asyncio.Queue()
    task = asyncio.create_task(plugins.watch(seen.put_nowait))
    outcomes: list[bool] = []
    try:
        for text in ("def broken(", HELLO.replace("self.root.word", "'new'")):
            while len(outcomes) < (1 if text.startswith("def") else 2):
                written(tmp_path, text)  # again, until the watch has begun
                try:
                    outcomes.append(await asyncio.wait_for(seen.get(), 1.0))
                except TimeoutError:
                    continue
                if outcomes[-1] is text.startswith("def"):
                    outcomes.pop()  # of the text before
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert word(plugins) == "new"
    return outcomes


def test_files_are_watched(tmp_path: Path) -> None:
    written(tmp_path, HELLO)
    assert asyncio.run(_watched(tmp_path)) == [False, True]


async def _mounted(folder: Path) -> None:
    def mount(name: str, text: str) -> None:
        """As kubelet writes a ConfigMap: a new folder, and a link that is replaced."""
        written((folder / name), text)
        (folder / "fresh").symlink_to(name)
        (folder / "fresh").rename(folder / "..data")

    for name in ("..1", "..2"):
        (folder / name).mkdir()
    mount("..1", HELLO)
    for file in (folder / "..1").iterdir():
        (folder / file.name).symlink_to(f"..data/{file.name}")
    plugins = Plugins([entry(word="one")], folder)
    seen: asyncio.Queue[bool] = asyncio.Queue()
    task = asyncio.create_task(plugins.watch(seen.put_nowait))
    try:
        async with asyncio.timeout(20):
            while True:
                mount("..2", HELLO.replace("self.root.word", "'new'"))  # again, until the watch has begun
                try:
                    assert await asyncio.wait_for(seen.get(), 1.0)
                    break
                except TimeoutError:
                    continue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert word(plugins) == "new"


def test_a_mounted_configmap_is_watched(tmp_path: Path) -> None:
    asyncio.run(_mounted(tmp_path))


# The static check


class Wrong(HttpContext["WrongRoot"]):
    def on_request_header(self, headers: Headers) -> Result:
        return CONTINUE

    def on_response_headers(self) -> Result:  # type: ignore[override]
        return CONTINUE

    def on_response_body(self, body: Body) -> Result:
        return CONTINUE

    async def on_log(self, entry: Any) -> None:  # type: ignore[override]
        pass


class WrongRoot(Plugin):
    context = Wrong
    request_body = Streamed()
    budget = 0
    properties = ("version", "colour")
    places = ("cellar",)
    on_failure = "sometimes"  # type: ignore[assignment]

    def on_config(self, config: Any) -> None:
        pass


def test_the_check_finds_everything() -> None:
    assert check(WrongRoot) == [
        "WrongRoot.on_config is no hook (did you mean on_configure?)",
        "Wrong.on_log is async: only hooks of a message can wait",
        "Wrong.on_request_header is no hook (did you mean on_request_headers?)",
        "Wrong.on_response_headers has to be callable as on_response_headers(self, headers)",
        "WrongRoot.request_body asks for the body, but Wrong has no on_request_body (bodies cost time: leave it out)",
        "Wrong.on_response_body is never called (set WrongRoot.response_body to Buffered() or STREAMED)",
        "WrongRoot.budget is 0, not a number of seconds",
        "WrongRoot.properties is ('version', 'colour'), not a tuple of some of route, cluster, model, namespace,"
        " version, source_address, protocol, request_time",
        "WrongRoot.places is ('cellar',), not a tuple of some of gateway, backend, proxy",
        "WrongRoot.on_failure is 'sometimes', not 'open' or 'closed'",
    ]
