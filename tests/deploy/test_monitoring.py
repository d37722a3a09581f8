"""Rules and dashboards: promtool takes them, they are complete, and they ask for figures that there are."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from charts import CHART, DEPLOY, ROOT, Object, of_kind, render

RULES, UNIT_TESTS = DEPLOY / "prometheus/rules.yaml", DEPLOY / "prometheus/rules.test.yaml"
GRAFANA = DEPLOY / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}
DOCS = ("configuration.md", "sidecar.md", "plugins.md")
PROMTOOL = shutil.which("promtool")

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None and not os.environ.get("CI"), reason="promtool is not installed (Debian: prometheus)"
)
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def rules() -> list[Object]:
    return [one for group in yaml.safe_load(RULES.read_text())["groups"] for one in group["rules"]]


def alerts() -> list[Object]:
    return [one for one in rules() if "alert" in one]


def promtool(*arguments: str | Path) -> str:
    assert PROMTOOL is not None, "promtool is not installed (Debian: prometheus)"
    ran = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def known_metrics() -> set[str]:
    """Those that the docs list, which other tests compare with the code, and what Prometheus' client adds."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in DOCS)
    listed = set(re.findall(r"^\| `(headgate_\w+)`", pages, re.MULTILINE))
    return {*listed, "process_cpu_seconds_total", "process_resident_memory_bytes"}


def metrics(expression: str) -> set[str]:
    found = re.findall(r"(?<![:\w\"])(?:headgate|process)_\w+(?!:)", re.sub(r'"[^"]*"', '""', expression))
    return {re.sub(r"_bucket$", "", name) for name in found}


def known_labels() -> set[str]:
    """Second column of the same lists, and what Prometheus adds."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in DOCS)
    columns = re.findall(r"^\| `headgate_\w+` \|([^|]*)\|", pages, re.MULTILINE)
    return {"le", "job", "instance", *(name for column in columns for name in re.findall(r"`(\w+)`", column))}


def grouped(expression: str) -> set[str]:
    lists = re.findall(r"(?:by|on|ignoring) \(([^)]*)\)", expression)
    return {name.strip() for names in lists for name in names.split(",")}


def labels(expression: str) -> set[str]:
    return grouped(expression) | set(re.findall(r'(\w+)(?:=~|!=|!~|=)"', expression))


# Rules


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


@needs_promtool
def test_promtools_tests_of_the_rules_pass() -> None:
    assert "SUCCESS" in promtool("test", "rules", UNIT_TESTS)


@needs_promtool
def test_they_would_fail_with_another_rule(tmp_path: Path) -> None:
    (tmp_path / "rules.test.yaml").write_text(UNIT_TESTS.read_text())
    (tmp_path / "rules.yaml").write_text(RULES.read_text().replace("> 0.05", "> 0.5"))
    with pytest.raises(AssertionError, match="HeadgateVersionErrors"):
        promtool("test", "rules", tmp_path / "rules.test.yaml")


def test_each_alert_is_tested_silent_and_firing() -> None:
    """Silent, too, when all is well: the first test asks for any."""
    first, *rest = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    assert (first["name"], first["promql_expr_test"][0]["expr"]) == ("all is well", "ALERTS")
    told: dict[str, list[bool]] = {}
    for one in rest:
        for asked in one["promql_expr_test"]:
            for name in re.findall(r'^ALERTS\{alertname="(\w+)", alertstate="firing"\}$', asked["expr"]):
                told.setdefault(name, []).append(bool(asked["exp_samples"]))
    assert told == {one["alert"]: [False, True] for one in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda one: one["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(alert: Object) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["for"]
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert said["description"].endswith(".")
    page, _, anchor = said["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert f"\n### {alert['alert']}\n" in (ROOT / page).read_text()


def test_the_runbook_is_of_alerts_that_there_are() -> None:
    headings = re.findall(r"^### (Headgate\w+)$", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(one["alert"] for one in alerts())


def test_names_are_used_once_and_what_is_recorded_is_there() -> None:
    names = [one.get("alert") or one["record"] for one in rules()]
    assert len(names) == len(set(names))
    recorded = {one["record"] for one in rules() if "record" in one}
    used = {name for one in rules() for name in re.findall(r"headgate:\w+:\w+", one["expr"])}
    assert used <= recorded


@pytest.mark.parametrize("rule", rules(), ids=lambda one: one.get("alert") or one["record"])
def test_a_rule_asks_for_metrics_that_there_are(rule: Object) -> None:
    asked = metrics(rule["expr"])
    assert asked <= known_metrics()
    assert asked or "headgate:" in rule["expr"]
    assert labels(rule["expr"]) <= known_labels()


# Dashboards


def test_the_dashboards_come_from_their_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 to write them anew."""
    monkeypatch.syspath_prepend(GRAFANA)
    made = importlib.import_module("dashboards").files()
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        for name, text in made.items():
            (GRAFANA / name).write_text(text)
    assert {path.name: path.read_text() for path in GRAFANA.glob("*.json")} == made
    assert made.keys() == {"rollout.json", "versions.json", "control-plane.json"}


