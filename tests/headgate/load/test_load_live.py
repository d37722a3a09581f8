import contextlib
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from headgate.load.live import View, line, picture
from loadgen.outcome import Progress, Row

ROWS = (Row("main", "v1", 900, 0, 90.0, 0.012, 0.08), Row("main", "v2", 100, 7, 10.0, 0.013, None))
RUNNING = Progress("running", 10.0, 40.0, 100.0, 1000, 99.0, 3, 0.0004, 2, ROWS, "")


def drawn(progress: Progress, width: int = 110) -> list[str]:
    console = Console(file=StringIO(), width=width, no_color=True)
    console.print(picture(progress, ["worker 2 is lost: killed by signal 9"]))
    assert isinstance(console.file, StringIO)
    return [each.rstrip() for each in console.file.getvalue().splitlines()]


def test_the_view_shows_rate_lag_and_each_version() -> None:
    head, bar, titles, v1, v2, note = drawn(RUNNING)
    assert " ".join(head.split()) == (
        "running 10 s of 40 s 99/s of 100/s 1,000 sent, 3 in flight lag p99 400 µs 2 processes"
    )
    assert len(bar) == 60
    assert titles.split() == ["scenario", "version", "requests", "per", "second", "errors", "p50", "p99"]
    assert v1.split() == ["main", "v1", "900", "90", "0", "12", "ms", "80", "ms"]
    assert v2.split() == ["main", "v2", "100", "10", "7", "(7", "%)", "13", "ms", "-"]
    assert note == "worker 2 is lost: killed by signal 9"


def test_a_line_for_logs_says_the_same() -> None:
    assert line(RUNNING) == (
        "10 s  running  99/s of 100/s  3 in flight  lag p99 400 µs  v1: 900, p50 12 ms, p99 80 ms  "
        "v2: 100, 7 errors, p50 13 ms, p99 -"
    )


def test_nothing_answered_yet_and_no_end_known() -> None:
    early = Progress("starting", 0.0, None, None, 0, 0.0, 0, None, 1)
    assert drawn(early)[0].startswith("starting  0 s")
    assert "lag p99 -" in drawn(early)[0]
    assert "lag p99 -" in line(replace(early, phase="running"))


def test_waiting_for_workers_is_told_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    early = Progress("starting", 0.0, None, None, 0, 0.0, 0, None, 0, (), "1 of 2 workers are there")
    with View() as view:
        for at in range(7):
            view(replace(early, at=float(at)))
    said = [
        "1 of 2 workers are there",
        "0 s  starting  1 of 2 workers are there",
        "5 s  starting  1 of 2 workers are there",
    ]
    assert capsys.readouterr().err.splitlines() == said


def test_a_view_that_nobody_can_read_any_more_does_not_end_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[View] = []
    with contextlib.suppress(OSError), Path("/dev/full").open("w", buffering=1) as full:  # closing it fails, too
        monkeypatch.setattr(sys, "stderr", full)
        with View() as view:
            view(RUNNING)
            view(replace(RUNNING, phase="draining"))
        told.append(view)
    assert told
