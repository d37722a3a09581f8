"""From manifests to a real Envoy: plugins run for the models that have them, and for no others on the same listener."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from headgate.config import Config
from router.offline import Offline, load
from sidecar.ext_proc.application import Application, ExtProcSpec
from sidecar.ext_proc.server import Server
from sidecar.native.build import Module, NativeError, build

PLUGIN = """
from sidecar.plugin import CONTINUE, HttpContext, Plugin


class Context(HttpContext):
    def on_response_headers(self, headers):
        self.root.seen += 1
        headers.set(f"x-{self.root.word}", str(self.root.seen))
        return CONTINUE


class Word(Plugin):
    context = Context

    def on_configure(self, config):
        self.word, self.seen = config.get("word", "nothing"), 0
"""

CHAIN: list[dict[str, Any]] = [
    {"name": "general", "config": {"word": "general"}, "models": "all"},
    {"name": "asked", "config": {"word": "asked"}},
    {"name": "strict", "config": {"word": "strict"}, "onFailure": "closed"},
]

MODELS = {
    "silent": "",
    "asking": "[{name: asked}]",
    "own": "[{name: asked, config: {word: mine}}]",
    "without": "[{name: general, enabled: false}]",
    "strict": "[{name: strict}]",
    "mistaken": "[{name: askd}]",
}
EXPECTED = {
    "silent": {"x-general"},
    "asking": {"x-general", "x-asked"},
    "own": {"x-general", "x-mine"},
    "without": set(),
    "strict": {"x-general", "x-strict"},
    "mistaken": {"x-general"},
}
WORDS = {"x-general", "x-asked", "x-mine", "x-strict", "x-nothing"}

Bodies = Callable[[Callable[[Any], Awaitable[None]]], None]


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    try:
        return build(cache=tmp_path_factory.mktemp("native"))
    except NativeError as error:
        pytest.skip(f"NOT TESTED, plugins inside Envoy: {error}")


@pytest.fixture(params=["embedded", "ext-proc"])
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "embedded":
        for name, value in request.getfixturevalue("module").environment.items():
            monkeypatch.setenv(name, value)
    return str(request.param)


def config(host: str, folder: Path) -> Config:
    """Of a control plane with one gateway that has plugins."""
    (folder / "word.py").write_text(PLUGIN)
    if host == "embedded":
        plugins = {"folder": str(folder), "chain": [{**one, "plugin": "word.py"} for one in CHAIN]}
    else:
        plugins = {"host": host, "address": f"unix:{folder}/plugins.sock", "chain": CHAIN, "timeout": "5s"}
    listeners = [{"name": "http", "port": 0}]
    return Config.model_validate({"gateways": [{"name": "default", "listeners": listeners, "plugins": plugins}]})


def manifests(folder: Path, port: int, given: Config, weight: int = 1) -> Offline:
    """All models, planned as the control plane would."""
    (folder / "models").mkdir(exist_ok=True)
    for name, plugins in MODELS.items():
        (folder / "models" / f"{name}.yaml").write_text(f"""\
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {{name: {name}}}
spec:
  hosts: [{name}.test]
  versions:
  - {{name: v1, weight: 1, backend: {{endpoints: ["127.0.0.1:{port}"]}}}}
  - {{name: v2, weight: {weight}, backend: {{endpoints: ["127.0.0.1:{port}"]}}}}
  plugins: {plugins or "[]"}
