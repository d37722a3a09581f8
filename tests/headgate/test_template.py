"""`headgate template` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from headgate.cli import cli

BLUE_GREEN = """\
templateName: initialize-rollout
targetEnv: kserve-modelmesh
trafficStrategy: blue-green
modelName: wisdom
"""


def template(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, ["template", *arguments], input=stdin)


def documents(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def test_values_come_from_standard_input() -> None:
    found = documents(template("-f", "-", stdin=BLUE_GREEN))
    assert [one["kind"] for one in found] == ["ModelRollout", "ConfigMap", "ConfigMap"]


def test_later_values_win(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(BLUE_GREEN)
    second.write_text("trafficStrategy: mirror\nmodelVersions: [{}, {weight: 30}]\n")
    found = documents(
        template("-f", str(first), "-f", str(second), "--set", "modelName=iris,modelVersions[1].weight=20")
    )
    assert found[0]["metadata"]["name"] == "iris"  # type: ignore[index]
    assert found[0]["spec"]["versions"][1]["mirror"] == {"percent": 20}  # type: ignore[index]


def test_settings_alone_suffice() -> None:
    settings = "action=initialize,appType=deployment,strategy=canary,appName=app"
    found = documents(template("--set", settings, "-n", "team"))
    assert found[0]["metadata"]["namespace"] == "team"  # type: ignore[index]


def test_mistakes_go_to_stderr_all_at_once() -> None:
    result = template("-f", "-", stdin="templateName: initialise-rollout\nmodelName: wisdom\n")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "error: values: templateName: 'initialise-rollout' is not known (did you mean 'initialize-rollout'?)",
        "error: values: trafficStrategy: Unknown trafficStrategy (use one of blue-green, canary, mirror)",
    ]


def test_a_warning_does_not_keep_the_manifests_back() -> None:
    result = template("-f", "-", stdin=BLUE_GREEN + "externalGateway: mm-gateway\n")
    assert len(documents(result)) == 3
    assert result.stderr.startswith("warning: values: externalGateway: is not used")


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ((), "", "no values"),
        (("-f", "nowhere.yaml"), "", "cannot read nowhere.yaml: no such file or directory"),
        (("-f", "-"), "a: [", "stdin:"),
        (("-f", "-"), "- a", "the values are not a mapping"),
        (("-f", "-"), "a: 1\n---\nb: 2", "more than one document"),
        (("-f", "-"), "a: 1\na: 2", "stdin:2"),
        (("--set", "oops"), "", "is not KEY=VALUE"),
        (("--set", "a..b=1"), "", "is not KEY=VALUE"),
    ],
)
def test_what_cannot_be_read_is_bad_input(arguments: tuple[str, ...], stdin: str, message: str) -> None:
    result = template(*arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
