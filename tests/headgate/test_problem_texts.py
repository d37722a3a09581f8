"""docs/problems.md has every problem that the control plane and its commands can tell of, and nothing else."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import pytest
from problem_texts import VARIES, Text, texts

from headgate.config import read
from router.manifests import parse

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/problems.md"
SECTIONS = {
    "Reading manifests": ("router/documents", "router/manifests", "router/sources/folder", "router/sources/scan",
                          "router/sources/catalog"),
    "Fields of a rollout": ("router/values", "router/words", "router/rules", "router/hints"),
    "Rollouts together, and what is probably not meant": ("router/cautions", "router/hosts", "router/plugins",
                                                          "router/engine"),
    "In a cluster": ("router/sources/kubernetes", "router/cluster/backend", "router/cluster/resolve",
                     "router/cluster/weight"),
    "Routemaps of Iter8": ("router/cluster/routemap", "router/cluster/match", "router/cluster/rollout"),
    "Commands": ("router/cluster/change", "router/cluster/template", "headgate/commands", "router/offline"),
    "The control plane's own files": ("headgate/config", "headgate/certificates", "router/cluster/resource",
                                      "router/state_file"),
}  # fmt: skip
ELSEWHERE = (
    *("headgate/load", "headgate/commands/load", "headgate/experiment", "headgate/commands/experiment"),
    *("headgate/demo", "headgate/show"),
)
"""What load and experiments complain about is on their own pages; what is shown in colours is no problem."""


@functools.cache
def found() -> set[Text]:
    modules = [*(ROOT / "router").rglob("*.py"), *(ROOT / "headgate").rglob("*.py")]
    told = (str(path.relative_to(ROOT)) for path in modules)
    return texts(ROOT, [ROOT / one for one in sorted(told) if not one.startswith(ELSEWHERE)])


def section(one: Text) -> str:
    return next((title for title, begins in SECTIONS.items() if one.module.startswith(begins)), "nowhere")


def table(title: str, everything: set[Text]) -> str:
    hints: dict[str, dict[str, None]] = {}
    for one in sorted(everything):
        if section(one) == title:
            hints.setdefault(one.what, {}).update(dict.fromkeys(filter(None, one.hint.split(" / "))))
    rows = [f"| `{what}` | {'; or: '.join(map(_plain, said)) or '-'} |" for what, said in sorted(hints.items())]
    return "\n".join(["| it says | what to do |", "|---|---|", *rows])


def _plain(text: str) -> str:
    return re.sub(r"([|*_`<>\\])", r"\\\1", text) if text != VARIES else "as it says there"


def test_every_problem_belongs_to_a_section() -> None:
    everything = found()
    assert [one for one in everything if section(one) == "nowhere"] == []
    assert {section(one) for one in everything} == set(SECTIONS)


@pytest.mark.parametrize("title", SECTIONS)
def test_the_page_lists_every_problem(title: str) -> None:
    """Run with HEADGATE_UPDATE_GOLDEN=1 to write the tables anew, then read the difference."""
    page = PAGE.read_text()
    own = re.search(rf"^## {re.escape(title)}\n.*?(^\| it says .*?\n)(?=\n|\Z)", page, re.MULTILINE | re.DOTALL)
    assert own is not None, "each section has a table"
    wanted = table(title, found()) + "\n"
    if os.environ.get("HEADGATE_UPDATE_GOLDEN"):
        PAGE.write_text(page[: own.start(1)] + wanted + page[own.end(1) :])
        return
    assert own[1] == wanted


WRONG = """
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata: {name: Iris, namspace: x}
spec:
  hosts: [Iris.test:80, iris.test, iris.test]
  strategy: canry
  timeouts: {drain: 5}
  sticky: {header: "a b"}
  plugins: [{name: a}, {name: a}]
  versions:
  - {name: v1, weight: "5", backend: {service: {host: "http://x"}}, mirror: {percent: 200}}
  - {name: v1, weight: -1, backend: {endpoints: [nowhere, "1.2.3.4:99999"]}, resources: [deploy]}
  - {name: v3, wieght: 1, match: [{path: {regex: "("}}, {}]}
---
kind: ModelRollout
---
a: [
"""
CONFIG = """
xds: {port: http}
gateways: [{name: a, listeners: [{port: 1}, {port: 1}]}, {name: a}]
"""


def test_what_bad_files_are_told_is_on_the_page(tmp_path: Path) -> None:
    """So the source is read right: what really comes out is among what was found in it."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    of_config = read(config)
    assert isinstance(of_config, tuple)
    problems = [*parse(WRONG.encode(), "wrong.yaml").problems, *of_config]
    assert len(problems) > 20
    known = [re.compile(".*".join(map(re.escape, one.what.split(VARIES))), re.DOTALL) for one in found()]
    specific = [one for one in known if len(one.pattern.replace(".*", "")) > 5]
    assert [one.what for one in problems if not any(each.fullmatch(one.what) for each in specific)] == []
