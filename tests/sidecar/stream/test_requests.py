"""What becomes of entries, without an Envoy: counts, clients, figures, bounds, rubbish."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sidecar.metrics.families import OPENMETRICS, Own, page
from sidecar.metrics.llm import Version
from sidecar.stream import requests
from sidecar.stream.figures import HELP, families
from sidecar.stream.layout import Malformed, document
from sidecar.stream.losses import PATH, SETTLE, Losses
from sidecar.stream.receiver import LONGEST_MESSAGE, MOST_CONNECTIONS, Receiver
from sidecar.stream.requests import Requests

V1 = Version("default", "iris", "v1")
REST = ("1795255762.334705|2343|2238|100|282|POST", "/v2/models/iris/infer", "e655daa6", "curl/8")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Admin:
    """Envoy's two figures."""

    buffered, lost = 0, 0

    async def get(self, path: str) -> bytes:
        named = {"entries_buffered": self.buffered, "entries_lost": self.lost}
        stats = [{"name": f"access_logs.fluentd.headgate.{name}", "value": value} for name, value in named.items()]
        return json.dumps({"stats": stats}).encode()


class Transport:
    closed = False

    def close(self) -> None:
        self.closed = True


def entry(
    *,
    code: int = 200,
    version: str = "v1",
    client: str = "alice",
    labels: tuple[str, ...] = (),
    metadata: str = "-",
    names: str = "2",
    rest: tuple[str, ...] = REST,
) -> list[Any]:
    by = f"{code}|-|-|v1@default/iris|default/iris/{version}|{version}"
    return [1795255762, {names: "\n".join((by, client, metadata, *rest, "\r".join(labels)))}]


def connected(receiver: Receiver) -> tuple[Any, Transport]:
    transport, connection = Transport(), receiver.connection()
    connection.connection_made(transport)  # type: ignore[arg-type]
    return connection, transport


def told(taken: Requests, losses: Losses | None = None) -> dict[tuple[str, ...], float]:
    """What Prometheus reads: values by name and the values of labels."""
    losses = losses or Losses(Admin(), lambda: 0)
    text = page({}, Own(), OPENMETRICS, families(Receiver(taken), losses))
    found = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for one in found for each in one.samples}


def test_entries_are_counted_by_version_outcome_and_label():
    taken = Requests()
    gold, free = ({"names": "2 tier", "labels": (tier,)} for tier in ("gold", "free"))
    taken.take([entry(**gold), entry(**gold), entry(**free, code=503), entry(**free, version="v2")])
    found = told(taken)
    of_v1 = ("headgate_stream_requests_total", "default", "iris", "v1", "primary")
    assert found[(*of_v1, "200", "gold")] == 2
    assert found[(*of_v1, "503", "free")] == 1
    assert found["headgate_stream_requests_total", "default", "iris", "v2", "candidate", "200", "free"] == 1
    assert found[("headgate_stream_entries_total",)] == 4


def test_every_family_is_on_the_page():
    assert set(HELP) == {one.name for one in families(Receiver(Requests()), Losses(Admin(), lambda: 0))}


def test_clients_are_counted_once_in_a_window():
    clock = Clock()
    taken = Requests(clock=clock)
    taken.take([entry(client=client) for client in ("alice", "bob", "alice", "-")])
    assert taken.clients == {}
    clock.now = 60.0
    taken.take([entry(client="carol")])
    assert taken.clients == {V1: 2}
    clock.now = 120.0
    taken.turn()
    assert taken.clients == {V1: 1}
    clock.now = 600.0
    taken.turn()
    assert taken.clients == {V1: 0}


def test_figures_of_an_llm_come_from_the_metadata_of_plugins():
    taken = Requests()
    said = {"tokens_in": 17, "tokens_out": 140, "time_to_first_token": 0.25, "time_between_tokens": 0.01}
    taken.take([entry(metadata=json.dumps(said)), entry(metadata='{"tokens_out": 2, "tokens_in": "many"}'), entry()])
    found = told(taken)
    assert found["headgate_stream_tokens_total", "default", "iris", "v1", "in"] == 17
    assert found["headgate_stream_tokens_total", "default", "iris", "v1", "out"] == 142
    first = ("headgate_stream_time_to_first_token_seconds_bucket", "default", "iris", "v1")
    assert (found[(*first, "0.1")], found[(*first, "0.25")], found[(*first, "+Inf")]) == (0, 1, 1)
    assert found["headgate_stream_time_between_tokens_seconds_sum", "default", "iris", "v1"] == 0.01


