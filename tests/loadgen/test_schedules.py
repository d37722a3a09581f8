from pathlib import Path

import pytest

from loadgen.plan import Stage
from loadgen.schedules import seconds, stages, trace
from router.problem import Problem


@pytest.mark.parametrize(("text", "value"), [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["30", "s", "", "-3s", "3 days", "1s2", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("hold 200 for 5m", (Stage(300, 200, 200),)),
        ("ramp 50->200 over 30s, hold 200/s for 1m", (Stage(30, 50, 200), Stage(60, 200, 200))),
        ("Ramp 200 to 0 over 10s", (Stage(10, 200, 0),)),
        ("step 50->200 by 50 every 10s", tuple(Stage(10, rate, rate) for rate in (50, 100, 150, 200))),
        ("step 3->1 by 1 every 1s", tuple(Stage(1, rate, rate) for rate in (3, 2, 1))),
        ("spike 20->500 at 30s for 10s within 1m", (Stage(30, 20, 20), Stage(10, 500, 500), Stage(20, 20, 20))),
        ("spike 20->500 at 0s for 10s within 10s", (Stage(10, 500, 500),)),
    ],
)
def test_schedules(text: str, made: tuple[Stage, ...]) -> None:
    assert stages(text) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("jump 3 for 3s", "'jump 3 for 3s' is no part"),
        ("hold 0 for 3s", "0 all the time"),
        ("hold 5 for 0s", "more than 0 s"),
        ("hold 5 for 200h", "7 days"),
        ("step 1->9 by 0 every 1s", "above 0"),
        ("step 1->9000000 by 1 every 1s", "too many"),
        ("spike 1->9 at 9s for 9s within 10s", "ends after 18 s"),
    ],
)
def test_what_is_no_schedule(text: str, said: str) -> None:
    (problem,) = stages(text)
    assert isinstance(problem, Problem)
    assert said in str(problem)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(stages("jump 3, hold 5 for 1s, hop 4")) == 2


def test_a_trace_is_counted_from_its_first_time(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("time,path\n# of Monday\n1700000000.5,/a\n1700000001.0,/b\n\n1700000003.5,/a\n")
    assert trace(file) == (0.0, 0.5, 3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "holds no times"), ("1\nx\n", ":2: 'x' is not a time"), ("2\n1\n", "earlier"), ("1\nnan\n", "not a time")],
)
def test_what_is_no_trace(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)
    assert said in str(trace(file)[0])


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in str(trace(tmp_path / "none")[0])
