"""What a rollout's status says, and that it says so only when it is true."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replica_double import REFUSED, Envoys, OneReplica, key, rollout

from router.cluster.history import JsonObject
from router.cluster.status import (
    MAX_BYTES,
    Happening,
    Known,
    condition,
    happenings,
    merge_patch,
    only_counts,
    only_waits,
    spread,
    status_of,
    unsettled,
)
from router.problem import Problem
from router.replica import Progress, Report, Reports
from router.step import RolloutState

NOW = 1_772_000_000.0


class Story:
    """A rollout, its replica, its Envoys and the status so far."""

    def __init__(self, raw: JsonObject | None = None, envoys: tuple[str, ...] = ("a", "b"), **sites: Any) -> None:
        self.raw = raw or rollout()
        self.replica = OneReplica()
        self.replica.put(self.raw, **sites)
        self.envoys = Envoys(self.replica)
        self.envoys.join(*envoys)
        self.now = NOW

    def known(self, **parts: Any) -> Known:
        model = key(self.raw)
        base = Known(self.raw, self.replica.status(model), self.envoys.now([model]), "us", self.replica.problems(model))
        return replace(base, **parts)

    def look(self, **parts: Any) -> JsonObject:
        """Make the status, and keep it in the object as the API server would."""
        status = status_of(self.known(**parts), self.now)
        assert status is not None
        self.raw = {**self.raw, "status": json.loads(json.dumps(status))}
        return status

    def edit(self, generation: int, **spec: Any) -> None:
        fresh = rollout(generation=generation, **spec)
        self.raw = {**self.raw, "metadata": fresh["metadata"], "spec": fresh["spec"]}
        self.replica.put(self.raw)


def states(status: JsonObject) -> dict[str, str]:
    return {one["type"]: f"{one['status']} {one['reason']}" for one in status["conditions"]}


WELL = {
    "Accepted": "True Accepted",
    "Ready": "True PrimaryReady",
    "Programmed": "True Programmed",
    "Degraded": "False AsWanted",
}


def test_all_is_well():
    story = Story()
    story.envoys.ack()
    status = story.look()
    assert states(status) == WELL
    assert condition(status, "Programmed")["message"] == "each of the 2 Envoys of gateway 'default' has it"
    assert (status["primary"], status["traffic"], status["envoys"]) == ("v0", "v0 50 %, v1 50 %", "2/2")
    assert status["observedGeneration"] == 1
    assert status["gateways"] == [{"name": "default", "envoys": 2, "programmed": 2, "lagging": []}]
    assert status["versions"][1] | {"since": ""} == {
        "name": "v1", "role": "candidate", "ready": True, "reason": "ready",
        "weight": 50, "match": False, "endpoints": 2, "since": "",
    }  # fmt: skip
    assert [one["what"] for one in status["history"]] == ["created"]
    assert "problems" not in status


def test_equal_knowledge_gives_an_equal_status_at_any_time():
    story = Story()
    first = story.look()
    story.now += 1000
    assert story.look() == first
    assert merge_patch(first, first) == {}


def test_it_is_not_programmed_before_every_envoy_has_it():
    story = Story()
    assert states(story.look())["Programmed"] == "False Pending"
    story.envoys.ack("a")
    status = story.look()
    assert states(status)["Programmed"] == "False Pending"
    assert condition(status, "Programmed")["message"] == ("1 of 2 Envoys on gateway 'default' have it; b: no ACK yet")
    assert unsettled(status)
    story.envoys.ack("b")
    status = story.look()
    assert states(status)["Programmed"] == "True Programmed"
    assert not unsettled(status)


def test_without_envoys_nothing_is_programmed():
    status = Story(envoys=()).look()
    assert states(status)["Programmed"] == "False NoEnvoys"
    assert status["envoys"] == "0/0"
    assert not unsettled(status)


def test_a_new_generation_is_not_programmed_by_the_acks_of_the_old_one():
    story = Story()
    story.envoys.ack()
    story.look()
    story.edit(2, versions=[{"name": "v0", "resources": ["isvc/v0"]}])
    status = story.look()
    assert (status["observedGeneration"], states(status)["Programmed"]) == (2, "False Pending")


def test_before_the_engine_has_seen_the_generation_there_is_no_status():
    story = Story()
    story.envoys.ack()
    later = rollout(generation=2, paused=True)
    assert status_of(story.known(rollout=later), NOW) is None
    assert status_of(story.known(model=None), NOW) is None


def test_a_replica_with_another_version_holds_it_back():
    story = Story()
    other = OneReplica()
    other.put(rollout(versions=[{"name": "v0", "resources": ["isvc/v0"]}]))
    story.envoys.join("c", identity="them", replica=other)
    story.envoys.ack()
    status = story.look()
    assert states(status)["Programmed"] == "False Pending"
    assert status["gateways"][0]["lagging"] == [{"node": "c", "why": "replica them has another version"}]
    assert status["envoys"] == "2/3"
    other.put(story.raw)
    story.envoys.ack()
    assert states(story.look()) == WELL


def test_a_replica_that_does_not_serve_it_holds_it_back_only_with_envoys():
    story = Story()
    story.envoys.join(identity="them", replica=OneReplica())
    story.envoys.ack()
    assert states(story.look()) == WELL
    story.envoys.join("c", "d", identity="them")
    status = story.look()
    assert states(status)["Programmed"] == "False Pending"
    assert status["gateways"][0]["lagging"] == [{"node": "replica them", "why": "does not serve it yet, to 2 Envoys"}]
    assert status["envoys"] == "2/4"


def test_a_silent_replica_leaves_it_unknown():
    story = Story()
    story.envoys.ack()
    story.envoys.unreachable = ("them",)
    status = story.look()
    assert states(status)["Programmed"] == "Unknown ReplicaUnreachable"
    assert "replica them" in condition(status, "Programmed")["message"]
    assert status["gateways"][0]["unreachable"] == ["them"]
    assert unsettled(status)


def test_a_rejection_is_told_in_envoys_words():
    story = Story()
    story.envoys.ack("a")
    story.envoys.words["b"] = "rejected: route: bad regex"
    status = story.look()
    assert states(status)["Programmed"] == "False Rejected"
    assert states(status)["Degraded"] == "True Rejected"
    assert "b: rejected: route: bad regex" in condition(status, "Degraded")["message"]


def test_what_cannot_be_read_is_not_accepted_and_all_is_said():
    broken = rollout(strategy="bluegreen", gateway="")
    story = Story(broken)
    status = story.look()
    assert states(status) == {
        "Accepted": "False Invalid",
        "Ready": "False NotAccepted",
        "Programmed": "False NotAccepted",
        "Degraded": "False AsWanted",
    }
    message = condition(status, "Accepted")["message"]
    assert "spec.strategy: 'bluegreen'" in message
    assert "spec.gateway: " in message
    assert [one["field"] for one in status["problems"]] == ["spec.gateway", "spec.strategy"]


def test_a_broken_edit_leaves_the_last_good_traffic():
    story = Story()
    story.envoys.ack()
    story.look()
    story.edit(2, strategy="bluegreen")
    status = story.look()
    assert states(status)["Accepted"] == "False Invalid"
    assert condition(status, "Accepted")["message"].endswith("; the last good spec stays in force")
    assert states(status)["Ready"] == "True PrimaryReady"
    assert states(status)["Programmed"] == "False NotAccepted"
    assert (status["observedGeneration"], status["traffic"]) == (2, "v0 50 %, v1 50 %")


def test_a_host_of_another_and_an_unknown_gateway_are_not_accepted():
    story = Story()
    second = rollout("second", hosts=["wisdom"])
    story.replica.put(second)
    story.raw = second
    status = story.look()
    assert states(status)["Accepted"] == "False Invalid"
    assert "belongs to default/wisdom" in condition(status, "Accepted")["message"]
    assert status["traffic"] == "none"

    story = Story(rollout(gateway="edge"))
    assert "gateway 'edge' is not known" in condition(story.look(), "Accepted")["message"]


def test_a_candidate_that_is_not_ready_degrades_and_the_primary_takes_over():
    story = Story()
    story.envoys.ack()
    story.look()
    story.now += 10
    story.replica.put(story.raw, v1=REFUSED)
    story.envoys.ack()
    status = story.look()
    assert states(status) == WELL | {"Degraded": "True VersionNotReady"}
    assert condition(status, "Degraded")["message"] == "v1 is not ready (connection refused)"
    assert status["traffic"] == "v0 100 %"
    assert status["history"][-1]["what"] == "v1 not ready: weight v0 50 % -> 100 %, v1 50 % -> 0 %"
    changed = {one["type"] for one in status["conditions"] if one["lastTransitionTime"] == "2026-02-25T06:13:30Z"}
    assert changed == {"Degraded"}, "the others did not change"


@pytest.mark.parametrize(
    ("sites", "reason"),
    [({"v0": REFUSED}, "PrimaryNotReady"), ({"v0": REFUSED, "v1": REFUSED}, "NoVersionReady")],
)
def test_without_its_primary_it_is_not_ready(sites, reason):
    status = Story(**sites).look()
    assert states(status)["Ready"] == f"False {reason}"
    assert (
        "v0 is not ready" in condition(status, "Ready")["message"]
        or "v0: connection refused" in (condition(status, "Ready")["message"])
    )


def test_a_version_that_should_have_nothing_degrades_nothing():
    versions = [{"name": "v0", "resources": ["isvc/v0"]}, {"name": "v1", "weight": 0, "resources": ["isvc/v1"]}]
    assert states(Story(rollout(versions=versions), v1=REFUSED).look())["Degraded"] == "False AsWanted"


def test_a_restarted_replica_remembers_since_when():
    story = Story()
    story.replica.engine._clock = lambda: NOW - 500
    before = story.look()["versions"]
    story.replica = OneReplica()
    story.replica.put(story.raw)
    story.envoys.replicas["us"] = story.replica
    assert [one["since"] for one in story.look()["versions"]] == [one["since"] for one in before]


def test_state_and_drains_are_shown_and_an_unknown_state_is_kept():
    story = Story()
    state = RolloutState((("v1", 0),))
    assert story.look(state=state, drains=("isvc/v2: 3 requests in flight",))["draining"] == [
        "isvc/v2: 3 requests in flight"
    ]
    assert story.look()["state"] == {"slots": {"v1": 0}}
    assert "draining" not in story.look()


def test_what_is_being_deleted_says_so():
    story = Story()
    story.envoys.ack()
    story.look()
    model = key(story.raw)
    story.replica.drop(model)
    story.raw = {**story.raw, "metadata": {**story.raw["metadata"], "generation": 2, "deletionTimestamp": "2026"}}
    status = story.look(drains=("isvc/v0: 3 requests in flight",))
    assert states(status)["Ready"] == "False Deleting"
    assert states(status)["Programmed"] == "False Deleting"
    assert status["history"][-1]["what"] == "deleted"


def test_only_counts_of_envoys_are_lazy():
    story = Story()
    story.envoys.ack()
    before = story.look()
    story.envoys.join("c")
    story.envoys.ack()
    after = story.look()
    assert before != after
    assert only_counts(before, after)
    story.envoys.join("d")
    assert not only_counts(after, story.look()), "it is no longer programmed"


def test_only_envoys_that_had_everything_may_be_waited_for_in_silence():
    story = Story()
    story.envoys.ack()
    before = story.look()
    assert not only_waits(before, before)
    story.envoys.join("c")
    assert only_waits(before, story.look())
    story.envoys.ack()
    assert not only_waits(before, story.look()), "one more has it"
    del story.envoys.nodes["us"]["c"], story.envoys.nodes["us"]["b"]
    assert only_waits(before, story.look()), "one is away, the others have it"
    story.envoys.nodes["us"].clear()
    gone = story.look()
    assert only_waits(before, gone)
    assert not only_waits(gone, gone), "it has been told"
    story.envoys.join("a")
    story.envoys.words["a"] = "rejected: no"
    assert not only_waits(before, story.look()), "a refusal does not pass"
    story.envoys.words.clear()
    story.replica.put(story.raw, v1=REFUSED)
    assert not only_waits(before, story.look()), "the traffic moves"


def test_events_tell_changes_of_state():
    story = Story()
    story.envoys.ack()
    first = story.look()
    assert [one.reason for one in happenings({}, first)] == ["Programmed"]
    story.replica.put(story.raw, v1=REFUSED)
    story.envoys.ack()
    second = story.look()
    assert list(happenings(first, second)) == [
        Happening("VersionNotReady", "v1 is not ready (connection refused)", warning=True),
        Happening("TrafficMoved", "v0 50 %, v1 50 % -> v0 100 %"),
    ]
    story.replica.put(story.raw)
    story.envoys.ack()
    assert [one.reason for one in happenings(second, story.look())] == ["Recovered", "TrafficMoved"]
    assert list(happenings(second, second)) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from("abcd"), json_values, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as it is written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def without_nulls(value: Any) -> Any:
    """A stored object holds no null in a mapping: merge patches cannot set any."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return value


