"""Counts, shares and quantiles of answers, and when a share is within what chance allows."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.demo.figures import Answer, Ledger, figures, plausible, quantile


def answer(version="v1", sent=0.0, seconds=0.01, error="", group=""):
    return Answer(sent, seconds, "http", version, error, group)


def test_every_request_is_answered_failed_or_in_flight():
    ledger = Ledger()
    for due in (0.0, 0.0, 0.0, 1.0, 2.0):
        ledger.send(due)
    for one in (answer("v1"), answer("v2"), answer("", error="HTTP 503")):
        ledger.record(one)
    assert (ledger.ok, ledger.failed, ledger.in_flight) == (2, 1, 2)
    assert (ledger.pending(before=1.0), ledger.pending(before=1.5), ledger.pending(before=9.0)) == (0, 1, 2)
    assert ledger.errors == {"HTTP 503": 1}


def test_figures_are_per_version_and_failures_are_not_shares():
    found = figures([answer("v1"), answer("v1", seconds=0.03), answer("v2"), answer("v2", error="HTTP 500")])
    assert (found["v1"].count, found["v1"].errors) == (2, 0)
    assert (found["v2"].count, found["v2"].errors) == (1, 1)
    assert found["v1"].share == pytest.approx(2 / 3)
    assert found["v1"].p99 == 0.03


def test_a_phase_has_what_was_sent_in_it_by_its_group():
    ledger = Ledger()
    for sent, group in ((0.9, "users"), (1.0, "users"), (1.5, "testers"), (2.0, "users")):
        ledger.record(answer(sent=sent, group=group))
    assert [one.sent for one in ledger.answers(1.0, 2.0)] == [1.0, 1.5]
    assert [one.sent for one in ledger.answers(1.0, group="users")] == [1.0, 2.0]


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_and_enough_are_not_above_it(values, part):
    ordered = sorted(values)
    found = quantile(ordered, part)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= part * len(ordered)


def test_the_quantile_of_nothing_is_nan():
    assert math.isnan(quantile([], 0.5))


def test_all_or_nothing_leaves_no_room_for_chance():
    assert plausible(0, 1000, 0.0)
    assert plausible(1000, 1000, 1.0)
    assert not plausible(1, 1000, 0.0)
    assert not plausible(999, 1000, 1.0)


@pytest.mark.parametrize(("count", "verdict"), [(500, True), (452, True), (548, True), (440, False), (560, False)])
def test_half_of_a_thousand_may_be_off_by_some_fifty(count, verdict):
    assert plausible(count, 1000, 0.5) is verdict


def test_chance_alone_is_hardly_ever_called_implausible():
    random = Random(3)
    counts = [sum(random.random() < 0.2 for _ in range(500)) for _ in range(1000)]
    assert sum(not plausible(count, 500, 0.2) for count in counts) <= 5
