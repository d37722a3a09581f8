from collections.abc import Mapping

import pytest
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from benchmarks.fleet_models import MODEL, plan
from benchmarks.google_messages import google_class
from benchmarks.one_route_table import TABLE, OneRouteTable
from benchmarks.storm import Phase, shares
from benchmarks.swarm import node
from benchmarks.traffic import Records
from xds.ir import Gateway, Listener
from xds.resources import Type
from xds.translate import translate


def routes(routes: int) -> bytes:
    return translate(plan(routes, 1))[Type.ROUTE][MODEL].body


def test_the_fan_out_changes_a_configuration_of_17_700_bytes():
    assert len(routes(101)) == pytest.approx(17_700, rel=0.02)


def test_the_padded_node_is_as_large_as_a_real_envoys_and_can_be_read():
    encoded = node("default", 61_000)
    assert len(encoded) == pytest.approx(61_000, rel=0.01)
    assert Node.parse(encoded).cluster == "default"


def test_the_rivals_google_messages_lose_nothing():
    body = routes(3)
    twin = google_class(RouteConfiguration).FromString(body)
    assert twin.name == MODEL
    assert RouteConfiguration.parse(twin.SerializeToString()) == RouteConfiguration.parse(body)


def test_the_rivals_table_has_a_virtual_host_per_model_with_its_hosts_and_routes():
    gateway = Gateway("default", (Listener("http", "127.0.0.1", 0),))
    table = OneRouteTable(gateway)
    table.apply(plan(3, 1))
    cache = table.caches["default"]
    assert cache.get(Type.ROUTE, TABLE) is None, "nothing is published while models are loaded"
    table.open()
    published = cache.get(Type.ROUTE, TABLE)
    assert published is not None
    (virtual_host,) = RouteConfiguration.parse(published.body).virtual_hosts
    (own,) = RouteConfiguration.parse(routes(3)).virtual_hosts
    assert virtual_host.domains == ["busy.example"]
    assert virtual_host.routes == own.routes


def records(*requests: tuple[float, float, int]) -> Records:
    made = Records(versions=["v1", "v2"])
    for sent, done, version in requests:
        made.sent.append(sent)
        made.done.append(done)
        made.arm.append(version)
    return made


def test_an_answer_counts_for_a_setting_only_between_its_ack_and_the_next_change():
    phases = [Phase((50, 50), 1.0, 2.0), Phase((0, 100), 3.0, 4.0)]
    asked = records(
        (0.5, 0.6, 1), (1.1, 1.2, 0), (1.3, 1.4, 1), (1.9, 2.1, 1), (2.5, 2.6, 0), (3.1, 3.2, 1), (5.0, 5.1, 0)
    )
    counted: Mapping[tuple[int, int], tuple[int, int]] = shares(asked, phases)
    assert counted[50, 50] == (2, 1)
    assert counted[0, 100] == (1, 1)


def test_records_survive_the_way_through_a_file(tmp_path):
    written = Records()
    written.add(1.0, "v2")
    written.fail(2.0, "HTTP 503")
    written.write(tmp_path / "records")
    read = Records.read(tmp_path / "records")
    assert (len(read), read.failed, read.versions) == (2, 1, ["v2"])
    assert read.sent == written.sent
    assert read.failures == [{"sent": 2.0, "why": "HTTP 503"}]
