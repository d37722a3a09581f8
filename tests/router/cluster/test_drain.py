"""When a resource may go: never while a request is in progress, never too late, and always with a reason."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.drain import HOLD, UNREPORTED, Answers, Task, User, Verdict, Witness, protectable, task, verdict
from router.cluster.resource import BUILT_IN, resource_types
from router.replica import Load, Progress, Report, Reports

OLD = User("shop/iris", "v1", settle=1.0)
CLUSTER = "shop/iris/v1"
MODEL = "shop/iris"


def said(
    identity: str = "a",
    *,
    nodes: tuple[str, ...] = ("envoy-1",),
    lagging: dict[str, str] | None = None,
    loads: dict[str, tuple[int, float]] | None = None,
    routed: bool = False,
    reporting: tuple[str, ...] | None = None,
    age: float = 100.0,
    knows: bool = True,
) -> Report:
    """One replica's report; `loads` by Envoy are (requests in progress, seconds ago)."""
    heard = {node: Load(*one) for node, one in ((loads or {}).items())}
    return Report(
        identity,
        age,
        models={MODEL: Progress("p", "default", frozenset(nodes), lagging or {})} if knows else {},
        loads={CLUSTER: heard} if knows else {},
        reporting=frozenset(nodes if reporting is None else reporting),
        routed=frozenset({CLUSTER} if routed else ()),
    )


class Drain:
    """A drain that is asked again and again."""

    def __init__(self, *users: User, deadline: float = 300.0) -> None:
        self.users, self.deadline, self.witness = users or (OLD,), deadline, Witness()

    def at(
        self, now: float, *reports: Report, unreachable: tuple[str, ...] = (), quiet: float = 100.0, waited: float = 0.0
    ) -> Verdict:
        answers = Answers(Reports(reports, unreachable), now, now)
        self.witness.see(self.users, answers)
        return verdict(self.users, answers, self.witness, waited=waited, deadline=self.deadline, quiet=quiet)


def test_it_waits_for_the_routes_then_the_envoys_then_their_requests():
    drain = Drain()
    assert drain.at(0, said(routed=True)).why == "waiting for the routes to leave v1 of shop/iris on a"
    behind = said(nodes=("envoy-1", "envoy-2"), lagging={"envoy-2": "no ACK yet"}, loads={"envoy-1": (0, 0.0)})
    assert drain.at(1, behind).why == ("waiting for 1 of 2 Envoys to leave v1 of shop/iris: envoy-2 (no ACK yet)")
    both = ("envoy-1", "envoy-2")
    busy = said(nodes=both, loads={"envoy-1": (0, 0.0), "envoy-2": (3, 0.0)})
    assert drain.at(2, busy).why == "waiting for 3 requests in progress at v1 of shop/iris on envoy-2"
    early = said(nodes=both, loads={"envoy-1": (0, 0.0), "envoy-2": (0, 0.0)})
    assert drain.at(2.9, early).why == "waiting for a load report about v1 of shop/iris from envoy-2"
    assert drain.at(3.0, early) == Verdict(True, "no request is in progress any more")


def test_a_report_from_before_the_ack_proves_nothing():
    drain = Drain()
    drain.at(10, said(loads={"envoy-1": (0, 0.1)}))
    assert not drain.at(15, said(loads={"envoy-1": (0, 4.5)})).release
    assert drain.at(15, said(loads={"envoy-1": (0, 0.5)})).release


def test_routes_that_come_back_begin_it_anew():
    drain = Drain()
    drain.at(0, said())
    drain.at(10, said(routed=True))
    drain.at(11, said())
    assert not drain.at(11.5, said(loads={"envoy-1": (0, 0.0)})).release
    assert drain.at(12, said(loads={"envoy-1": (0, 0.0)})).release


def test_what_an_envoy_lacks_later_does_not_matter():
    drain = Drain()
    drain.at(0, said())
    assert drain.at(5, said(lagging={"envoy-1": "not sent yet"}, loads={"envoy-1": (0, 0.0)})).release


def test_an_envoy_without_load_reports_gets_time_instead():
    drain = Drain()
    assert drain.at(0, said(reporting=())).why.startswith("envoy-1 cannot report requests in progress")
    assert not drain.at(UNREPORTED - 1, said(reporting=())).release
    assert drain.at(UNREPORTED, said(reporting=())).release


