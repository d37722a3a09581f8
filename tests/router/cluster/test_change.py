"""What commands make of a rollout's spec."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.change import Change, Outcome, abort, pause, promote, raced, record, weights
from router.manifests import read
from router.policy import Wish, wishes
from router.problem import Problem
from router.rules import broken_rules
from router.schema import ModelRollout

MATCH = [{"headers": [{"name": "tester", "exact": "yes"}]}]


def rollout(*versions: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """As the API server holds it, with versions v0, v1, ..."""
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "iris", "namespace": "ml", "generation": 3, "resourceVersion": "7", "managedFields": []},
        "spec": {
            "hosts": ["iris.example"],
            **spec,
            "versions": [
                {"name": f"v{index}", "backend": {"endpoints": [f"10.0.0.{index + 1}:80"]}, **one}
                for index, one in enumerate(versions)
            ],
        },
        "status": {"observedGeneration": 3},
    }


def after(raw: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """The object with the change applied, as a merge patch would."""
    assert isinstance(outcome, Change), outcome
    spec = copy.deepcopy(raw["spec"])
    for name, value in outcome.patch.items():
        if value is None:
            spec.pop(name, None)
        else:
            spec[name] = value
    assert spec == outcome.spec
    return {**raw, "spec": spec}


def asked(raw: dict[str, Any]) -> dict[str, Wish]:
    found = read(raw, "ml/iris")
    assert isinstance(found, ModelRollout)
    return {wish.name: wish for wish in wishes(found)}


def shares(outcome: Outcome) -> dict[str, float]:
    assert isinstance(outcome, Change)
    return {one.version: one.after for one in outcome.shares}


def words(outcome: Outcome) -> list[str]:
    assert not isinstance(outcome, Change)
    return [f"{one.what} ({one.hint})" for one in outcome]


# Laws, for any rollout

weight = st.none() | st.integers(0, 1000)
mirror = st.none() | st.fixed_dictionaries({}, optional={"percent": st.sampled_from([1.0, 20.0, 100.0])})


@st.composite
def rollouts(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 4))
    primary = draw(st.none() | st.integers(0, count - 1))
    versions: list[dict[str, Any]] = []
    for index in range(count):
        one: dict[str, Any] = {}
        if (given := draw(weight)) is not None:
            one["weight"] = given
        if draw(st.booleans()):
            one["match"] = MATCH
        if index != (primary or 0) and (copied := draw(mirror)) is not None:
            one["mirror"] = copied
        versions.append(one)
    spec: dict[str, Any] = {"strategy": draw(st.sampled_from(["none", "blue-green", "canary", "mirror"]))}
    if primary is not None:
        spec["primary"] = f"v{primary}"
    if draw(st.booleans()):
        spec["paused"] = draw(st.booleans())
    raw = rollout(*versions, **spec)
    assert not broken_rules(raw)
    return raw


def names(raw: dict[str, Any]) -> list[str]:
    return [one["name"] for one in raw["spec"]["versions"]]


@given(rollouts(), st.data())
def test_every_change_passes_the_parser_and_totals_100(raw: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names(raw)))
    wanted = data.draw(st.fixed_dictionaries({one: st.integers(0, 1_000_000) for one in names(raw)}))
    before = copy.deepcopy(raw)
    for outcome in (weights(raw, wanted), promote(raw, name), abort(raw), pause(raw, True), pause(raw, False)):
        assert isinstance(read(after(raw, outcome), "ml/iris"), ModelRollout)
        assert sum(shares(outcome).values()) == pytest.approx(100)
    assert raw == before


@given(rollouts(), st.data())
def test_changes_made_twice_change_nothing_more(raw: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names(raw)))
    wanted = data.draw(st.fixed_dictionaries({one: st.integers(0, 100) for one in names(raw)}))
    for make in (
        lambda one: weights(one, wanted),
        lambda one: promote(one, name),
        abort,
        lambda one: pause(one, True),
        lambda one: pause(one, False),
    ):
        again = make(after(raw, make(raw)))
        assert isinstance(again, Change)
        assert again.empty


@given(rollouts())
def test_after_an_abort_candidates_get_nothing_by_any_way(raw: dict[str, Any]) -> None:
    made = after(raw, abort(raw))
    assert not made["spec"].get("paused")
    for wish in asked(made).values():
        assert (wish.weight > 0) is wish.primary
        assert wish.primary or (not wish.match and wish.mirror is None)
    assert made["spec"].get("primary") == raw["spec"].get("primary")


@given(rollouts(), st.data())
def test_a_promotion_gives_everything_weighted_to_one_and_leaves_what_others_asked_for(
    raw: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(names(raw)))
    before, now = asked(raw), asked(after(raw, promote(raw, name)))
    for wish in now.values():
        assert wish.primary is (wish.name == name)
        assert (wish.weight > 0) is wish.primary
        if wish.primary:
            assert not wish.match
            assert wish.mirror is None
        else:
            assert (wish.match, wish.mirror) == (before[wish.name].match, before[wish.name].mirror)


@given(rollouts(), st.data())
def test_an_abort_takes_a_promotion_for_granted(raw: dict[str, Any], data: st.DataObject) -> None:
    """Whoever was promoted is the primary to whom everything goes back."""
    name = data.draw(st.sampled_from(names(raw)))
    promoted = after(raw, promote(raw, name))
    assert shares(abort(promoted)) == {one: 100.0 * (one == name) for one in names(raw)}
    back = data.draw(st.sampled_from(names(raw)))
    assert shares(promote(promoted, back)) == {one: 100.0 * (one == back) for one in names(raw)}


@given(rollouts(), st.data())
def test_weights_change_weights_only_and_the_last_ones_count(raw: dict[str, Any], data: st.DataObject) -> None:
    first, last = (data.draw(st.fixed_dictionaries({one: st.integers(0, 9) for one in names(raw)})) for _ in range(2))
    once = after(raw, weights(raw, first))
    made = after(once, weights(once, last))
    assert made == after(raw, weights(raw, last))
    for was, now in zip(raw["spec"]["versions"], made["spec"]["versions"], strict=True):
        assert {**was, "weight": last[was["name"]]} == now


# weights


def test_weights_tell_shares_before_and_after() -> None:
    outcome = weights(rollout({"weight": 1}, {"weight": 1}), {"v0": 20, "v1": 80})
    assert isinstance(outcome, Change)
    assert outcome.what == "weights: v0 50 % -> 20 %, v1 50 % -> 80 %"
    assert [(one.version, one.before, one.after, one.primary) for one in outcome.shares] == [
        ("v0", 50, 20, True),
        ("v1", 50, 80, False),
    ]
    assert set(outcome.patch) == {"versions"}
    assert outcome.notes == ()


def test_all_that_is_wrong_with_weights_is_told_at_once() -> None:
    raw = rollout({"weight": 1}, {}, strategy="blue-green")
    assert words(weights(raw, {"v0": 20, "v1x": 80, "other": -1})) == [
        "no version is called 'v1x' (did you mean 'v1'?)",
        "no version is called 'other' (versions are v0, v1)",
        "weight -1 is out of range (weights are whole numbers from 0 to 1,000,000)",
        "v1 has no weight of its own and would count as 1 beside these (name it too, such as v1=1)",
    ]


def test_a_primary_without_a_weight_has_to_be_named_too() -> None:
    assert words(weights(rollout({}, {}), {"v1": 20})) == [
        "v0 has no weight of its own and would count as 1 beside these (name it too, such as v0=80)"
    ]


def test_the_same_shares_in_other_numbers_are_a_change() -> None:
    outcome = weights(rollout({"weight": 1}, {"weight": 1}), {"v0": 50, "v1": 50})
    assert isinstance(outcome, Change)
    assert not outcome.empty
    assert outcome.what == "weights: v0=50, v1=50"


@pytest.mark.parametrize(
    ("raw", "wanted", "expected"),
    [
        (
            rollout({}, {}, strategy="canary"),
            {"v0": 80, "v1": 20},
            "v1 gets no requests by header any more: strategy canary gives them only to versions without a weight "
            "(give it a match of its own to keep them)",
        ),
        (
            rollout({}, {}, strategy="mirror"),
            {"v0": 80, "v1": 20},
            "v1 gets no copies of the traffic any more: strategy mirror gives them only to versions without a weight "
            "(give it a mirror of its own to keep them)",
        ),
        (
            rollout({}, {"mirror": {"percent": 20.0}}),
            {"v0": 80, "v1": 20},
            "v1 answers its share and still receives copies of 20 % of all requests as well; remove its mirror if "
            "that is not wanted",
        ),
        (
            rollout({}, {"match": MATCH}),
            {"v0": 80, "v1": 20},
            "requests that match v1's match go to it whatever the weights say",
        ),
        (rollout({}, {}), {"v0": 0, "v1": 0}, "all weights are 0: the primary, v0, gets everything"),
        (
            rollout({}, {}, paused=True),
            {"v0": 80, "v1": 20},
            "the rollout is paused: its traffic stays as it is until 'headgate resume'",
        ),
    ],
    ids=["canary", "mirror", "mirrored", "matched", "nothing", "paused"],
)
def test_what_the_percentages_do_not_tell_is_a_note(raw: dict[str, Any], wanted: dict[str, int], expected: str) -> None:
    outcome = weights(raw, wanted)
    assert isinstance(outcome, Change)
    assert outcome.notes == (expected,)


def test_a_rollout_that_does_not_parse_is_told_with_all_its_faults() -> None:
    raw = rollout({"weight": -1}, primary="v7")
    for outcome in (weights(raw, {"v0": 1}), promote(raw), abort(raw), pause(raw, True)):
        assert not isinstance(outcome, Change)
        assert [one.field for one in outcome] == ["spec.versions[0].weight", "spec.primary"]


# promote, abort, pause


def test_the_only_candidate_needs_no_name() -> None:
    raw = rollout({"weight": 50}, {"mirror": {"percent": 20.0}, "match": MATCH})
    outcome = promote(raw)
    assert isinstance(outcome, Change)
    assert outcome.what == "promoted v1, until now v0"
    assert outcome.spec["primary"] == "v1"
    assert [(one["name"], one["weight"]) for one in outcome.spec["versions"]] == [("v0", 0), ("v1", 100)]
    assert all("mirror" not in one and "match" not in one for one in outcome.spec["versions"])
    assert outcome.notes == (
        "v1 gets no requests by header any more: its match is removed",
        "v1 gets no copies of the traffic any more: its mirror is removed",
    )


def test_which_candidate_has_to_be_said_when_there_are_several() -> None:
    assert promote(rollout({}, {}, {})) == (Problem("ml/iris", "", "there are 2 candidates", "name one of v1, v2"),)
    assert words(promote(rollout({}))) == ["there is no candidate to promote (v0 is all there is)"]
    assert words(promote(rollout({}, {}), "v11")) == ["no version is called 'v11' (did you mean 'v1'?)"]


def test_another_candidate_keeps_what_its_strategy_gives_it() -> None:
    outcome = promote(rollout({}, {}, {}, strategy="canary"), "v1")
    assert isinstance(outcome, Change)
    assert "weight" not in outcome.spec["versions"][2]
    assert "requests that match v2's match go to it whatever the weights say" in outcome.notes


def test_an_aborted_candidate_stays_silent_whatever_the_strategy() -> None:
    for strategy in ("none", "blue-green", "canary", "mirror"):
        outcome = abort(rollout({}, {}, strategy=strategy))
        assert isinstance(outcome, Change)
        assert outcome.what == "aborted: everything to v0"
        assert outcome.spec["versions"][1]["weight"] == 0


def test_an_abort_gives_the_primary_a_weight_again() -> None:
    outcome = abort(rollout({"weight": 0}, {"weight": 100}))
    assert isinstance(outcome, Change)
    assert [one["weight"] for one in outcome.spec["versions"]] == [100, 0]


def test_a_default_written_out_by_the_api_server_is_no_change() -> None:
    raw = rollout({}, {}, paused=False)
    outcome = pause(raw, False)
    assert isinstance(outcome, Change)
    assert outcome.empty


# Between reading and writing


def test_a_race_is_about_what_decides_the_traffic_only() -> None:
    before = rollout({"weight": 1}, {"weight": 1})
    now = copy.deepcopy(before)
    now["metadata"]["resourceVersion"] = "8"
    now["metadata"]["labels"] = {"a": "b"}
    now["status"] = {"observedGeneration": 9}
    now["spec"]["hosts"] = ["other.example"]
    assert raced(before, now) == ()
    now["spec"]["versions"][1]["weight"] = 50
    now["spec"]["primary"] = "v1"
    now["spec"]["versions"].append({"name": "v2", "match": MATCH})
    assert raced(before, now) == (
        "spec.primary: none -> v1",
        "spec.versions[v1].weight: 1 -> 50",
        "spec.versions[v2]: none -> there",
        'spec.versions[v2].match: none -> [{"headers": [{"name": "tester", "exa...',
    )


def test_a_record_names_the_generation_that_the_change_will_make() -> None:
    raw = rollout({}, {})
    outcome = weights(raw, {"v0": 1, "v1": 1})
    assert isinstance(outcome, Change)
    assert record(outcome, raw, by="jane", why="größer", at="2026-01-01T00:00:00Z") == {
        "by": "jane",
        "what": "weights: v0 100 % -> 50 %, v1 0 % -> 50 %",
        "why": "größer",
        "at": "2026-01-01T00:00:00Z",
        "generation": 4,
    }