def test_the_chart_has_the_same_rules_and_dashboards() -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 to copy them. (Helm follows no links out of a chart.)"""
    ours = {path.name: path.read_text() for path in (RULES, *GRAFANA.glob("*.json"))}
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        for name, text in ours.items():
            (CHART / "monitoring" / name).write_text(text)
    assert {path.name: path.read_text() for path in (CHART / "monitoring").iterdir()} == ours


def test_the_chart_brings_them_as_they_are() -> None:
    """Prometheus' and Grafana's own braces pass through Helm."""
    objects = render({"prometheusRule": {"enabled": True}, "dashboards": {"enabled": True}})
    (rule,) = of_kind(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    found = {
        file: json.loads(text)
        for one in of_kind(objects, "ConfigMap")
        if one["metadata"]["labels"].get("grafana_dashboard") == "1"
        for file, text in one["data"].items()
    }
    assert found == {f"{name}.json": board for name, board in BOARDS.items()}


def test_no_two_dashboards_share_an_id() -> None:
    assert len({board["uid"] for board in BOARDS.values()} | {board["title"] for board in BOARDS.values()}) == 6


def panels(board: Object) -> Iterator[Object]:
    yield from (one for one in board["panels"] if one["type"] != "row")


@every_board
def test_panels_have_ids_of_their_own_and_do_not_overlap(board: Object) -> None:
    ids = [one["id"] for one in board["panels"]]
    assert len(ids) == len(set(ids))
    taken = [
        (x, y)
        for one in board["panels"]
        for at in [one["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) == 23


@every_board
def test_a_panel_tells_what_it_shows_in_which_unit(board: Object) -> None:
    for one in panels(board):
        defaults = one["fieldConfig"]["defaults"]
        assert one["description"].endswith("."), one["title"]
        assert defaults["unit"], one["title"]
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None
        assert steps[1:] == sorted(steps[1:])
        assert one["targets"]
        assert len({target["refId"] for target in one["targets"]}) == len(one["targets"])


@every_board
def test_variables_are_declared_and_used(board: Object) -> None:
    declared = {one["name"] for one in board["templating"]["list"]}
    wanted = {"datasource", "job"} if board["uid"].endswith("control-plane") else {"datasource", "namespace", "model"}
    assert wanted <= declared
    assert board["templating"]["list"][0]["type"] == "datasource"
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps([one["targets"] for one in panels(board)])))
    assert used - {"__rate_interval"} == declared
    for one in panels(board):
        assert {target["datasource"]["uid"] for target in [one, *one["targets"]]} == {"${datasource}"}


@every_board
def test_panels_ask_for_metrics_that_there_are(board: Object) -> None:
    for one in panels(board):
        for target in one["targets"]:
            asked = metrics(target["expr"])
            assert asked, target["expr"]
            assert asked <= known_metrics(), target["expr"]
            assert labels(target["expr"]) <= known_labels(), target["expr"]


@every_board
def test_a_legend_names_labels_that_the_answer_has(board: Object) -> None:
    """And all of those that tell the lines apart."""
    for one in panels(board):
        for target in one["targets"]:
            told = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            by = set() if target["expr"].startswith("count(") else grouped(target["expr"]) - {"le"}
            plain = "sum" not in target["expr"] and "max" not in target["expr"]
            assert told == ({"instance"} if plain else by), target["expr"]


@needs_promtool
@every_board
def test_prometheus_can_read_every_expression(board: Object, tmp_path: Path) -> None:
    asked = [target["expr"] for one in panels(board) for target in one["targets"]]
    recorded = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__rate_interval", "1m", expression)}
        for number, expression in enumerate(asked)
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", tmp_path / "rules.yaml")