def test_an_envoy_may_report_to_another_replica_than_the_one_it_has_its_routes_from():
    drain = Drain()

    def both(loads: dict[str, tuple[int, float]]) -> tuple[Report, Report]:
        return said("a", reporting=()), said("b", nodes=(), reporting=("envoy-1",), loads=loads)

    assert drain.at(0, *both({})).why == "waiting for a load report about v1 of shop/iris from envoy-1"
    assert (
        drain.at(5, *both({"envoy-1": (2, 0.0)})).why
        == "waiting for 2 requests in progress at v1 of shop/iris on envoy-1"
    )
    assert not drain.at(5, *both({"envoy-1": (0, 4.5)})).release
    assert drain.at(5, *both({"envoy-1": (0, 0.0)})).release


def test_an_envoy_that_two_replicas_hear_of_is_idle_when_both_say_so():
    drain = Drain()

    def both(here: dict[str, tuple[int, float]], there: dict[str, tuple[int, float]]) -> tuple[Report, Report]:
        return said("a", loads=here), said("b", nodes=(), reporting=("envoy-1",), loads=there)

    idle, busy = {"envoy-1": (0, 0.0)}, {"envoy-1": (1, 0.0)}
    drain.at(0, *both(idle, idle))
    assert not drain.at(5, *both(idle, busy)).release
    assert not drain.at(5, *both(busy, idle)).release
    assert not drain.at(5, *both(idle, {})).release
    assert not drain.at(5, *both(idle, {"envoy-1": (0, 5.0)})).release
    assert drain.at(5, *both(idle, idle)).release


def test_an_envoy_whose_load_reports_break_off_gets_that_time_from_then():
    drain = Drain()
    drain.at(0, said(loads={"envoy-1": (2, 0.0)}))
    drain.at(100, said(loads={"envoy-1": (2, 0.0)}))
    assert not drain.at(101, said(reporting=())).release
    assert drain.at(100 + UNREPORTED, said(reporting=())).release


def test_an_envoy_that_loses_its_stream_is_given_time_to_come_back():
    drain = Drain()
    drain.at(0, said(loads={"envoy-1": (2, 0.0)}))
    assert drain.at(1, said(nodes=())).why == "waiting 5 s for envoy-1 to connect again"
    elsewhere = said("b", loads={"envoy-1": (2, 0.0)})
    assert not drain.at(2, said(nodes=()), elsewhere).release
    assert drain.at(2 + HOLD, said(nodes=())).release


@pytest.mark.parametrize(
    ("unreachable", "quiet", "age"), [(("b",), 100.0, 100.0), ((), HOLD - 0.1, 100.0), ((), 100.0, HOLD - 0.1)]
)
def test_nothing_goes_while_replicas_come_and_go(unreachable: tuple[str, ...], quiet: float, age: float):
    drain = Drain()
    drain.at(0, said())
    good = said(loads={"envoy-1": (0, 0.0)}, age=age)
    assert not drain.at(5, good, unreachable=unreachable, quiet=quiet).release
    assert drain.at(6, replace(good, age=HOLD), quiet=HOLD).release


def test_a_replica_that_does_not_answer_is_named():
    assert Drain().at(0, said(), unreachable=("b",)).why == "replica b does not answer"


def test_a_replica_that_misses_one_question_does_not_begin_anew():
    drain = Drain()
    drain.at(0, said("a"), said("b", nodes=("envoy-2",)))
    assert not drain.at(1, said("a"), unreachable=("b",)).release
    a, b = said("a", loads={"envoy-1": (0, 0.5)}), said("b", nodes=("envoy-2",), loads={"envoy-2": (0, 0.5)})
    assert drain.at(2, a, b).release


def test_a_replica_that_never_knew_the_model_holds_nothing_up():
    drain = Drain()
    drain.at(0, said("b", knows=False), said("a"))
    assert drain.at(1, said("b", knows=False), said("a", loads={"envoy-1": (0, 0.0)})).release


def test_the_last_version_goes_at_once_with_a_warning():
    found = Drain(replace(OLD, last=True)).at(0, said(routed=True))
    assert (found.release, found.warning) == (True, True)
    assert found.why == "nothing else can serve in place of v1 of shop/iris: requests fail from now on"


def test_a_shared_resource_waits_for_its_other_users():
    other = User("shop/wine", "v2")
    drain = Drain(replace(OLD, last=True), other)
    wine = Report("a", 100.0, models={"shop/wine": Progress("p", "d", frozenset())}, routed=frozenset({"shop/wine/v2"}))
    assert drain.at(0, wine).why == "waiting for the routes to leave v2 of shop/wine on a"
    assert drain.at(1, replace(wine, routed=frozenset())).release


def test_what_nobody_uses_goes():
    drain = Drain()
    drain.users = ()
    assert drain.at(0, said()) == Verdict(True, "no version consists of it any more")
    assert not drain.at(0).release, "not before anybody has answered"


