"""Requests that stand for many: whose id is told beside which bucket and counter."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sidecar.metrics.bounds import BOUNDS
from sidecar.metrics.families import OPENMETRICS, TEXT, Own, page
from sidecar.metrics.stats import Key, Outcome
from sidecar.metrics.totals import Figures, Times
from sidecar.stream.examples import exemplars
from sidecar.stream.requests import Requests

V1 = Key("default", "iris", "v1", "primary")


def entry(number: str, took: str = "2343", first: str = "2100", *, code: int = 200) -> list[Any]:
    by = f"{code}|-|-|v1@default/iris|default/iris/v1|v1"
    text = "\n".join((by, "alice", "-", f"1795255762.5|{took}|{first}|1|2|GET", "/", number, "curl", ""))
    return [1795255762, {"2": text}]


def shown(taken: Requests, kind: str = OPENMETRICS) -> str:
    ones = tuple(range(1, len(BOUNDS) + 1))
    times = {"duration": Times(BOUNDS, ones), "first_byte": Times(BOUNDS, ones)}
    sums = {"duration_us": 5, "first_byte_us": 5}
    figures = Figures({Outcome("200", ""): 20, Outcome("503", ""): 8}, sums, times)
    return page({V1: figures}, Own(), kind, (), exemplars(taken))


def told(taken: Requests) -> dict[tuple[str, str], tuple[str, float]]:
    """Ids and values, by name and by `le` or `code`."""
    found = {}
    for family in text_string_to_metric_families(shown(taken)):
        for sample in family.samples:
            if sample.exemplar is not None:
                label = sample.labels.get("le") or sample.labels["code"]
                found[sample.name, label] = (sample.exemplar.labels["request_id"], sample.exemplar.value)
                assert float(sample.exemplar.timestamp) == 1795255762.5
    return found


def test_the_last_request_stands_beside_its_bucket_and_its_outcome() -> None:
    taken = Requests()
    taken.take([entry("a", "2343"), entry("b", "2500"), entry("c", "700000", "3000", code=503)])
    assert told(taken) == {
        ("headgate_requests_total", "200"): ("b", 1.0),
        ("headgate_requests_total", "503"): ("c", 1.0),
        ("headgate_request_duration_seconds_bucket", "0.003"): ("b", 0.0025),
        ("headgate_request_duration_seconds_bucket", "0.75"): ("c", 0.7),
        ("headgate_time_to_first_byte_seconds_bucket", "0.003"): ("c", 0.003),
    }


def test_only_openmetrics_has_them() -> None:
    taken = Requests()
    taken.take([entry("a")])
    assert "# {" in shown(taken)
    assert "# {" not in shown(taken, TEXT)


def test_a_request_without_an_id_or_times_stands_for_nothing() -> None:
    taken = Requests()
    taken.take([entry("-"), entry("d", "-", "-", code=503)])
    assert told(taken) == {("headgate_requests_total", "503"): ("d", 1.0)}


@pytest.mark.parametrize("written", ['"} 1 # {x="', "a b", "\u00e9", "x" * 65, ""])
def test_an_id_that_might_be_read_as_anything_else_is_not_told(written: str) -> None:
    taken = Requests()
    taken.take([entry(written)])
    assert told(taken) == {}


def test_beyond_the_last_bound_there_is_no_bucket_to_stand_beside() -> None:
    taken = Requests()
    taken.take([entry("late", "7200000000", "7200000000", code=503)])
    assert told(taken) == {("headgate_requests_total", "503"): ("late", 1.0)}
