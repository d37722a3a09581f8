"""When a run cannot be believed, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.outcome import UNATTRIBUTED, UNKNOWN, Sent, Series
from loadgen.plan import Bounds, Load, Plan, Scenario, Target
from loadgen.validity import Self, faults, sustainable

PLAN = Plan("x", (Scenario("a", Target("http://x/"), Load("max", requests=1)),))
WELL = Self("worker 1", sent=10_000, cpu=0.5, lag_p99=0.001, rate=1000.0, planned=10.0, files=(40, 1024))
ACCOUNT = Sent("a", asked=1000, sent=1000, in_flight=0)


def kinds(
    *processes: Self, lag: float | None = 0.001, account: Sent = ACCOUNT, series: tuple[Series, ...] = ()
) -> list[str]:
    return [each.kind for each in faults(PLAN, processes, [account], series, lag)]


def test_a_run_in_which_all_went_well_has_no_faults() -> None:
    assert kinds(WELL) == []
    assert kinds(WELL, lag=None) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"late": 0.5}, "rate"),
        ({"cpu": 0.99}, "cpu"),
        ({"jump": -3.0}, "clock"),
        ({"jump": 0.7}, "clock"),
        ({"files": (1024, 1024)}, "descriptors"),
        ({"lost": "killed by signal 9"}, "worker"),
        ({"troubles": ("request 3 cannot be made",)}, "other"),
    ],
)
def test_each_fault_of_a_process(change: dict[str, object], kind: str) -> None:
    assert kinds(replace(WELL, **change)) == [kind]  # type: ignore[arg-type]


def test_a_little_lateness_at_the_end_is_none() -> None:
    assert kinds(replace(WELL, late=0.04)) == []
    assert kinds(replace(WELL, late=0.9, planned=100.0)) == []


def test_lag_says_what_rate_this_machine_can_hold_where_it_was_the_load_that_made_it_busy() -> None:
    (busy,) = faults(PLAN, [replace(WELL, cpu=0.9)], [], [], 0.05)
    assert busy.kind == "lag"
    assert "50 ms late" in busy.what
    assert "about 840 requests/s" in busy.hint
    (disturbed,) = faults(PLAN, [WELL], [], [], 0.05)
    assert "something else" in disturbed.hint


def test_what_a_process_can_hold_is_reckoned_from_what_its_requests_cost() -> None:
    assert sustainable(WELL, Bounds()) == pytest.approx(1500, rel=0.02)
    assert sustainable(replace(WELL, cpu=0.01), Bounds()) is None


def test_drops_past_the_bound() -> None:
    assert kinds(WELL, account=replace(ACCOUNT, dropped=9)) == []
    assert kinds(WELL, account=replace(ACCOUNT, dropped=11)) == ["dropped"]
    assert kinds(WELL, account=Sent("a", 0, 0, 0)) == []


def test_requests_that_failed_for_lack_of_files_or_ports_of_this_machine() -> None:
    full = Series("a", "v1", ok=90, failed=10, failures={"no room": 10}, samples={"no room": "raise `ulimit -n`"})
    (fault,) = faults(PLAN, [WELL], [ACCOUNT], [full], 0.001)
    assert (fault.kind, "10 requests" in fault.what, "ulimit" in fault.what) == ("descriptors", True, True)


def test_answers_without_a_version_where_others_have_one() -> None:
    v1, unknown = Series("a", "v1", ok=990, codes={"200": 990}), Series("a", UNKNOWN, ok=10, codes={"200": 10})
    assert kinds(WELL, series=(v1, unknown)) == ["version"]
    assert kinds(WELL, series=(unknown,)) == []
    assert kinds(WELL, series=(v1, Series("a", UNATTRIBUTED, failed=500))) == []