def test_the_deadline_ends_it_and_says_what_it_cost():
    drain = Drain(deadline=300)
    drain.at(0, said())
    busy = said(loads={"envoy-1": (2, 0.0)})
    assert not drain.at(299, busy, waited=299).release
    assert drain.at(300, busy, waited=300) == Verdict(
        True, "deadline of 300 s passed with 2 requests in progress", True
    )
    unheard = drain.at(301, said(routed=True), waited=301)
    assert unheard.why == "deadline of 300 s passed still waiting for the routes to leave v1 of shop/iris on a"


# Laws

nodes = st.sampled_from(["envoy-1", "envoy-2", "envoy-3"])
a_report = st.builds(
    lambda identity, connected, lagging, loads, routed, silent, age: said(
        identity,
        nodes=tuple(sorted(connected)),
        lagging=dict.fromkeys(sorted(lagging & connected), "no ACK yet"),
        loads={node: load for node, load in loads.items() if node in connected},
        routed=routed,
        reporting=tuple(sorted(connected - silent)),
        age=age,
    ),
    st.just("a"),
    st.frozensets(nodes),
    st.frozensets(nodes, max_size=1),
    st.dictionaries(nodes, st.tuples(st.integers(0, 2), st.floats(0, 10))),
    st.booleans(),
    st.frozensets(nodes, max_size=1),
    st.sampled_from([1.0, 100.0]),
)
step = st.tuples(
    st.floats(0.1, 5),
    st.lists(a_report, max_size=3).map(lambda all: [replace(one, identity="abc"[i]) for i, one in enumerate(all)]),
    st.sampled_from([(), ("z",)]),
)


@given(st.lists(step, min_size=1, max_size=6))
def test_nothing_is_released_over_a_request_in_progress(steps):
    """Whatever was heard before: an Envoy that has a request there now, or a route to it, keeps the resource."""
    drain, now = Drain(), 0.0
    for wait, reports, unreachable in steps:
        now += wait
        if drain.at(now, *reports, unreachable=unreachable).release:
            assert not unreachable
            for report in reports:
                assert not report.routed
                for node, load in report.loads[CLUSTER].items():
                    assert node not in report.reporting or load.in_progress == 0


@given(st.lists(step, min_size=1, max_size=5))
def test_whatever_happened_it_ends_when_all_is_quiet(steps):
    drain, now = Drain(), 0.0
    for wait, reports, unreachable in steps:
        now += wait
        drain.at(now, *reports, unreachable=unreachable)
    calm = said(loads={"envoy-1": (0, 0.0)})
    drain.at(now + 1, calm)
    assert drain.at(now + 1 + HOLD, calm).release


@given(st.lists(step, min_size=1, max_size=6))
def test_the_deadline_always_ends_it(steps):
    drain = Drain(deadline=10)
    for _, reports, unreachable in steps:
        assert drain.at(0, *reports, unreachable=unreachable, waited=10, quiet=0).release


@given(st.lists(step, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_reports_does_not_matter(steps, dice: random.Random):
    one, other, now = Drain(), Drain(), 0.0
    for wait, reports, unreachable in steps:
        now += wait
        shuffled = dice.sample(reports, len(reports))
        assert one.at(now, *reports, unreachable=unreachable) == other.at(now, *shuffled, unreachable=unreachable)


def test_only_what_is_used_labelled_and_alive_is_protected():
    assert task(protected=False, watched=True, used=True, deleted=False) is Task.PROTECT
    assert task(protected=False, watched=True, used=True, deleted=True) is Task.NOTHING
    assert task(protected=False, watched=False, used=True, deleted=False) is Task.NOTHING
    assert task(protected=False, watched=True, used=False, deleted=False) is Task.NOTHING


def test_what_is_protected_drains_when_deleted_or_unused_and_goes_at_once_without_its_label():
    assert task(protected=True, watched=True, used=True, deleted=False) is Task.NOTHING
    assert task(protected=True, watched=True, used=True, deleted=True) is Task.DRAIN
    assert task(protected=True, watched=True, used=False, deleted=False) is Task.DRAIN
    assert task(protected=True, watched=False, used=True, deleted=True) is Task.RELEASE


def test_what_serves_can_be_protected():
    kinds, problems = resource_types(
        {
            "knative": {
                "group": "serving.knative.dev",
                "version": "v1",
                "resource": "services",
                "conditions": ["Ready"],
            },
            "plain": {"group": "example.com", "version": "v1", "resource": "plains"},
            "mine": {"version": "v1", "resource": "configmaps", "conditions": ["Ready"]},
        }
    )
    assert not problems
    assert {name for name in kinds if protectable(kinds[name])} == {
        "svc", "service", "deploy", "sts", "isvc", "sdep", "knative",
    }  # fmt: skip
    assert BUILT_IN.keys() < kinds.keys()
