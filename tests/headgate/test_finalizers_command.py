"""`headgate finalizers` against an API server, with no control plane anywhere."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kubedouble import ApiServer, User
from kubedouble.errors import ApiError

from headgate.cli import cli

ROOT = Path(__file__).parents[2]
FINALIZER = "headgate.dev/drain"
POD = {"metadata": {"labels": {"app": "m"}}, "spec": {"containers": [{"name": "m", "image": "m"}]}}
CUSTOM = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servers.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"kind": "Server", "plural": "servers", "singular": "server", "shortNames": ["srv"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


class Kube:
    """An API server on a thread of its own, as the commands bring their own loop."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.folder = folder
        self.begin()

    def begin(self, **options: Any) -> None:
        self.api = ApiServer(**options)
        self._run(self.api.start())
        self.config = self.api.kubeconfig(self.folder / "config", token=next(iter(options.get("tokens", {})), None))
        self.api.create(CUSTOM)

    def end(self) -> None:
        self._run(self.api.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def call(self, function: Callable[[], Any]) -> Any:
        async def called() -> Any:
            return function()

        return self._run(called())

    def deployment(self, name: str, namespace: str = "default", *finalizers: str, deleted: bool = False) -> None:
        obj = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace, "finalizers": list(finalizers)},
            "spec": {"selector": {"matchLabels": {"app": "m"}}, "template": POD},
        }
        self.call(lambda: self.api.apply(obj))
        if deleted:
            self.call(lambda: self.api.delete("apps/v1", "Deployment", name, namespace))

    def server(self, name: str) -> None:
        meta = {"name": name, "namespace": "default", "finalizers": [FINALIZER]}
        self.call(lambda: self.api.apply({"apiVersion": "example.com/v1", "kind": "Server", "metadata": meta}))

    def finalizers(self, name: str, namespace: str = "default", kind: str = "Deployment") -> list[str] | None:
        """None when it is gone."""
        version = "apps/v1" if kind == "Deployment" else "example.com/v1"
        try:
            return self.call(lambda: self.api.get(version, kind, name, namespace))["metadata"].get("finalizers", [])
        except ApiError:
            return None

    def run(self, *arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(
            cli, ["finalizers", *arguments, "--kubeconfig", str(self.config)], input=typed, env={"HEADGATE_URL": ""}
        )


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    made = Kube(tmp_path)
    yield made
    made.end()


def test_list_shows_who_carries_it_and_what_it_waits_for(kube: Kube) -> None:
    kube.deployment("iris", "default", FINALIZER)
    kube.deployment("plain", "default", "a.example/other")
    kube.deployment("old", "default", FINALIZER, deleted=True)
    uid = kube.call(lambda: kube.api.get("apps/v1", "Deployment", "old", "default"))["metadata"]["uid"]
    for index, words in enumerate(("waiting for the routes", "waiting for [3] requests")):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"old.{index}", "namespace": "default"},
            "involvedObject": {"kind": "Deployment", "name": "old", "namespace": "default", "uid": uid},
            "message": words,
            "source": {"component": "headgate"},
            "lastTimestamp": f"2026-01-01T00:00:0{index}Z",
        }
        kube.call(lambda event=event: kube.api.create(event))
    result = kube.run("list")
    assert result.exit_code == 0, result.output
    _, iris, old, last = result.stdout.splitlines()
    assert iris.split() == ["default", "deploy/iris", "-", "-"]
    assert "deploy/old" in old
    assert old.endswith("waiting for [3] requests")
    assert last == "2 objects in the namespace default"
    found = json.loads(kube.run("list", "-o", "json").stdout)
    assert [(one["name"], one["why"]) for one in found] == [("iris", None), ("old", "waiting for [3] requests")]


def test_release_of_all_finds_every_type_in_every_namespace_and_nothing_else_of_them(kube: Kube) -> None:
    kube.call(lambda: kube.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))
    kube.deployment("iris", "default", "b.example/x", FINALIZER, "a.example/y")
    kube.deployment("old", "shop", FINALIZER, deleted=True)
    kube.server("mine")
    result = kube.run("release", "--all", "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "deploy/default/iris: released",
        "servers/default/mine: released",
        "deploy/shop/old: released",
    ]
    assert kube.finalizers("iris") == ["b.example/x", "a.example/y"]
    assert kube.finalizers("old", "shop") is None
    assert kube.finalizers("mine", kind="Server") == []
    assert "nothing carries" in kube.run("release", "--all", "--yes").stdout


def test_release_of_one_namespace_leaves_the_others(kube: Kube) -> None:
    kube.call(lambda: kube.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))
    kube.deployment("iris", "default", FINALIZER)
    kube.deployment("wine", "shop", FINALIZER)
    assert kube.run("release", "--all", "--yes", "-n", "shop").exit_code == 0
    assert (kube.finalizers("iris"), kube.finalizers("wine", "shop")) == ([FINALIZER], [])