""")
    return load(folder / "models", gateways={one.name: one.as_ir() for one in given.gateways})


async def beside(folder: Path) -> Server:
    """The process beside Envoy, in this one."""
    entries = [{"plugin": "word.py", "name": one["name"], "config": one["config"]} for one in CHAIN]
    server = Server(Application(ExtProcSpec.model_validate({"plugins": entries, "folder": folder})))
    await server.start(f"unix:{folder}/plugins.sock")
    return server


class Scene:
    """One Envoy with all models. What it starts ends with the rig."""

    def __init__(self, rig: Any, folder: Path) -> None:
        self.rig, self.folder = rig, folder

    async def begin(self, host: str, on_demand: bool = False) -> None:
        self.config = config(host, self.folder)
        if host == "ext-proc":
            self.server = await beside(self.folder)
            self.rig._stack.push_async_callback(self.server.stop, 0.5)
        model = await self.rig.model()
        self.port = model.rest_port
        await self.rig.serve(*(one.as_ir() for one in self.config.gateways))
        self.apply(on_demand=on_demand)
        await self.rig.envoy()
        if not on_demand:
            await self.applied()

    def apply(self, weight: int = 1, on_demand: bool = False) -> None:
        self.planned = manifests(self.folder, self.port, self.config, weight)
        for plan in self.planned.plans.values():
            self.rig.apply(plan, on_demand=on_demand)

    async def applied(self) -> None:
        for name in self.planned.plans:
            await self.rig.applied(name)

    async def ask(self, model: str) -> tuple[int, dict[str, str]]:
        """Status, and the headers that plugins have set."""
        url, named = f"http://127.0.0.1:{self.rig.port}/v2/models/iris", {"host": f"{model}.test"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=named) as answer:
            return answer.status, {name: value for name, value in answer.headers.items() if name.lower() in WORDS}


@pytest.mark.parametrize("on_demand", [False, True], ids=["eager", "on-demand"])
def test_plugins_run_for_the_models_that_have_them(rig: Bodies, host: str, on_demand: bool, tmp_path: Path) -> None:
    async def body(rig: Any) -> None:
        scene = Scene(rig, tmp_path)
        await scene.begin(host, on_demand)
        assert set(MODELS) == {name.rpartition("/")[2] for name in scene.planned.plans}
        for _ in range(2):
            for model, expected in EXPECTED.items():
                status, headers = await scene.ask(model)
                assert (model, status, set(headers)) == (model, 200, expected)
        assert (await scene.ask("nobody"))[0] == 404

    rig(body)


def test_plugins_keep_what_they_know_when_the_routes_change(rig: Bodies, host: str, tmp_path: Path) -> None:
    async def body(rig: Any) -> None:
        scene = Scene(rig, tmp_path)
        await scene.begin(host)
        assert [(await scene.ask("own"))[1]["x-mine"] for _ in range(3)] == ["1", "2", "3"]
        for weight in (2, 3):
            scene.apply(weight)
            await scene.applied()
        assert (await scene.ask("own"))[1]["x-mine"] == "4"

    rig(body)


def test_a_model_can_come_to_have_a_plugin_and_lose_it(
    rig: Bodies, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(rig: Any) -> None:
        scene = Scene(rig, tmp_path)
        await scene.begin(host)
        for said, expected in (("[{name: asked}]", {"x-general", "x-asked"}), ("", {"x-general"})):
            monkeypatch.setitem(MODELS, "silent", said)
            scene.apply()
            await scene.applied()
            status, headers = await scene.ask("silent")
            assert (status, set(headers)) == (200, expected)

    rig(body)


def test_without_the_process_beside_envoy_only_who_cannot_do_without_is_refused(rig: Bodies, tmp_path: Path) -> None:
    async def body(rig: Any) -> None:
        scene = Scene(rig, tmp_path)
        await scene.begin("ext-proc")
        assert await scene.ask("asking") == (200, {"x-general": "1", "x-asked": "1"})
        await scene.server.stop(0.0)
        assert await scene.ask("asking") == (200, {})
        assert await scene.ask("without") == (200, {})
        assert (await scene.ask("strict"))[0] >= 500

    rig(body)


def test_what_cannot_be_loaded_inside_envoy_leaves_the_last_good_routes(
    rig: Bodies, module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in module.environment.items():
        monkeypatch.setenv(name, value)

    async def body(rig: Any) -> None:
        scene = Scene(rig, tmp_path)
        await scene.begin("embedded")
        assert (await scene.ask("own"))[0] == 200
        monkeypatch.setitem(MODELS, "own", "[{name: asked, config: {word: []}}]")
        (tmp_path / "word.py").write_text(PLUGIN + "        assert isinstance(self.word, str)\n")
        scene.apply()
        cache = rig.caches["default"]
        await rig.until(lambda: "default/own" in cache.rejections)
        assert set((await scene.ask("own"))[1]) == {"x-general", "x-mine"}

    rig(body)
