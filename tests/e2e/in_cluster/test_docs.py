"""The tutorials in docs/: their commands are run in order, and what they print must be what the pages show.

`HEADGATE_UPDATE_GOLDEN=1` writes what was printed into the pages, where it differs. KServe is played: when a page says
that a model becomes ready, its status says so. The commands run in bash with kubectl, for which there is no double.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from pages import Command, Meanwhile, alike, steps

ROOT = Path(__file__).parents[3]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "deploy/examples"
HOST = "wisdom.modelmesh-serving"
ISVC = ("serving.kserve.io/v1beta1", "InferenceService")
_END = "--- end of this command ---"


class Shell:
    """One bash for a whole page, so that what a command sets is there for the next."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        tools = folder / "tools"
        tools.mkdir()
        for name, words in (("headgate", f"{sys.executable} -m headgate"), ("python", sys.executable)):
            (tools / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            (tools / name).chmod(0o755)
        self._folder = folder
        self._environment = {
            **{key: value for key, value in os.environ.items() if key not in ("HEADGATE_URL", "KUBECACHEDIR")},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "KUBECONFIG": str(kubeconfig),
            "COLUMNS": "120",
            "NO_COLOR": "1",
        }
        self._bash: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Shell:
        pipe = asyncio.subprocess.PIPE
        self._bash = await asyncio.create_subprocess_exec(
            "bash",
            cwd=self._folder / "here",
            env=self._environment,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        bash, stdin, _out = self._running()
        stdin.close()
        await bash.wait()

    async def run(self, text: str, within: float = 60.0) -> tuple[str, ...]:
        _bash, stdin, stdout = self._running()
        stdin.write(f"{text}\necho '{_END}'\n".encode())
        lines: list[str] = []
        async with asyncio.timeout(within):
            while (line := (await stdout.readline()).decode().rstrip()) != _END:
                assert line or not stdout.at_eof(), f"bash ended in {text!r}"
                lines.append(line)
        return tuple(lines)

    def _running(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamWriter, asyncio.StreamReader]:
        bash = self._bash
        assert bash is not None
        assert bash.stdin is not None
        assert bash.stdout is not None
        return bash, bash.stdin, bash.stdout


class Stage:
    """A page being played: what the reader types, and what happens meanwhile."""

    def __init__(self, it: Any, server: Any, shell: Shell) -> None:
        self._it, self._server, self._shell = it, server, shell
        self.changed: dict[Command, tuple[str, ...]] = {}

    async def play(self, page: str) -> None:
        for step in steps(page):
            if isinstance(step, Meanwhile):
                await self._meanwhile(step.words)
            else:
                typed = re.sub(r"\b8080\b", str(self._it.port), step.text)
                if self._server.behaviour.hold and typed.startswith("kubectl wait --for=delete"):
                    before = self._it.api.do(lambda api: api.requests[-1])
                    seen, _ = await asyncio.gather(self._shell.run(typed), self._answer(before))
                else:
                    seen = await self._shell.run(typed)
                if not alike(step.output, seen):
                    self.changed[step] = seen

    async def _meanwhile(self, words: str) -> None:
        if found := re.fullmatch(r"(\S+) becomes ready", words):
            self._it.isvc_ready(found[1], True)
        elif found := re.fullmatch(r"(\S+) is being loaded", words):
            self._it.isvc_ready(found[1], False)
        elif words == "no answer comes until somebody waits":
            self._server.behave(hold=True)
            await self._it.until(lambda: self._server.counts.in_flight > 20, "in flight")
        elif found := re.fullmatch(r"the Envoys have (.+)", words):
            wanted = found[1]
            await self._it.until(lambda: self._has(wanted), wanted)
        else:
            raise AssertionError(f"nobody knows how to play {words!r}")

    async def _answer(self, before: Any) -> None:
        """Once kubectl watches for a deletion, later than this request."""

        def watching(api: Any) -> bool:
            later = itertools.takewhile(lambda one: one is not before, reversed(api.requests))
            return any(one.user_agent.startswith("kubectl") and one.query.get("watch") for one in later)

        await self._it.until(lambda: self._it.api.do(watching), "kubectl watches")
        self._server.behave(hold=False)

    def _has(self, wanted: str) -> bool:
        status = self._it.status("modelmesh-serving/wisdom")
        versions = {one["name"]: one for one in status.get("versions", ())}
        fits = status.get("traffic") == wanted or wanted in [
            f"{name}'s match" for name in versions if versions[name].get("match")
        ]
        return fits and self._it.condition("modelmesh-serving/wisdom", "Programmed") == "True"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
@pytest.mark.parametrize("strategy", ["blue-green", "mirror", "canary"])
def test_a_tutorial_prints_what_its_page_shows(rig: Any, strategy: str, tmp_path: Path) -> None:
    file = DOCS / f"tutorial-{strategy}.md"
    page = file.read_text()
    shutil.copytree(EXAMPLES / strategy, tmp_path / "here")

    async def body(it: Any) -> None:
        server = await it.modelmesh("wisdom-0", "wisdom-1")
        await it.plane()
        await it.envoy("gateway-1")
        async with Shell(tmp_path, it.api.kubeconfig()) as shell:
            stage = Stage(it, server, shell)
            traffic = asyncio.Event()
            ledgers: list[Any] = []

            async def users() -> None:
                await it.until(lambda: it.condition("modelmesh-serving/wisdom", "Programmed") == "True", "served", 60.0)
                async with it.load(HOST, grpc=True, rate=30) as ledger:
                    ledgers.append(ledger)
                    await traffic.wait()

            using = asyncio.create_task(users())
            served, cleaned = page.split("\n## Clean up\n")
            await stage.play(served)
            traffic.set()
            await using
            (ledger,) = ledgers
            assert ledger.ok > 0
            assert not ledger.failed, ledger.errors
            await stage.play("\n" * (served.count("\n") + 2) + cleaned)  # at their lines
            assert not it.api.list("headgate.dev/v1alpha1", "ModelRollout")
        if stage.changed and os.environ.get("HEADGATE_UPDATE_GOLDEN"):
            lines = page.splitlines()
            for step, seen in sorted(stage.changed.items(), key=lambda one: -one[0].at):
                lines[step.begins : step.ends] = seen
            file.write_text("\n".join(lines) + "\n")
            return
        for step, seen in stage.changed.items():
            told = "\n".join(["$ " + step.text, "the page shows:", *step.output, "it prints:", *seen])
            raise AssertionError(f"{file.name}:{step.at + 1}\n{told}")

    rig(body, 150.0)


def test_what_may_differ_and_what_may_not() -> None:
    assert alike(("isvc/w  3s  ready",), ("isvc/w  14s   ready",))
    assert alike(("a", "...", "z"), ("a", "b", "c", "z"))
    assert alike(("v1: 203 (50.8%), p50 1.0 ms, p99 2.0 ms",), ("v1: 190 (47.5%), p50 3.1 ms, p99 9.0 ms",))
    assert not alike(("v1: 203 (50.8%), p50 1.0 ms, p99 2.0 ms",), ("v1: 80 (20.0%), p50 3.1 ms, p99 9.0 ms",))
    assert not alike(("isvc/w  3s  ready",), ("isvc/w  3s  not ready",))
    assert not alike(("a", "...", "z"), ("a", "b"))
    assert not alike((), ("a",))
    assert not alike(("a",), ())


PAGE = """\
# Title
<!-- Meanwhile: a becomes ready -->
```console
$ one \\
  two
said
$ cat <<EOF
x
EOF
x
```
```sh
$ no
```
"""


def test_a_page_is_read_as_it_is_typed() -> None:
    assert list(steps(PAGE)) == [
        Meanwhile("a becomes ready"),
        Command("one \\\n  two", ("said",), 3, 5, 6),
        Command("cat <<EOF\nx\nEOF", ("x",), 6, 9, 10),
    ]


def _kubectls(request: Any) -> bool:
    return str(request.user_agent).startswith("kubectl")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_iter8s_finalizers_are_taken_off_as_the_page_says_and_no_others(rig: Any, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (script,) = re.findall(r"^```bash\n(.*?)^```", (DOCS / "migrating-from-iter8.md").read_text(), re.M | re.S)

    async def body(it: Any) -> None:
        it.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "modelmesh-serving"}})
        kept = ["headgate.dev/drain", "example.com/other"]
        for index, name in enumerate(("wisdom-0", "wisdom-1")):
            it.isvc(name)
            finalizers = [*kept[:index], "iter8.tools/finalizer", *kept[index:]]
            it.api.patch(*ISVC, name, {"metadata": {"finalizers": finalizers}}, "modelmesh-serving")
        it.isvc("others")
        it.api.patch(*ISVC, "others", {"metadata": {"finalizers": kept}}, "modelmesh-serving")
        async with Shell(tmp_path, it.api.kubeconfig()) as shell:
            said = await shell.run(script)
            assert [line.partition(" ")[0].rpartition("/")[2] for line in said] == ["wisdom-0", "wisdom-1"], said
            assert await shell.run(script) == ()
        for name in ("wisdom-0", "wisdom-1", "others"):
            assert it.find_isvc(name)["metadata"]["finalizers"] == kept

    rig(body)


