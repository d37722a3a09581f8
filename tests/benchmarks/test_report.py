import json
import math

import pytest

from benchmarks.report import Figure, Report, arguments, layout, machine, number


@pytest.mark.parametrize(
    ("value", "want", "passed"),
    [(3.0, "at most", True), (3.1, "at most", False), (3.0, "at least", True), (2.9, "at least", False)],
)
def test_a_target_is_met_up_to_and_including_its_value(value, want, passed):
    assert Figure("f", value, "ms", 3.0, want).passed is passed


@pytest.mark.parametrize("want", ["at most", "at least"])
def test_what_could_not_be_measured_misses_its_target(want):
    assert not Figure("f", math.nan, "ms", 3.0, want).passed


def test_a_figure_without_a_target_is_only_told():
    figure = Figure("f", 1e9, "bytes")
    assert figure.passed
    assert str(figure) == "f: 1,000,000,000 bytes"


def test_the_exit_code_and_the_last_line_tell_a_miss(capsys):
    report = Report("demo")
    report.figure("met", 1.0, "ms", 2.0)
    report.figure("missed", 3.0, "ms", 2.0)
    assert report.close() == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "demo MISS: missed: 3 ms (target at most 2 ms) MISS; 1 other target met"


def test_the_exit_code_and_the_last_line_tell_that_all_is_met(capsys):
    report = Report("demo")
    report.figure("slower", 153.0, "x", 100.0, "at least", headline=True)
    report.figure("p99", 4.0, "ms", 10.0)
    report.figure("memory", 900.0, "MB")
    assert report.close() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "demo PASS: slower: 153x (target at least 100x) PASS; 1 other target met"


def test_the_json_holds_what_was_printed(tmp_path, capsys):
    report = Report("demo", {"cores": 2})
    report.table("Times", ("what", "ms"), [["ours", 1.5]])
    report.figure("p50", 1.5, "ms", 3.0)
    report.close(tmp_path / "demo.json")
    written = json.loads((tmp_path / "demo.json").read_text())
    assert written["machine"] == {"cores": 2}
    assert written["passed"] is True
    assert written["figures"][0]["value"] == 1.5
    assert written["tables"] == [{"title": "Times", "columns": ["what", "ms"], "rows": [["ours", 1.5]]}]
    assert "1.50" in capsys.readouterr().out


def test_a_figure_that_could_not_be_measured_leaves_valid_json(tmp_path):
    report = Report("demo")
    report.figure("p50", math.nan, "ms", 3.0)
    report.close(tmp_path / "demo.json")

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    written = json.loads((tmp_path / "demo.json").read_text(), parse_constant=refuse)
    assert written["figures"][0]["value"] is None


def test_a_table_lines_its_columns_up():
    assert layout(("name", "ms"), [["a", 1.25], ["longer", 1234.5]]).splitlines() == [
        "  name       ms",
        "  ------  -----",
        "  a        1.25",
        "  longer  1,234",
    ]


@pytest.mark.parametrize(
    ("value", "told"), [(0.6304, "0.630"), (1.884, "1.88"), (88.49, "88.5"), (1830334.0, "1,830,334"), (3.0, "3")]
)
def test_numbers_keep_three_digits(value, told):
    assert number(value) == told


def test_the_machine_is_described():
    assert {"cores", "CPU", "Python", "Envoy"} <= machine().keys()


def test_every_benchmark_takes_json_and_quick(tmp_path):
    chosen = arguments("what it shows", ["--json", str(tmp_path / "a.json"), "--quick"])
    assert (chosen.json, chosen.quick) == (tmp_path / "a.json", True)
