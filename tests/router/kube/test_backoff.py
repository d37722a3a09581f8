"""Waiting before the next try."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from router.kube.backoff import Backoff


@given(st.lists(st.floats(0, 0.999), min_size=50, max_size=50))
def test_an_outage_of_five_seconds_costs_few_tries_and_a_long_one_is_noticed_to_end(dice):
    backoff = Backoff()
    now, tries = 0.0, []
    for one in dice:
        tries.append(now)
        now = backoff.failed(now, one)
    assert sum(1 for at in tries if at <= 5.0) <= 10
    assert all(later - earlier <= backoff.most + 1e-6 for earlier, later in pairwise(tries))


def test_the_same_trouble_seen_by_many_counts_once():
    backoff = Backoff(first=1.0)
    first = backoff.failed(0.0, 0.0)
    assert [backoff.failed(0.5, 0.0) for _ in range(20)] == [first] * 20


def test_a_server_that_fails_on_and_off_is_asked_less_and_less_and_a_well_one_is_forgiven():
    backoff = Backoff(first=1.0, forget=10.0)
    assert backoff.failed(0.0, 0.0) == 1.0
    backoff.worked(1.0)
    assert backoff.failed(2.0, 0.0) == 4.0
    backoff.worked(4.0)
    assert backoff.failed(15.0, 0.0) == 16.0


def test_what_the_server_asks_for_is_waited():
    assert Backoff(first=0.1).failed(0.0, 0.5, at_least=7.0) == 7.0
