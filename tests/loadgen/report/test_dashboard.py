from datetime import UTC, datetime

import pytest
from runs import lognormal, outcome, series

from loadgen.outcome import Outcome, Series
from loadgen.report.dashboard import grpc_dashboard, http_dashboard

RESULT = {
    "name": "my-name",
    "namespace": "my-namespace",
    "revision": 3,
    "startTime": "2026-11-29T23:00:00Z",
    "numCompletedTasks": 5,
    "failure": False,
    "iter8Version": "v1.1",
}


def test_http_has_the_shape_that_the_boards_read() -> None:
    values = lognormal(0.016, 1000)
    run = outcome(series("unknown", values, failures={"status 500": 30, "connection refused": 20}))
    made = http_dashboard({"http://httpbin.default/get": run}, RESULT)
    endpoint = made["Endpoints"]["http://httpbin.default/get"]
    assert set(endpoint) == {
        "Durations",
        "Statistics",
        "Error durations",
        "Error statistics",
        "Return codes",
    }
    assert endpoint["Return codes"] == {"-1": 20, "200": 950, "500": 30}
    statistics = endpoint["Statistics"]
    assert statistics["Count"] == 1000
    assert statistics["Mean"] == pytest.approx(values.mean() * 1000)
    assert statistics["Max"] == pytest.approx(values.max() * 1000)
    assert endpoint["Error statistics"]["Count"] == 50
    assert sum(each["Value"] for each in endpoint["Durations"]) == 1000
    assert {each["Version"] for each in endpoint["Durations"]} == {"0"}
    start, _, end = endpoint["Durations"][3]["Bucket"].partition(" - ")
    assert float(start) < float(end)
    assert made["ExperimentResult"] == {
        "Name": "my-name",
        "Namespace": "my-namespace",
        "Revision": 3,
        "Start time": "29 Nov 26 23:00 UTC",
        "Completed tasks": 5,
        "Failure": False,
        "Insights": None,
        "Iter8 version": "v1.1",
    }


def test_versions_share_their_buckets() -> None:
    run = outcome(series("v1", lognormal(0.01, 500)), series("v2", lognormal(0.1, 500)))
    durations = http_dashboard({"x": run}, {})["Endpoints"]["x"]["Durations"]
    buckets = {
        version: {each["Bucket"] for each in durations if each["Version"] == version} for version in ("v1", "v2")
    }
    assert buckets["v1"] & buckets["v2"]
    assert all(sum(each["Value"] for each in durations if each["Version"] == version) == 500 for version in buckets)


def test_grpc_has_the_upper_marks_and_the_status_codes() -> None:
    run = outcome(
        Series("x", "v1", failed=200, codes={"Unavailable": 200}, metrics=series("v1", [0.0196] * 200).metrics)
    )
    endpoint = grpc_dashboard({"a.B.c": run}, {"startTime": datetime(2026, 1, 2, 3, 4, tzinfo=UTC)})["Endpoints"][
        "a.B.c"
    ]
    assert endpoint["Statistics"] == {"Count": 200, "ErrorCount": 200}
    assert endpoint["Status codes"] == {"Unavailable": 200}
    assert sum(each["Value"] for each in endpoint["Durations"]) == 200
    assert float(endpoint["Durations"][0]["Bucket"]) == pytest.approx(19.6, abs=0.1)


@pytest.mark.parametrize("given", [None, "", 0, "2026-01-02T03:04:05"])
def test_nothing_measured_is_an_empty_board(given: object) -> None:
    made = http_dashboard({"x": Outcome("x", 0.0, 0.0, (), ())}, {"startTime": given})
    assert made["Endpoints"]["x"]["Durations"] == []
    assert made["Endpoints"]["x"]["Statistics"] == {"Count": 0, "Mean": 0, "StdDev": 0, "Min": 0, "Max": 0}
    assert grpc_dashboard({}, {})["Endpoints"] == {}