@pytest.mark.parametrize("metadata", ['{"tokens_in": 1', "{]", '{"a":' * 5_000])
def test_metadata_that_cannot_be_read_cost_only_themselves(metadata):
    taken = Requests()
    taken.take([entry(metadata=metadata[:2_000])])
    assert (taken.entries, dict(taken.refused)) == (1, {"metadata": 1})


@pytest.mark.parametrize("value", ["NaN", "1e400", "-1", "true", "[1]", "null"])
def test_a_figure_that_is_no_number_counts_as_none(value):
    taken = Requests()
    taken.take([entry(metadata=f'{{"time_to_first_token": {value}}}')])
    assert taken.llms.versions() == []


def test_nobody_can_make_up_ever_more_values_of_a_label():
    taken = Requests()
    taken.take([entry(names="2 tier", labels=(f"tier-{number}",)) for number in range(1_000)])
    counts = {labels[-1][1]: count for labels, count in taken.counts().items()}
    assert (len(counts), counts["other"], sum(counts.values())) == (101, 900, 1_000)


def test_there_is_an_end_of_versions_clients_and_kept_requests(monkeypatch):
    monkeypatch.setattr(requests, "MOST_VERSIONS", 10)
    monkeypatch.setattr(requests, "MOST_CLIENTS", 5)
    clock = Clock()
    taken = Requests(kept=7, clock=clock)
    taken.take([entry(version=f"v{number % 20}", client=f"user-{number}") for number in range(1_000)])
    clock.now = 60.0
    taken.turn()
    assert len(taken.clients) == 10
    assert set(taken.clients.values()) == {5}
    assert (taken.entries, taken.refused["no-room"], len(taken)) == (500, 500, 7)


def test_too_much_text_is_refused():
    taken = Requests()
    taken.take([entry(rest=(*REST[:-1], "x" * 10_000)), entry()])
    assert (taken.entries, dict(taken.refused)) == (1, {"too-large": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        [1, {}],
        [1],
        [1, {"2": 5}],
        [1, {"1": entry()[1]["2"]}],
        [1, {"2": "nothing"}],
        [1, {"2": "a\nb\nc\nd"}],
        entry(names="2 tier region", labels=("gold",)),
        entry(names="2 Tier", labels=("x",)),
        entry(names="2 a a", labels=("x", "y")),
        entry(rest=("1.5|-5|1|1|1|GET", *REST[1:])),
        entry(rest=("1.5|1e3|1|1|1|GET", *REST[1:])),
        entry(rest=("1.5|9999999999999|1|1|1|GET", *REST[1:])),
        entry(rest=("1.5", *REST[1:])),
        7,
        None,
    ],
)
def test_an_entry_that_is_none_is_refused_and_the_next_one_taken(wrong):
    taken = Requests()
    taken.take([wrong, entry()])
    assert (taken.entries, dict(taken.refused)) == (1, {"malformed": 1})
    assert sum(sum(one.counts) for one in taken.durations.values()) == 1


def test_durations_are_counted_in_the_buckets_of_envoy():
    taken = Requests()
    rest = {took: (f"1.5|{took}|1|1|1|GET", *REST[1:]) for took in ("500", "501", "7200000000", "-")}
    taken.take([entry(rest=each) for each in rest.values()])
    found, of_v1 = told(taken), ("default", "iris", "v1", "primary")
    name = "headgate_stream_request_duration_seconds"
    assert found[(f"{name}_bucket", *of_v1, "0.0005")] == 1
    assert found[(f"{name}_bucket", *of_v1, "0.001")] == 2
    assert found[(f"{name}_bucket", *of_v1, "3600.0")] == found[(f"{name}_count", *of_v1)] == 3
    assert found[(f"{name}_sum", *of_v1)] == 7200.001001


def test_a_document_has_what_people_ask_for():
    ((names, text),) = entry(names="2 tier", labels=("gold",), metadata='{"tokens_in": 3}', code=503)[1].items()
    one = document(names, text)
    assert (one["code"], one["grpc_status"], one["error"], one["version"]) == ("503", "", True, "v1")
    assert (one["duration_seconds"], one["request_bytes"], one["path"]) == (0.002343, 100, REST[1])
    assert (one["labels"], one["metadata"]) == ({"tier": "gold"}, {"tokens_in": 3})
    assert len(one["client"]) == 16
    assert "alice" not in json.dumps(one)


