"""docs/slo.md knows every figure and exit code, and its examples and numbers are true."""

import re
from pathlib import Path

import pytest

from loadgen.slo import intervals
from loadgen.slo.figures import DURATIONS, SINGLE
from loadgen.slo.language import parse_all
from loadgen.slo.verdict import ExitCode

PAGE = (Path(__file__).parents[3] / "docs" / "slo.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*SINGLE, *(f"{metric}-STAT" for metric in DURATIONS)])
def test_every_figure_is_described(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_example_is_an_slo() -> None:
    (block,) = re.findall(r"```slo\n(.*?)```", PAGE, re.DOTALL)
    slos, problems = parse_all(block.splitlines())
    assert not problems
    assert len(slos) == 8


def test_every_exit_code_is_described() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)}
    assert {int(code) for code in ExitCode} | {130} == codes


def test_the_numbers_of_samples_are_those_that_verdicts_take() -> None:
    assert [intervals.percentile_needs(percent, 0.95) for percent in (50, 90, 95, 99, 99.9)] == [6, 36, 72, 368, 3688]
    assert [intervals.share_needs(limit, 0.95) for limit in (0.01, 0.001)] == [368, 3688]
    assert "6, 36, 72, 368, 3,688" in PAGE
    assert "368, 3,688 |" in PAGE
