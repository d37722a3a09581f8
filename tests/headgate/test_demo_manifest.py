"""The demo's manifests: what the story writes is what headgate reads, and what it shows is what it changed."""

import pytest

from headgate.demo.acts import ACTS, AFTERWARDS, V1, V2
from headgate.demo.manifest import MODEL, Arm, Edition, changes
from router.manifests import parse

PORTS = {V1: 8001, V2: 8002}
EDITIONS = [edition for act in ACTS for edition in (act.before, act.edition) if edition is not None]


@pytest.mark.parametrize("edition", [*EDITIONS, AFTERWARDS])
def test_every_edition_is_a_manifest_without_a_problem(edition):
    found = parse(edition.text(PORTS).encode(), "iris.yaml")
    assert found.problems == ()
    assert [located.rollout.key for located in found.rollouts] == [MODEL]


def test_only_the_changed_lines_are_shown():
    before = Edition((Arm(V1, weight=50), Arm(V2, weight=50))).text(PORTS)
    after = Edition((Arm(V1, weight=20), Arm(V2, weight=50, testers=True))).text(PORTS)
    assert [(line[0], line[1:].strip()) for line in changes(before, after)] == [
        ("-", "weight: 50"),
        ("+", "weight: 20"),
        ("+", "match: [{headers: [{name: traffic, exact: test}]}]"),
    ]


def test_the_shares_of_every_act_add_up():
    assert all(sum(act.shares.values()) == 1 for act in ACTS)
    assert all(set(act.shares) <= act.known for act in ACTS)