@given(json_objects.map(without_nulls), json_objects.map(without_nulls))
def test_the_merge_patch_makes_one_of_the_other(before, after):
    assert merged(before, merge_patch(before, after)) == after


nodes = st.frozensets(st.sampled_from("abcd"))
progress = st.builds(
    lambda version, names, behind: Progress(version, "default", names, dict.fromkeys(names & behind, "no ACK yet")),
    st.sampled_from(["1", "2"]),
    nodes,
    nodes,
)
reports = st.builds(
    lambda identity, count, one: Report(identity, 1.0, {"default": count}, {} if one is None else {"m": one}),
    st.sampled_from(["us", "x", "y"]),
    st.integers(0, 3),
    st.none() | progress,
)
fleets = st.lists(reports, max_size=3, unique_by=lambda one: one.identity)


@given(fleets)
def test_current_means_that_every_single_envoy_has_what_we_serve(found):
    reach = spread("m", "default", Reports(tuple(found)), "us")
    ours = next((one.models["m"].version for one in found if one.identity == "us" and "m" in one.models), None)
    everyone = [
        (node, one.models["m"].version == ours and node not in one.models["m"].lagging)
        for one in found
        if "m" in one.models
        for node in one.models["m"].nodes
    ]
    untold = sum(one.gateways["default"] for one in found if "m" not in one.models)
    assert reach.total == len({node for node, _ in everyone}) + untold
    if reach.served and not reach.lagging:
        assert all(well for _, well in everyone)
        assert untold == 0
        assert reach.current == reach.total
    else:
        assert not reach.served or reach.current < reach.total
    assert 0 <= reach.current <= reach.total


