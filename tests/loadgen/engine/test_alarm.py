"""Alarms ring at their moment and not before; lines never wait for a reader."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hub_thread import on_hub

from loadgen.engine import alarm
from loadgen.engine.console import Lines


@pytest.mark.parametrize("helped", [True, False], ids=["timerfd", "the loop's own timers"])
def test_an_alarm_rings_at_its_moment_and_the_last_setting_counts(
    monkeypatch: pytest.MonkeyPatch, helped: bool
) -> None:
    if not helped:
        monkeypatch.setattr(alarm, "_timerfd", lambda: None)

    def act() -> list[float]:
        rung: list[float] = []
        done = Event()

        def ring() -> None:
            rung.append(perf_counter() - start)
            if len(rung) == 1:
                made.set(start + 0.06)
                made.by(start + 25)  # is later: changes nothing
            else:
                done.set()

        made = alarm.Alarm(ring)
        start = perf_counter()
        made.set(start + 25)
        made.by(start + 0.02)  # is earlier: counts
        done.wait(30)
        made.set(perf_counter() + 0.01)
        made.close()
        gevent.sleep(0.03)
        return rung

    rung: Any = on_hub(act)
    assert len(rung) == 2  # a closed alarm does not ring
    assert 0.0199 <= rung[0] < 20
    assert rung[1] >= 0.0599


def test_an_alarm_in_the_past_rings_at_once() -> None:
    def act() -> bool:
        done = Event()
        made = alarm.Alarm(done.set)
        made.set(perf_counter() - 5)
        rung = bool(done.wait(30))
        made.close()
        return rung

    assert on_hub(act)


def test_lines_that_nobody_reads_are_left_out_and_never_cut() -> None:
    def act() -> list[bytes]:
        reader, writer = os.pipe()
        lines = Lines(writer)
        for number in range(50_000):
            lines.write(b"%d " % number + b"x" * 100)
        os.set_blocking(reader, False)
        got = b""
        for _ in range(200):
            lines.flush(0.01)
            try:
                got += os.read(reader, 1 << 20)
            except BlockingIOError:
                break
        os.close(writer)
        os.close(reader)
        return got.splitlines()

    got: Any = on_hub(act)
    assert 1000 < len(got) < 50_000
    assert all(len(each) >= 102 for each in got)
    assert [int(each.split()[0]) for each in got] == sorted(int(each.split()[0]) for each in got)
