import json

from hypothesis import given
from hypothesis import strategies as st

from router.observe import Observed
from router.schema import ModelRollout
from router.step import RolloutState, step


def rollout(*names: str, primary: str | None = None) -> ModelRollout:
    versions = [{"name": name, "backend": {"endpoints": ["127.0.0.1:8001"]}} for name in names]
    spec = {"hosts": ["iris.local"], "versions": versions} | ({"primary": primary} if primary else {})
    return ModelRollout.model_validate(
        {"apiVersion": "headgate.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": "iris"}, "spec": spec}
    )


def after(state: RolloutState, *names: str, primary: str | None = None) -> RolloutState:
    return step(rollout(*names, primary=primary), Observed(()), state, now=0.0)


def test_candidates_take_the_lowest_free_slots_and_the_primary_none():
    assert after(RolloutState(), "v1", "v2", "v3").slots == (("v2", 0), ("v3", 1))


def test_a_candidate_keeps_its_slot_when_others_come_and_go_or_the_order_changes():
    state = after(RolloutState(), "v1", "v2", "v3", "v4")
    assert after(state, "v1", "v4", "v5", "v3").slots == (("v5", 0), ("v3", 1), ("v4", 2))


def test_a_promoted_candidate_leaves_its_slot_to_the_former_primary():
    state = after(RolloutState(), "v1", "v2", "v3")
    assert after(state, "v1", "v2", "v3", primary="v2").slots == (("v1", 0), ("v3", 1))


def test_a_step_without_a_change_gives_the_equal_state():
    state = after(RolloutState(), "v1", "v2")
    assert after(state, "v1", "v2") == state


def test_the_state_survives_json():
    state = after(RolloutState(), "v1", "v2", "v3")
    assert RolloutState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_nonsense_in_a_saved_state_is_forgotten():
    assert RolloutState.from_json({"slots": ["v1"]}) == RolloutState()
    saved = {"slots": {"a": 1, "b": 1, "c": -1, "d": True, "e": "0", "f": 0}, "later": 1}
    assert RolloutState.from_json(saved).slots == (("f", 0), ("a", 1))
    assert RolloutState.from_json({}) == RolloutState()


candidates = st.lists(st.sampled_from("abcdef"), unique=True)


@given(st.lists(candidates, min_size=1))
def test_slots_are_unique_and_never_move_while_a_candidate_stays(story):
    state = RolloutState()
    for names in story:
        later = after(state, "v1", *names)
        before, slots = dict(state.slots), dict(later.slots)
        assert set(slots) == set(names)
        assert len(set(slots.values())) == len(slots)
        assert all(slots[name] == before[name] for name in names if name in before)
        state = later
