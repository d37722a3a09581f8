import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from router.observe import observe
from router.plan import plan
from router.schema import ModelRollout
from router.step import RolloutState, step
from router.sticky import arm, arm_of, layout

NEW = RolloutState()
USERS = [f"user-{number}" for number in range(500)]


def rollout(weights: dict[str, int], primary: str | None = None) -> ModelRollout:
    versions = [
        {"name": name, "weight": weight, "backend": {"endpoints": ["127.0.0.1:8001"]}}
        for name, weight in weights.items()
    ]
    spec = {"hosts": ["iris.local"], "sticky": {"header": "x-user"}, "versions": versions}
    return ModelRollout.model_validate(
        {
            "apiVersion": "headgate.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": "iris"},
            "spec": spec | ({"primary": primary} if primary else {}),
        }
    )


def arms(weights: dict[str, int], state: RolloutState = NEW, primary: str | None = None):
    """The user's version for every user, and the state afterwards."""
    one = rollout(weights, primary)
    observed = observe(one, {})
    state = step(one, observed, state, now=0.0)
    planned = plan(one, observed, state, one.spec.hosts).plan
    return {user: arm(planned.routes[-1].targets, user) for user in USERS}, state


def test_candidates_stand_at_both_ends_and_the_primary_in_the_middle():
    one = rollout({"v1": 1, "a": 1, "b": 1, "c": 1, "d": 1})
    state = RolloutState((("a", 0), ("b", 1), ("c", 2), ("d", 3)))
    assert layout(one, state) == ("a", "c", "v1", "d", "b")
    assert layout(one, RolloutState()) == ("a", "c", "v1", "d", "b")


def test_a_freed_slot_leaves_the_others_in_their_order():
    assert layout(rollout({"v1": 1, "b": 1, "c": 1}), RolloutState((("b", 1), ("c", 2)))) == ("c", "v1", "b")


def test_the_arm_is_found_as_envoy_finds_it():
    assert xxhash.xxh64_intdigest(b"user-1", seed=0) % 10_000 == 6_856
    assert arm_of([("v2", 6_856), ("v1", 3_144)], "user-1") == "v1"
    assert arm_of([("v2", 6_857), ("v1", 3_143)], "user-1") == "v2"


def test_weights_that_do_not_total_10000_are_our_own_bug():
    with pytest.raises(ValueError, match="total 0"):
        arm_of([], "user-1")


def test_a_ramp_moves_users_towards_the_candidate_only():
    state, before = RolloutState(), None
    for points in (100, 500, 2_500, 5_000, 10_000):
        now, state = arms({"v1": 10_000 - points, "v2": points}, state)
        if before:
            assert {(before[user], now[user]) for user in USERS if before[user] != now[user]} <= {("v1", "v2")}
        before = now
    assert set(before.values()) == {"v2"}


def test_promotion_at_full_weight_moves_nobody():
    before, state = arms({"v1": 0, "v2": 100})
    after, state = arms({"v1": 0, "v2": 100}, state, primary="v2")
    assert before == after
    assert arms({"v2": 100}, state)[0] == after


points = st.integers(0, 5_000)


@given(other=points, ramp=st.lists(points, min_size=2).map(sorted), first=st.booleans())
def test_ramping_one_of_two_candidates_moves_users_only_towards_it_and_nobody_back(other, ramp, first):
    state, before = RolloutState(), None
    for mine in ramp:
        pair = {"a": mine, "b": other} if first else {"b": other, "a": mine}
        now, state = arms({"v1": 10_000 - mine - other, **pair}, state)
        if before:
            assert {(before[user], now[user]) for user in USERS if before[user] != now[user]} <= {("v1", "a")}
        before = now


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6))
def test_arms_never_swap_places_while_candidates_stay(weights):
    names = [f"c{index}" for index in range(len(weights))]
    one = rollout({"v1": 1} | dict(zip(names, weights, strict=True)))
    state = step(one, observe(one, {}), RolloutState(), now=0.0)
    whole = layout(one, state)
    for gone in names:
        fewer = rollout({"v1": 1} | {name: 1 for name in names if name != gone})
        left = layout(fewer, step(fewer, observe(fewer, {}), state, now=0.0))
        assert left == tuple(name for name in whole if name != gone)
