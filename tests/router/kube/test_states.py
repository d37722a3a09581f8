"""Rollout state in the object's status: who may overwrite whom."""

from __future__ import annotations

import pytest
from replica_double import OneReplica, rollout

from router.kube.states import States
from router.step import RolloutState

OLD, NEW = RolloutState((("v1", 0),)), RolloutState((("v2", 0), ("v1", 1)))


def shown(state: RolloutState) -> dict[str, object]:
    return {"state": state.to_json(), "primary": "v0"}


def test_what_the_object_says_is_remembered():
    states = States()
    assert states.get("ns/wisdom") is None
    assert states.adopt("ns/wisdom", shown(OLD))
    assert states.get("ns/wisdom") == OLD
    assert not states.adopt("ns/wisdom", shown(OLD)), "nothing new"


@pytest.mark.parametrize("status", [None, {}, [], "text", {"state": None}, {"state": []}])
def test_a_status_without_a_state_changes_nothing(status):
    states = States()
    states.put("ns/wisdom", OLD)
    assert not states.adopt("ns/wisdom", status)
    assert states.get("ns/wisdom") == OLD


def test_a_new_state_is_to_be_written_once():
    told: list[str] = []
    states = States(told.append)
    states.put("ns/wisdom", OLD)
    states.put("ns/wisdom", OLD)
    assert told == ["ns/wisdom"]


def test_a_follower_takes_the_leaders_word():
    states = States()
    states.put("ns/wisdom", OLD)
    assert states.adopt("ns/wisdom", shown(NEW))
    assert states.get("ns/wisdom") == NEW


def test_a_leader_is_ahead_of_the_watch_until_the_watch_has_caught_up():
    states = States()
    states.adopt("ns/wisdom", shown(OLD))
    states.lead(True)
    states.put("ns/wisdom", NEW)
    assert not states.adopt("ns/wisdom", shown(OLD))
    assert states.get("ns/wisdom") == NEW
    assert not states.adopt("ns/wisdom", shown(NEW))
    assert states.adopt("ns/wisdom", shown(OLD)), "somebody else wrote after us: a leader that we did not know of"


def test_who_leads_no_longer_takes_the_next_leaders_word():
    states = States()
    states.lead(True)
    states.put("ns/wisdom", OLD)
    states.lead(False)
    assert states.adopt("ns/wisdom", shown(NEW))


def test_a_forgotten_model_starts_afresh():
    states = States()
    states.lead(True)
    states.put("ns/wisdom", OLD)
    states.forget("ns/wisdom")
    assert states.get("ns/wisdom") is None
    assert states.adopt("ns/wisdom", shown(NEW))


def test_slots_survive_a_restart():
    """v1 left and v2 came back to its old slot: an engine that remembers gives other slots than one that does not."""
    versions = [{"name": one, "weight": 1, "resources": [f"isvc/{one}"]} for one in ("v0", "v1", "v2")]
    first = States()
    replica = OneReplica(first)
    replica.put(rollout(versions=versions))
    without_v1 = [versions[0], versions[2], {**versions[1], "name": "v3"}]
    replica.put(rollout(versions=without_v1))
    kept = first.get("default/wisdom")
    assert kept is not None
    assert kept.slots == (("v3", 0), ("v2", 1))
    second = States()
    second.adopt("default/wisdom", {"state": kept.to_json()})
    restarted = OneReplica(second)
    restarted.put(rollout(versions=without_v1))
    assert restarted.version("default/wisdom") == replica.version("default/wisdom")
    forgetful = OneReplica(States())
    forgetful.put(rollout(versions=without_v1))
    assert forgetful.version("default/wisdom") != replica.version("default/wisdom")
