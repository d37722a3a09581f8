"""docs/tasks.md and docs/experiments.md: every parameter with its default, and examples that are experiments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from loadgen.experiment import condition
from loadgen.experiment.gotemplate import Template
from loadgen.experiment.read import read
from loadgen.experiment.reference import table
from loadgen.experiment.spec import KINDS, RUN

DOCS = Path(__file__).parents[2] / "docs"
TASKS = (DOCS / "tasks.md").read_text()
EXPERIMENTS = (DOCS / "experiments.md").read_text()


def section(kind: str) -> str:
    start = TASKS.index(f"\n## {kind}\n")
    end = TASKS.find("\n## ", start + 1)
    return TASKS[start : end if end >= 0 else None]


@pytest.mark.parametrize("kind", [*KINDS, RUN])
def test_every_parameter_of_a_task_is_documented(kind: str) -> None:
    """`python -m loadgen.experiment.reference KIND` prints the table anew."""
    assert "\n".join(table(kind)) in section(kind)


def blocks(text: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def experiments() -> list[str]:
    """Those that are one, and tasks of one."""
    found = []
    for text in (*blocks(EXPERIMENTS), *blocks(TASKS)):
        if "{{" in text or "jobs:" in text or "artifacts:" in text or "kind: ModelRollout" in text:
            continue
        found.append(text)
    return found


@pytest.mark.parametrize("text", experiments(), ids=lambda text: text.strip().splitlines()[0])
def test_examples_are_experiments(text: str) -> None:
    found = read(text.encode(), "example", DOCS, "example")
    assert found.experiment is not None, "\n".join(map(str, found.problems))


def test_the_example_of_a_template_renders() -> None:
    [source] = [text for text in blocks(TASKS) if "{{" in text]
    made = yaml.safe_load(Template(source).render({"version": "v2", "elapsedTimeSeconds": 30}))
    assert made["url"] == "http://prometheus.monitoring:9090/api/v1/query"
    assert '{version="v2"}[30s]' in made["metrics"][0]["params"][0]["value"]


def test_pipelines_of_the_examples_are_yaml() -> None:
    assert [set(yaml.safe_load(text)) & {"jobs", "experiment"} for text in blocks(EXPERIMENTS) if "pip install" in text]


def test_words_of_conditions_are_documented() -> None:
    for name in condition.FUNCTIONS:
        assert f"`{name}()`" in section("Conditions")