texts = st.text(min_size=0, max_size=3).map(lambda one: one * 1500)


@settings(max_examples=25, deadline=None)
@given(texts, st.integers(0, 40), st.integers(1, 32), st.lists(texts, max_size=40))
def test_it_is_bounded_whatever_is_said(words, problems, versions, before):
    names = [f"v{number}-{'x' * 55}" for number in range(versions)]
    raw = rollout(versions=[{"name": name, "weight": 1, "resources": [f"isvc/{name}"]} for name in names])
    raw["status"] = {
        "history": [{"at": words, "by": one, "what": one, "why": one, "generation": 1} for one in before],
        "versions": [{"name": names[0], "ready": True}],
    }
    story = Story(raw, **{name: replace(REFUSED, reason=words) for name in names})
    story.envoys.join(*(f"{number} {words}" for number in range(30)))
    found = tuple(Problem(words, f"spec.{number}", words, words, "error") for number in range(problems))
    status = story.look(problems=found, drains=tuple(before))
    assert len(json.dumps(status, ensure_ascii=False).encode()) < MAX_BYTES
    assert all(len(one["message"]) <= 1024 for one in status["conditions"])
    assert len(status["gateways"][0]["lagging"]) <= 5
    assert len(status.get("problems", ())) <= 20
    assert len(status["history"]) <= 20
    assert story.look(problems=found, drains=tuple(before)) == status, "a second look finds nothing to write"


@given(json_values)
def test_any_previous_status_can_be_read(before):
    story = Story(rollout(status=before))
    story.envoys.ack()
    assert states(story.look()) == WELL


def test_a_model_that_is_served_without_a_plugin_is_accepted_and_degraded():
    story = Story()
    story.edit(2, plugins=[{"name": "stamp"}])
    story.envoys.ack()
    status = story.look()
    assert states(status) == {**WELL, "Degraded": "True PluginsNotAsWanted"}
    said = "spec.plugins[0].name: gateway 'default' has no plugin 'stamp': the model is served without it"
    assert said in condition(status, "Accepted")["message"]
    assert said in condition(status, "Degraded")["message"]
    assert [one["field"] for one in status["problems"]] == ["spec.plugins[0].name"]


def test_a_model_that_is_not_served_without_a_plugin_is_not_accepted():
    story = Story()
    story.edit(2, plugins=[{"name": "stamp", "required": True}])
    story.envoys.ack()
    status = story.look()
    assert states(status)["Accepted"] == "False Invalid"
    assert states(status)["Programmed"] == "False NotAccepted"
    assert "the traffic stays as it was" in condition(status, "Accepted")["message"]