LINES = st.lists(st.text(alphabet=st.characters() | st.sampled_from('|\n\r-{"1'), max_size=20), max_size=12)


@given(st.text(max_size=60), st.text(max_size=30) | st.just(entry()[1]["2"].partition("\n")[0]), LINES)
def test_no_text_breaks_the_reader_of_entries(names, by, parts):
    for key in (names, "2", "2 tier"):
        taken, text = Requests(), "\n".join((by, *parts))
        taken.take([[0, {key: text}]])
        assert taken.entries + taken.refused["malformed"] == 1
        for pair in taken.last():
            try:
                json.dumps(document(*pair), allow_nan=False)
            except Malformed:
                assert text.count("\n") < 7 or text.split("\n")[3].count("|") < 5


def test_a_label_cannot_be_taken_for_anything_else():
    """A plugin may have it from a body, where there are line ends."""
    forged = 'x\ny\n{"tokens_out": 99}\n1|2|3|4|5|PUT\n/other\nid\nagent\rz'
    taken = Requests()
    taken.take([entry(names="2 tier", labels=(forged,))])
    assert taken.llms.versions() == []
    ((names, text),) = taken.last()
    one = document(names, text)
    assert (one["method"], one["path"], one["labels"]) == ("POST", REST[1], {"tier": forged})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(VALUES.map(msgpack.packb) | st.binary(max_size=60), max_size=6), st.integers(1, 50))
def test_no_bytes_break_a_connection_or_its_neighbour(messages, step):
    receiver = Receiver(Requests())
    good, kept = connected(receiver)
    bad, transport = connected(receiver)
    sent = b"".join(messages)
    for begin in range(0, len(sent), step):
        if not transport.closed:
            bad.data_received(sent[begin : begin + step])
    good.data_received(msgpack.packb(["headgate.requests", [entry()]]))
    assert not kept.closed
    assert good in receiver.connections
    assert (bad in receiver.connections) is not transport.closed
    assert receiver.requests.entries == 1


def test_a_message_may_come_in_pieces_and_several_at_once():
    receiver = Receiver(Requests())
    connection, transport = connected(receiver)
    sent = 3 * msgpack.packb(["headgate.requests", [entry(), entry()], {"chunk": "x"}])
    for byte in sent:
        connection.data_received(bytes((byte,)))
    connection.data_received(sent)
    assert (receiver.requests.entries, transport.closed) == (12, False)


def test_a_message_without_end_and_a_connection_too_many_are_ended():
    receiver = Receiver(Requests())
    connection, transport = connected(receiver)
    connection.data_received(b"\xdb\xff\xff\xff\xff")
    for _ in range(LONGEST_MESSAGE // 65_536 + 1):
        if not transport.closed:
            connection.data_received(bytes(65_536))
    assert transport.closed
    assert not any(connected(receiver)[1].closed for _ in range(MOST_CONNECTIONS))
    assert connected(receiver)[1].closed
    assert receiver.requests.refused == {"malformed": 1, "connection": 1}


def test_what_envoy_sent_and_never_came_is_lost():
    clock, came = Clock(), 10
    losses = Losses(Admin(), lambda: came, clock)
    losses.take(100, 7)  # 90 of them were another sidecar's
    assert (losses.envoy, losses.way) == (7, 0)
    came = 15
    losses.take(110, 7)
    clock.now = SETTLE - 0.1
    losses.take(130, 9)
    assert losses.way == 0
    clock.now = SETTLE
    losses.take(130, 9)
    assert (losses.envoy, losses.way) == (9, 5)
    clock.now, came = 3 * SETTLE, 35
    losses.take(0, 1)  # a new Envoy
    assert (losses.envoy, losses.way) == (10, 5)


def test_losses_are_read_from_envoy():
    import asyncio

    class Gone(Admin):
        async def get(self, path: str) -> bytes:
            return b"{}"

    admin = Admin()
    losses = Losses(admin, lambda: 0)
    admin.lost = 3
    asyncio.run(losses.read_once())
    assert losses.envoy == 3
    losses._source = Gone()
    asyncio.run(losses.read_once())
    assert losses.envoy == 3
    assert "entries_" in PATH