@pytest.mark.parametrize(
    "name", ["deploy/iris", "deployments/default/iris", "Deployment/iris", "deployments.apps/iris"]
)
def test_release_of_one_object_by_any_of_its_names(kube: Kube, name: str) -> None:
    kube.deployment("iris", "default", FINALIZER)
    kube.deployment("wine", "default", FINALIZER)
    result = kube.run("release", name, "--yes")
    assert (result.exit_code, result.stdout) == (0, "deploy/default/iris: released\n")
    assert (kube.finalizers("iris"), kube.finalizers("wine")) == ([], [FINALIZER])


def test_an_object_that_does_not_carry_it_is_left_alone(kube: Kube) -> None:
    kube.deployment("iris", "default", "a.example/x")
    result = kube.run("release", "deploy/iris", "--yes")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "deploy/default/iris: does not carry the finalizer")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "name the objects as TYPE/NAME, or give --all"),
        (("deploy/iris", "--all"), 2, "name the objects as TYPE/NAME, or give --all"),
        (("iris", "--yes"), 2, "'iris' is not an object: write TYPE/NAME"),
        (("deplyo/iris", "--yes"), 2, "did you mean 'deploy'?"),
        (("deploy/missing", "--yes"), 1, '"missing" not found'),
        (("deploy/iris",), 2, "nobody can be asked here: add --yes"),
    ],
)
def test_mistakes_change_nothing_and_are_explained(
    kube: Kube, arguments: tuple[str, ...], code: int, words: str
) -> None:
    kube.deployment("iris", "default", FINALIZER)
    result = kube.run("release", *arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert kube.finalizers("iris") == [FINALIZER]


@pytest.mark.parametrize(("typed", "left"), [("y\n", []), ("n\n", [FINALIZER])])
def test_on_a_terminal_it_asks(kube: Kube, monkeypatch: pytest.MonkeyPatch, typed: str, left: list[str]) -> None:
    monkeypatch.setattr("headgate.commands.finalizers.is_terminal", lambda stream: True)
    kube.deployment("iris", "default", FINALIZER)
    result = kube.run("release", "--all", typed=typed)
    assert "Release 1 object?" in result.output
    assert kube.finalizers("iris") == left


def test_one_object_that_cannot_be_written_does_not_keep_the_others(kube: Kube) -> None:
    for name in ("a", "b"):
        kube.deployment(name, "default", FINALIZER)
    kube.api.faults.answer(500, 1, matches=lambda asked: asked.method == "PATCH" and asked.path.endswith("/a"))
    result = kube.run("release", "--all", "--yes")
    assert result.exit_code == 1
    assert "deploy/default/a" in result.stderr
    assert "1 of 2 objects could not be released" in result.stderr
    assert (kube.finalizers("a"), kube.finalizers("b")) == ([FINALIZER], [])


def test_a_conflict_is_met_with_another_look(kube: Kube) -> None:
    kube.deployment("iris", "default", FINALIZER)
    kube.api.faults.conflict(3)
    assert kube.run("release", "--all", "--yes").exit_code == 0
    assert kube.finalizers("iris") == []


def rights(kube: Kube, namespace: str = "") -> None:
    """Those of the uninstall job, of one namespace or of all."""
    rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]}]
    scope, place = ("", {"namespace": namespace}) if namespace else ("Cluster", {})
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": f"{scope}Role",
        "metadata": {"name": "release", **place},
        "rules": rules,
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": f"{scope}RoleBinding",
        "metadata": {"name": "release", **place},
        "roleRef": {"apiGroup": group, "kind": f"{scope}Role", "name": "release"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "job"}],
    }
    for one in (role, binding):
        kube.call(lambda one=one: kube.api.create(one))


@pytest.mark.parametrize(("namespace", "arguments"), [("", ()), ("default", ()), ("default", ("-n", "default"))])
def test_the_rights_of_the_uninstall_job_are_enough(kube: Kube, namespace: str, arguments: tuple[str, ...]) -> None:
    kube._run(kube.api.stop())
    kube.begin(tokens={"secret": User("job", ("system:authenticated",))}, rbac=True)
    rights(kube, namespace)
    kube.deployment("iris", "default", FINALIZER)
    result = kube.run("release", "--all", "--yes", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "deploy/default/iris: released\n"
    assert "types could not be looked at" in result.stderr
    assert kube.finalizers("iris") == []


def test_who_may_see_nothing_is_told_so(kube: Kube) -> None:
    kube._run(kube.api.stop())
    kube.begin(tokens={"secret": User("job", ("system:authenticated",))}, rbac=True)
    result = kube.run("release", "--all", "--yes")
    assert result.exit_code == 1
    assert "forbidden" in result.stderr


def test_every_option_of_the_two_is_documented() -> None:
    import click

    text = (ROOT / "docs" / "cli.md").read_text()
    group = cli.commands["finalizers"]
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        section = text[text.index(f"### `headgate finalizers {name}") :]
        section = section[: section.index("```")]
        options = [one for each in command.params if isinstance(each, click.Option) for one in each.opts]
        assert options
        assert not [one for one in options if f"`{one}`" not in section]


def test_headgates_own_crd_is_not_needed(kube: Kube) -> None:
    assert kube.run("list", "-A").stdout == "0 objects in all namespaces\n"
