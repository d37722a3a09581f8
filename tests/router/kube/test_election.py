"""The rules of the Lease, played by hand and by chance."""

from __future__ import annotations

import copy
import heapq
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.kube.election import Election, Lease, Read, Timing, Wait, Write

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE = 5.0


def wall(now: float) -> datetime:
    return NOON + timedelta(seconds=now)


class Shelf:
    """The API server's part: one Lease, replaced only by who knows its newest version."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.version = 0

    def write(self, write: Write) -> Lease | None:
        known = None if write.create else write.lease["metadata"].get("resourceVersion")
        held = None if self.lease is None else self.lease["metadata"]["resourceVersion"]
        if known != held:
            return None
        self.version += 1
        meta = {**write.lease["metadata"], "resourceVersion": str(self.version)}
        self.lease = copy.deepcopy({**write.lease, "metadata": meta})
        return copy.deepcopy(self.lease)

    def read(self) -> Lease | None:
        return copy.deepcopy(self.lease)


def replica(name: str) -> Election:
    return Election("ns", "headgate", name)


def turn(one: Election, shelf: Shelf, now: float, clock: float = 0.0) -> Any:
    """Everything the replica does at this moment; the Wait it ends with."""
    while not isinstance(step := one.next(now, wall(now + clock)), Wait):
        if isinstance(step, Read):
            one.found(shelf.read(), now)
        elif (lease := shelf.write(step)) is not None:
            one.wrote(lease, now)
        else:
            one.refused(now)
    return step


def test_the_first_to_come_leads_and_renews():
    shelf, one, two = Shelf(), replica("one"), replica("two")
    turn(one, shelf, 0.0)
    turn(two, shelf, 0.1)
    assert (one.leads(0.2), two.leads(0.2), two.holder) == (True, False, "one")
    for now in range(0, 100, 2):
        turn(one, shelf, now)
        turn(two, shelf, now + 1.0)
        assert one.leads(now + 1.0)
        assert not two.leads(now + 1.0)
    assert shelf.lease["spec"]["leaseTransitions"] == 0


def test_a_lease_is_dead_only_after_its_duration_has_been_watched():
    shelf, one, two = Shelf(), replica("one"), replica("two")
    turn(one, shelf, 0.0)
    turn(two, shelf, 100.0)  # started late: it has not seen how long the Lease has been like that
    for now in range(101, 115):
        turn(two, shelf, now)
        assert not two.leads(now)
    turn(two, shelf, 115.5)
    assert two.number == 1


@pytest.mark.parametrize("skew", [-1e6, -20.0, 20.0, 1e6])
def test_clocks_that_differ_change_nothing(skew):
    shelf, one, two = Shelf(), replica("one"), replica("two")
    for now in range(60):
        turn(one, shelf, now)
        turn(two, shelf, now + 0.5, clock=skew)
        assert one.leads(now)
        assert not two.leads(now + 0.5)


def test_a_renewal_under_a_clock_that_stands_still_is_still_seen():
    shelf, one = Shelf(), replica("one")
    stamps = []
    for now in range(0, 20, 2):
        turn(one, shelf, now, clock=-now)
        stamps.append(shelf.lease["spec"]["renewTime"])
    assert len(set(stamps)) == 10


def test_who_cannot_renew_stops_before_another_can_begin():
    one = replica("one")
    turn(one, Shelf(), 0.0)
    now = 0.0
    while one.leads(now):
        step = one.next(now, wall(now))
        if isinstance(step, Wait):
            now = max(now, min(step.until, one.ends_at))
        else:
            one.failed(now)
    assert now == one.timing.deadline < one.timing.duration


def test_who_comes_back_after_its_term_ran_out_begins_a_new_one():
    shelf, one = Shelf(), replica("one")
    turn(one, shelf, 0.0)
    assert not one.leads(11.0)
    turn(one, shelf, 11.0)
    assert (one.leads(11.0), one.number) == (True, 1)


def test_a_renewal_that_took_long_counts_from_when_it_was_sent():
    shelf, one = Shelf(), replica("one")
    turn(one, shelf, 0.0)
    step = one.next(2.0, wall(2.0))
    one.wrote(shelf.write(step), sent=2.0)  # the answer came at 9.0
    assert one.ends_at == 12.0


def test_a_write_whose_answer_was_lost_is_recognized():
    shelf, one = Shelf(), replica("one")
    one.found(shelf.read(), 0.0)
    shelf.write(one.next(0.0, wall(0.0)))
    one.failed(0.0)
    assert not one.leads(0.0)
    turn(one, shelf, 1.0)
    assert one.leads(1.0)


def test_who_sees_another_holder_leads_no_longer():
    shelf, one = Shelf(), replica("one")
    turn(one, shelf, 0.0)
    shelf.lease["spec"]["holderIdentity"] = "two"
    shelf.lease["metadata"]["resourceVersion"] = "x"
    turn(one, shelf, 2.0)
    turn(one, shelf, 2.5)
    assert not one.leads(2.5)


def test_a_deleted_lease_still_binds_those_who_saw_it_and_is_written_anew():
    shelf, one, two = Shelf(), replica("one"), replica("two")
    turn(one, shelf, 0.0)
    turn(two, shelf, 0.5)
    shelf.lease = None
    turn(two, shelf, 1.5)
    assert not two.leads(1.5)
    turn(one, shelf, 2.0)
    turn(one, shelf, 2.5)
    assert one.leads(2.5)
    assert shelf.lease["spec"]["holderIdentity"] == "one"


def test_a_lease_that_was_given_up_passes_on_at_the_next_look_with_a_higher_number():
    shelf, one, two = Shelf(), replica("one"), replica("two")
    turn(one, shelf, 0.0)
    turn(two, shelf, 0.5)
    shelf.write(one.resign(wall(1.0)))
    assert shelf.lease["spec"]["leaseDurationSeconds"] == 1
    turn(two, shelf, 1.5)
    assert two.leads(1.5)
    assert (two.number, shelf.lease["spec"]["leaseTransitions"]) == (1, 1)


def test_only_the_holder_can_give_up():
    shelf, one, two = Shelf(), replica("one"), replica("two")
    turn(one, shelf, 0.0)
    turn(two, shelf, 0.5)
    assert two.resign(wall(1.0)) is None


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None}, {"leaseTransitions": "x", "renewTime": "soon"}])
def test_a_lease_somebody_made_by_hand_can_be_taken(spec):
    shelf, one = Shelf(), replica("one")
    shelf.lease = {"metadata": {"name": "headgate", "resourceVersion": "7", "labels": {"a": "b"}}, "spec": spec}
    turn(one, shelf, 0.0)
    assert one.leads(0.0)
    assert shelf.lease["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("lasts", [None, 0, -3, "15"])
def test_a_holder_that_does_not_say_for_how_long_gets_our_duration(lasts):
    shelf, one = Shelf(), replica("one")
    spec = {"holderIdentity": "other", "leaseDurationSeconds": lasts}
    shelf.lease = {"metadata": {"name": "headgate", "resourceVersion": "7"}, "spec": spec}
    for now in range(15):
        turn(one, shelf, now)
    assert not one.leads(14.0)
    turn(one, shelf, 15.9)
    assert one.leads(15.9)


def test_a_storm_of_conflicts_is_answered_in_measure():
    shelf, one = Shelf(), replica("one")
    turn(one, shelf, 0.0)
    now, asked = 2.0, 0
    while one.leads(now):
        step = one.next(now, wall(now))
        if isinstance(step, Wait):
            now = max(now, min(step.until, one.ends_at))
            continue
        asked += 1
        one.found(shelf.read(), now) if isinstance(step, Read) else one.refused(now)
    assert 10 < asked <= 100


def test_timings_that_could_overlap_are_refused():
    with pytest.raises(ValueError, match="renew < deadline < duration"):
        Timing(duration=10.0, deadline=10.0)


def test_another_duration_keeps_the_proportions():
    assert Timing.of(15.0) == Timing()
    assert Timing.of(3.0) == Timing(duration=3.0, deadline=2.0, renew=0.4, poll=0.2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_there_is_never_more_than_one_leader(seed):
    """Three replicas with clocks of their own; requests and answers late or lost; processes stopped for a while.

    A replica acts on `leads` at the very moment it asks, as a write does that checks its term first.
    """
    chance = random.Random(seed)
    shelf, timing = Shelf(), Timing()
    replicas = [Election("ns", "headgate", f"r{number}", timing) for number in range(3)]
    offsets = [chance.uniform(-1e5, 1e5) for _ in replicas]
    skews = [chance.uniform(-1e4, 1e4) for _ in replicas]
    trouble = chance.choice([0.0, 0.1, 0.5])
    numbers: list[int] = []
    led: set[int] = set()
    agenda: list[tuple[float, int, int, Any]] = []
    order = 0

    def at(when: float, who: int, what: Any) -> None:
        nonlocal order
        order += 1
        heapq.heappush(agenda, (when, order, who, what))

    def act(now: float, who: int) -> None:
        one, mine = replicas[who], now + offsets[who]
        if chance.random() < trouble / 50:
            at(now + chance.uniform(0, 40), who, ("act",))  # stopped
            return
        step = one.next(mine, wall(now + skews[who]))
        if isinstance(step, Wait):
            at(max(now + 0.001, step.until - offsets[who]), who, ("act",))
            return
        there = chance.uniform(0, 12) if chance.random() < trouble else chance.uniform(0, 0.05)
        back = chance.uniform(0, 12) if chance.random() < trouble else chance.uniform(0, 0.05)
        answered = there + back < PATIENCE and chance.random() >= trouble / 2
        if chance.random() >= trouble / 2:  # else it never arrives
            at(now + there, who, ("arrive", step, mine, now + there + back if answered else None))
        else:
            answered = False
        if not answered:
            at(now + PATIENCE, who, ("fail",))

    for who in range(3):
        at(chance.uniform(0, 3), who, ("act",))
    while agenda and agenda[0][0] < 300:
        now, _, who, what = heapq.heappop(agenda)
        one, mine = replicas[who], now + offsets[who]
        match what:
            case ("act",):
                act(now, who)
            case ("arrive", step, sent, answer_at):  # maybe long after its sender has given up
                outcome = ("read", shelf.read()) if isinstance(step, Read) else ("wrote", shelf.write(step), sent)
                if answer_at is not None:
                    at(answer_at, who, outcome)
            case ("fail",):
                one.failed(mine)
                act(now, who)
            case ("read", lease):
                one.found(lease, mine)
                act(now, who)
            case ("wrote", lease, sent):
                if lease is None:
                    one.refused(mine)
                else:
                    before = one.number
                    one.wrote(lease, sent)
                    if one.number != before:
                        numbers.append(one.number)
                act(now, who)
        leaders = [n for n, each in enumerate(replicas) if each.leads(now + offsets[n])]
        assert len(leaders) <= 1
        led.update(leaders)
    assert led or trouble
    assert numbers == sorted(set(numbers)), "every term has a higher number than the one before"
