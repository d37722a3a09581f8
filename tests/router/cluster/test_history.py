"""What a rollout's history says: one entry per change of the spec, who and why, and what readiness moved."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.history import BY_HEADGATE, MOST, OURS, Seen, bounded, differences, moved, spec_facts, told

NOW = "2026-03-01T10:00:00Z"


def version(name: str, **parts: Any) -> dict[str, Any]:
    return {"name": name, "resources": [f"isvc/{name}"], **parts}


def spec(*versions: dict[str, Any], **parts: Any) -> dict[str, Any]:
    return {"hosts": ["wisdom"], "versions": list(versions) or [version("v0"), version("v1")], **parts}


def rollout(generation: int, spec: dict[str, Any], change: Any = None, **metadata: Any) -> dict[str, Any]:
    if change is not None:
        text = change if isinstance(change, str) else json.dumps(change)
        metadata["annotations"] = {"headgate.dev/change": text}
    return {"metadata": {"name": "wisdom", "generation": generation, **metadata}, "spec": spec}


def manager(name: str, at: str, owned: str = "f:spec", **parts: Any) -> dict[str, Any]:
    return {"manager": name, "operation": "Update", "time": at, "fieldsV1": {owned: {}}, **parts}


def story(*objects: dict[str, Any]) -> list[dict[str, Any]]:
    history: Any = None
    seen = Seen()
    for one in objects:
        history, seen = told(history, seen, one, NOW)
        seen = Seen.from_json(json.loads(json.dumps(seen.to_json())))
    return history


CHANGES = [
    (spec(version("v0"), version("v1", weight=80)), "weight v1 50 -> 80"),
    (spec(version("v0"), version("v1")), "weight v1 50 -> default"),
    (spec(version("v0"), version("v1", weight=50), primary="v1"), "primary v0 -> v1"),
    (spec(version("v0"), version("v1", weight=50), paused=True), "paused"),
    (spec(version("v0"), version("v1", weight=50), version("v2")), "version v2 added"),
    (spec(version("v0"), version("v1", weight=50), version("v2", weight=5)), "version v2 added with weight 5"),
    (spec(version("v0")), "version v1 removed"),
    (spec(version("v0"), version("v1", weight=50, mirror={"percent": 20})), "mirror v1 off -> 20%"),
    (spec(version("v0"), version("v1", weight=50, mirror={})), "mirror v1 off -> 100%"),
    (spec(version("v0"), version("v1", weight=50, match=[{"method": "GET"}])), "match of v1 added"),
    (spec(version("v0"), version("v1", weight=50, resources=["isvc/other"])), "resources of v1 changed"),
    (spec(version("v0"), version("v1", weight=50), strategy="canary"), "strategy none -> canary"),
    (spec(version("v0"), version("v1", weight=50), gateway="edge"), "gateway none -> edge"),
    (spec(version("v0"), version("v1", weight=50)) | {"hosts": ["a", "b"]}, "hosts wisdom -> a, b"),
    (spec(version("v0"), version("v1", weight=50), sticky={"header": "x-user"}), "sticky none -> x-user"),
    (spec(version("v0"), version("v1", weight=50), timeouts={"request": "1s"}), "timeouts changed"),
    (spec(version("v0"), version("v1", weight=50), later="field"), "spec changed"),
    (
        spec(version("v0"), version("v1", weight=80), primary="v1", paused=True),
        "paused; primary v0 -> v1; weight v1 50 -> 80",
    ),
]


@pytest.mark.parametrize(("after", "what"), CHANGES, ids=[what for _, what in CHANGES])
def test_a_change_is_told_in_words(after, what):
    before = spec(version("v0"), version("v1", weight=50))
    first, second = story(rollout(1, before), rollout(2, after))
    assert first["what"] == "created"
    assert second == {"at": NOW, "by": "unknown", "what": what, "generation": 2}


def test_nothing_is_told_twice_and_metadata_is_no_change():
    one = rollout(1, spec(), labels={"a": "b"})
    assert len(story(one, one, rollout(1, spec(), labels={"a": "c"}), rollout(2, spec(paused=True)))) == 2


def test_an_object_met_late_is_first_seen():
    assert [one["what"] for one in story(rollout(7, spec()))] == ["first seen"]


def test_a_deletion_is_told():
    gone = rollout(2, spec(), deletionTimestamp=NOW)
    assert story(rollout(1, spec()), gone)[-1]["what"] == "deleted"


def test_the_annotation_says_who_and_why_for_its_own_generation_only():
    change = {"by": "ann", "what": "weights: v1 0 % -> 50 %", "why": "looks good", "at": "2026-03-01T09:59:58Z"}
    half = spec(version("v0"), version("v1", weight=50))
    entries = story(
        rollout(1, spec()),
        rollout(2, half, {**change, "generation": 2}),
        # somebody edits by kubectl, and the annotation stays as it was
        rollout(3, spec(), {**change, "generation": 2}, managedFields=[manager("kubectl-edit", NOW)]),
    )
    assert entries[1] == {**change, "generation": 2}
    assert (entries[2]["by"], entries[2]["what"]) == ("kubectl-edit", "weight v1 50 -> default")
    assert "why" not in entries[2]


def test_an_annotation_without_a_generation_belongs_to_the_change_it_came_with():
    change = {"by": "ann", "why": "because"}
    entries = story(rollout(1, spec()), rollout(2, spec(paused=True), change), rollout(3, spec(), change))
    assert [one["by"] for one in entries] == ["unknown", "ann", "unknown"]
    assert [one["what"] for one in entries] == ["created", "paused", "resumed"]


def test_two_changes_seen_as_one_are_told_as_two():
    change = {"by": "ann", "what": "promoted v1", "generation": 2}
    paused = rollout(3, spec(paused=True), change, managedFields=[manager("helm", NOW)])
    entries = story(rollout(1, spec()), paused)
    assert [(one["by"], one["what"], one["generation"]) for one in entries[1:]] == [
        ("ann", "promoted v1", 2),
        ("helm", "paused", 3),
    ]


def test_otherwise_the_last_manager_of_the_spec_did_it():
    fields = [
        manager("kubectl-client-side-apply", "2026-03-01T08:00:00Z"),
        manager("argocd-controller", "2026-03-01T09:30:00Z"),
        manager("labeler", "2026-03-01T09:45:00Z", owned="f:metadata"),
        manager("headgate", "2026-03-01T09:50:00Z", subresource="status"),
        {"manager": "odd", "fieldsV1": None},
    ]
    [entry] = story(rollout(1, spec(), managedFields=fields))
    assert (entry["by"], entry["at"]) == ("argocd-controller", "2026-03-01T09:30:00Z")


NONSENSE = ["{", "[]", '"text"', "{}", '{"by": 5, "at": "yesterday", "generation": "2"}', "[" * 10_000, "null"]


@pytest.mark.parametrize("note", NONSENSE, ids=lambda one: one[:12])
def test_an_annotation_that_makes_no_sense_is_not_believed(note):
    entries = story(rollout(1, spec()), rollout(2, spec(paused=True), note))
    assert entries[1] == {"at": NOW, "by": "unknown", "what": "paused", "generation": 2}


def versions(*, ready: bool, weight: float) -> list[dict[str, Any]]:
    reason = "ready" if ready else "connection refused"
    return [
        {"name": "v0", "ready": True, "weight": 100 - weight},
        {"name": "v1", "ready": ready, "weight": weight, "reason": reason},
    ]


def test_traffic_that_moved_for_readiness_is_told_by_headgate():
    [entry] = moved([], versions(ready=True, weight=50), versions(ready=False, weight=0), 3, NOW)
    assert entry == {
        "at": NOW,
        "by": "headgate",
        "what": "v1 not ready: weight v0 50 % -> 100 %, v1 50 % -> 0 %",
        "why": "v1: connection refused",
        "generation": 3,
    }


def test_readiness_that_moves_nothing_is_no_history():
    assert moved([], versions(ready=True, weight=0), versions(ready=False, weight=0), 3, NOW) == []
    assert moved([], [], versions(ready=True, weight=50), 3, NOW) == []
    assert moved([], versions(ready=True, weight=20), versions(ready=True, weight=50), 3, NOW) == []


def test_a_version_that_flaps_leaves_one_entry_of_a_kind_within_a_minute():
    history: list[dict[str, Any]] = []
    for second in range(0, 50, 2):
        down, up = versions(ready=False, weight=0), versions(ready=True, weight=50)
        history = moved(history, up, down, 1, f"2026-03-01T10:00:{second:02}Z")
        history = moved(history, down, up, 1, f"2026-03-01T10:00:{second + 1:02}Z")
    assert [one["at"][-3:-1] for one in history] == ["48", "49"]
    assert len(moved(history, up, down, 1, "2026-03-01T10:02:00Z")) == 3


def test_what_people_did_is_kept_longer_than_what_headgate_did():
    people = [{"at": NOW, "by": "ann", "what": str(number), "generation": number} for number in range(15)]
    ours = [{"at": NOW, "by": BY_HEADGATE, "what": str(number), "generation": 1} for number in range(30)]
    kept = bounded([*people, *ours])
    assert kept[:15] == people
    assert [one["what"] for one in kept[15:]] == ["25", "26", "27", "28", "29"]
    assert len(bounded(ours)) == OURS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
named = st.fixed_dictionaries(
    {"name": st.sampled_from(["v0", "v1", "v2"])},
    optional={"weight": json_values, "mirror": json_values, "match": json_values, "backend": json_values},
)
specs = json_values | st.fixed_dictionaries(
    {},
    optional={
        "versions": st.lists(named, max_size=4) | json_values,
        "primary": json_values,
        "paused": json_values,
        "hosts": json_values,
        "sticky": json_values,
    },
)


@given(st.lists(specs, min_size=1, max_size=30), json_values)
def test_every_generation_has_its_entry_whatever_the_spec_and_the_list_stays_short(all_specs, before):
    history: Any = before
    seen = Seen.from_json(before)
    for number, one in enumerate(all_specs, 1):
        history, seen = told(history, seen, rollout(number, one), NOW)
        assert history[-1]["generation"] == number
        assert len(history[-1]["what"]) <= 256
        assert told(history, seen, rollout(number, one), NOW) == (history, seen)
    assert len(history) <= MOST
    json.dumps([history, seen.to_json()])


@given(specs)
def test_equal_specs_do_not_differ(one):
    facts = dict(spec_facts(one))
    assert differences(facts, dict(spec_facts(one))) == ["spec changed"]