STRSPEC = """\
versions:
- weight: 50
  resources:
  - {gvrShort: isvc, name: wisdom-0, namespace: modelmesh-serving}
  - {gvrShort: cm, name: wisdom-0-weight-config, namespace: modelmesh-serving}
- weight: 50
  resources:
  - {gvrShort: isvc, name: wisdom-1, namespace: modelmesh-serving}
  - {gvrShort: cm, name: wisdom-1-weight-config, namespace: modelmesh-serving}
routingTemplates:
  wisdom:
    gvrShort: vs
    template: |
      apiVersion: networking.istio.io/v1beta1
      kind: VirtualService
      metadata: {name: wisdom}
      spec:
        hosts: [wisdom.modelmesh-serving]
        http:
        - route:
          - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local}
            weight: {{ index .Weights 0 }}
            headers: {request: {set: {mm-vmodel-id: "wisdom-0"}}}
          - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local}
            weight: {{ index .Weights 1 }}
            headers: {request: {set: {mm-vmodel-id: "wisdom-1"}}}
"""


def _kubectls(request: Any) -> bool:
    return str(request.user_agent).startswith("kubectl")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_a_routemap_of_iter8_becomes_a_modelrollout_without_a_failed_request(rig: Any, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "blue-green", tmp_path / "here")
    page = " ".join((DOCS / "migrating-from-iter8.md").read_text().split())

    async def body(it: Any) -> None:
        await it.modelmesh("wisdom-0", "wisdom-1")
        labels = {"iter8.tools/kind": "routemap", "iter8.tools/version": "v0.14"}
        meta = {"name": "wisdom", "namespace": "modelmesh-serving"}
        it.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {**meta, "labels": labels},
                "immutable": True,
                "data": {"strSpec": STRSPEC},
            }
        )
        weights = [{"weight": 20}, {"weight": 80}]
        it.apply(*it.template(templateName="modify-weights", trafficStrategy="blue-green", modelVersions=weights))
        for name in ("wisdom-0", "wisdom-1"):
            it.isvc(name)
            it.api.patch(*ISVC, name, {"metadata": {"finalizers": ["iter8.tools/finalizer"]}}, "modelmesh-serving")
        plane = await it.plane()
        await it.envoy()
        async with Shell(tmp_path, it.api.kubeconfig()) as shell:
            url = f"http://127.0.0.1:{plane.http_port}"

            async def shares() -> str:
                asked = f"python -m headgate.demo.ask --grpc --port {it.port} --host {HOST} --number 400"
                return "\n".join(await shell.run(asked))

            async with it.load(HOST, grpc=True) as ledger:
                await it.until(lambda: ledger.ok, "served")
                seen = "\n".join(await shell.run(f"headgate status --url {url}"))
                print(seen)
                told = "is not rendered, routes are computed: strategy blue-green (split by weights)"
                assert told in seen
                assert f"routing template ... {told}" in page
                first = await shares()
                assert alike(("wisdom-0: 80 (20.0%), p50 -", "wisdom-1: 320 (80.0%), p50 -"), tuple(first.splitlines()))

                init = "headgate template -f 2-initialize.values.yaml -f 4-modify-weights.values.yaml"
                await shell.run(f"{init} --set templateName=initialize-rollout | kubectl apply -f -")
                await it.programmed("modelmesh-serving/wisdom", wisdom_0=20, wisdom_1=80)
                print("\n".join(await shell.run("headgate status -n modelmesh-serving wisdom")))
                await shell.run("kubectl -n modelmesh-serving delete configmap -l iter8.tools/kind=routemap")
                await it.programmed("modelmesh-serving/wisdom", wisdom_0=20, wisdom_1=80)
                second = await shares()
                assert alike(tuple(first.splitlines()), tuple(second.splitlines()))
        assert not ledger.failed, ledger.errors
        finalizers = it.find_isvc("wisdom-1")["metadata"]["finalizers"]
        assert finalizers == ["iter8.tools/finalizer", "headgate.dev/drain"], "each has its own"

    rig(body)
