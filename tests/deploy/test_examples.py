"""The examples: every manifest parses, every command of their pages can be given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from applying import applied, refused
from charts import DEPLOY, ROOT, Object, documents
from click.testing import CliRunner, Result
from kubedouble.fixture import Cluster

from headgate.cli import cli

EXAMPLES = DEPLOY / "examples"
JOURNEYS = sorted(path.parent for path in EXAMPLES.glob("*/README.md"))
PAGES = [*sorted(EXAMPLES.rglob("README.md")), DEPLOY / "kustomize/README.md", ROOT / "docs/install.md"]
NAMESPACE = "modelmesh-serving"

every_journey = pytest.mark.parametrize("folder", JOURNEYS, ids=lambda path: path.name)


def commands(page: Path) -> Iterator[str]:
    """The command lines in a page's blocks, continued lines joined."""
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        yield from re.sub(r" *\\\n *", " ", block).splitlines()


def invoked(line: str) -> Result:
    return CliRunner().invoke(cli, shlex.split(line.partition("|")[0])[1:])


def manifests(folder: Path) -> list[Object]:
    paths = [path for path in sorted(folder.glob("*.yaml")) if ".values." not in path.name]
    return list(documents(path.read_text() for path in paths))


def templated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Object]:
    monkeypatch.chdir(folder)
    lines = [line for line in commands(folder / "README.md") if line.startswith("headgate template")]
    found: list[Object] = []
    for line in lines:
        result = invoked(line)
        assert result.exit_code == 0, f"{line}: {result.output}"
        assert not result.stderr, f"{line}: {result.stderr}"
        found += yaml.safe_load_all(result.stdout)
    return found


def test_there_is_one_for_each_tutorial() -> None:
    assert [folder.name for folder in JOURNEYS] == ["blue-green", "canary", "mirror"]


@every_journey
def test_the_steps_are_numbered_in_the_order_of_the_page(folder: Path) -> None:
    files = sorted(path.name for path in folder.glob("[0-9]*.yaml"))
    assert [name.partition("-")[0] for name in files] == [str(number + 1) for number in range(len(files))]
    mentioned = re.findall(r"-f (\d-[\w.-]+)", (folder / "README.md").read_text())
    assert list(dict.fromkeys(mentioned)) == files


@every_journey
def test_the_models_are_watched_and_named_as_the_rollout_expects(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = manifests(folder)
    assert [one["metadata"]["name"] for one in models] == ["wisdom-0", "wisdom-1", "wisdom-0"]
    assert all(one["metadata"]["labels"]["iter8.tools/watch"] == "true" for one in models)
    primary, candidate, promoted = (one["metadata"]["labels"]["app.kubernetes.io/version"] for one in models)
    assert primary != candidate == promoted
    rollout = next(one for one in templated(folder, monkeypatch) if one["kind"] == "ModelRollout")
    assert [version["name"] for version in rollout["spec"]["versions"]] == ["wisdom-0", "wisdom-1"]
    assert rollout["metadata"]["namespace"] == NAMESPACE
    assert "wisdom.modelmesh-serving" in rollout["spec"]["hosts"]


@every_journey
def test_an_api_server_takes_what_its_commands_print(
    cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in templated(folder, monkeypatch)}
    assert any(kind == "ModelRollout" for kind, _ in objects)
    assert not refused(applied(cluster, list(objects.values()), NAMESPACE))


def test_the_strategies_do_what_their_pages_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidate(name: str) -> Any:
        objects = templated(EXAMPLES / name, monkeypatch)
        return next(one for one in objects if one["kind"] == "ModelRollout")["spec"]["versions"][1]

    assert candidate("blue-green")["weight"] == 50
    assert candidate("mirror")["mirror"] == {"percent": 100}
    assert candidate("canary")["match"] == [{"headers": [{"name": "traffic", "exact": "test"}]}]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_every_headgate_command_in_a_page_exists(page: Path) -> None:
    named = re.findall(r"(?:^|`|&& |\| )headgate ([a-z]+)(?: ([a-z]+))?", page.read_text(), re.MULTILINE)
    for command, below in named:
        assert command in cli.commands, f"{page}: headgate {command} ({below})"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_every_file_that_a_command_names_exists(page: Path) -> None:
    base = page.parent if page.is_relative_to(EXAMPLES) else ROOT
    for line in commands(page):
        for name in re.findall(r"(?:-f|-k) ([\w./-]+)", line):
            given = name.startswith(("deploy/", "1", "2", "3", "4", "5", "other"))
            assert not given or (base / name).exists(), line
