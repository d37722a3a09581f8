"""What Envoys are asked to report, and what is believed of it, with a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterStats, UpstreamLocalityStats
from envoy_data_plane.envoy.service.load_stats.v3 import LoadStatsRequest, LoadStatsResponse

from xds.load_wire import LoadReport, ask_for, read_report
from xds.loads import IDLE_INTERVAL, INTERVAL, MOST_WATCHED, Load, Loads, Reporter
from xds.wire import Garbage

V1, V2 = "default/iris/v1", "default/iris/v2"


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loads(clock: Clock) -> Loads:
    return Loads(["default", "edge"], clock)


def join(loads: Loads, node: str = "e1", gateway: str = "default") -> tuple[Reporter, list[str]]:
    woken: list[str] = []
    return loads.join(gateway, node, lambda: woken.append(node)), woken


def asked(reporter: Reporter) -> tuple[list[str], float] | None:
    raw = reporter.due()
    if raw is None:
        return None
    response = LoadStatsResponse.parse(raw)
    assert response.load_reporting_interval is not None
    return response.clusters, response.load_reporting_interval.total_seconds()


def report(**in_progress: int) -> LoadReport:
    return LoadReport(None, {f"default/iris/{version}": count for version, count in in_progress.items()})


def test_nobody_is_asked_while_nothing_is_watched(loads):
    reporter, woken = join(loads)
    assert asked(reporter) is None
    assert (woken, reporter.next_deadline()) == ([], None)


def test_a_watch_is_asked_for_at_once_and_only_of_its_gateway(loads):
    here, woken = join(loads)
    there, left_alone = join(loads, gateway="edge")
    loads.watch("default", [V2, V1])
    assert (woken, left_alone) == (["e1"], [])
    assert asked(here) == ([V1, V2], INTERVAL)
    assert asked(there) is None


def test_a_newcomer_is_asked_what_is_watched_already(loads):
    loads.watch("default", [V1])
    reporter, _ = join(loads)
    assert asked(reporter) == ([V1], INTERVAL)


def test_the_latest_report_is_kept_with_its_time(loads, clock):
    reporter, _ = join(loads)
    loads.watch("default", [V1])
    asked(reporter)
    reporter.receive(report(v1=3))
    clock.now += 0.5
    reporter.receive(report(v1=2))
    assert loads.in_progress("default", V1) == {"e1": Load(2, 100.5)}


def test_renewing_a_watch_asks_nothing_anew(loads, clock):
    """Every message begins Envoy's interval anew: one that is asked often enough would never report."""
    reporter, woken = join(loads)
    loads.watch("default", [V1])
    asked(reporter)
    reporter.receive(report(v1=1))
    clock.now += 4.9
    loads.watch("default", [V1])
    clock.now += 4.9
    assert asked(reporter) is None
    assert woken == ["e1"]
    assert loads.in_progress("default", V1)


def test_a_wish_that_changes_waits_for_the_report_that_is_owed(loads):
    reporter, _ = join(loads)
    loads.watch("default", [V1])
    asked(reporter)
    loads.watch("default", [V2])
    assert asked(reporter) is None
    reporter.receive(report(v1=1))
    assert asked(reporter) == ([V1, V2], INTERVAL)


def test_a_watch_ends_by_itself_and_what_was_said_is_forgotten(loads, clock):
    reporter, _ = join(loads)
    loads.watch("default", [V1], seconds=5.0)
    asked(reporter)
    reporter.receive(report(v1=1))
    assert reporter.next_deadline() == 105.0
    clock.now = 105.0
    assert loads.in_progress("default", V1) == {}
    assert asked(reporter) == ([], IDLE_INTERVAL)
    loads.watch("default", [V1])
    assert loads.in_progress("default", V1) == {}, "a report of an earlier watch came back to life"
    assert asked(reporter) == ([V1], INTERVAL), "after a rest a watch is asked for at once"


def test_a_shorter_wish_does_not_cut_a_longer_one_short(loads, clock):
    reporter, _ = join(loads)
    loads.watch("default", [V1], seconds=10.0)
    loads.watch("default", [V1], seconds=1.0)
    assert reporter.next_deadline() == 110.0


def test_a_cluster_that_the_report_leaves_out_is_unknown_not_idle(loads):
    """Envoy names an idle cluster with 0; one that it lacks may have requests that it no longer counts."""
    reporter, _ = join(loads)
    loads.watch("default", [V1, V2])
    asked(reporter)
    reporter.receive(report(v1=1, v2=0))
    assert loads.in_progress("default", V2) == {"e1": Load(0, 100.0)}
    reporter.receive(report(v1=1))
    assert loads.in_progress("default", V2) == {}


def test_what_nobody_asked_for_is_not_kept(loads):
    reporter, _ = join(loads)
    loads.watch("default", [V1])
    reporter.receive(report(v1=7))  # before it was asked: what Envoy remembers of an earlier stream
    assert loads.in_progress("default", V1) == {}
    asked(reporter)
    reporter.receive(report(v1=1, v2=1, v3=1))
    assert set(reporter.loads) == {V1}


def test_each_node_counts_for_itself(loads):
    for node, count in (("e1", 1), ("e2", 0)):
        reporter, _ = join(loads, node)
        loads.watch("default", [V1])
        asked(reporter)
        reporter.receive(report(v1=count))
    join(loads, "silent")
    assert loads.in_progress("default", V1) == {"e1": Load(1, 100.0), "e2": Load(0, 100.0)}
    assert loads.reporting("default") == {"e1", "e2", "silent"}


@pytest.mark.parametrize("silent_first", [False, True])
def test_two_clients_that_share_a_node_id_count_together_or_not_at_all(loads, clock, silent_first):
    loads.watch("default", [V1])
    older, _ = join(loads)
    newer, _ = join(loads)
    asked(older)
    asked(newer)
    (newer if silent_first else older).receive(report(v1=2))
    assert loads.in_progress("default", V1) == {}
    clock.now += 1
    (older if silent_first else newer).receive(report(v1=1))
    assert loads.in_progress("default", V1) == {"e1": Load(3, 100.0)}


def test_who_leaves_is_forgotten(loads):
    reporter, _ = join(loads)
    loads.watch("default", [V1])
    asked(reporter)
    reporter.receive(report(v1=1))
    loads.leave(reporter)
    assert loads.in_progress("default", V1) == {}
    assert loads.reporting("default") == frozenset()


def test_an_unknown_gateway_has_no_envoys(loads):
    loads.watch("nowhere", [V1])
    assert loads.reporting("nowhere") == frozenset()
    assert loads.in_progress("nowhere", V1) == {}


def test_what_can_be_watched_is_bounded(loads, clock):
    reporter, _ = join(loads)
    loads.watch("default", (str(number) for number in range(MOST_WATCHED + 5)))
    assert len(loads.wanted("default")) == MOST_WATCHED
    clock.now += 5
    loads.watch("default", [V1])
    assert asked(reporter) == ([V1], INTERVAL)


# The wire


def test_a_report_adds_localities_up_and_names_idle_clusters():
    raw = bytes(
        LoadStatsRequest(
            node=Node(id="e1", cluster="default"),
            cluster_stats=[
                ClusterStats(
                    cluster_name=V1,
                    upstream_locality_stats=[
                        UpstreamLocalityStats(total_requests_in_progress=2, total_issued_requests=9),
                        UpstreamLocalityStats(total_requests_in_progress=3),
                    ],
                ),
                ClusterStats(cluster_name=V2),
            ],
        )
    )
    read = read_report(raw)
    assert read.node is not None
    assert (read.node.id, read.node.cluster) == ("e1", "default")
    assert read.in_progress == {V1: 5, V2: 0}


def test_garbage_is_named():
    with pytest.raises(Garbage, match="not a LoadStatsRequest"):
        read_report(b"\xff\xff")


@pytest.mark.parametrize("interval", [0.5, 2.0, 600.25])
def test_an_ask_reads_as_it_was_meant(interval):
    response = LoadStatsResponse.parse(ask_for([V1, "ä"], interval))
    assert response.clusters == [V1, "ä"]
    assert response.load_reporting_interval is not None
    assert response.load_reporting_interval.total_seconds() == interval
    assert not response.send_all_clusters
