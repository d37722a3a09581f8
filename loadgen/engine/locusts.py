"""locust as a library: its runners hold processes together and its web page shows them; measuring is ours.

Each process has one user that does nothing, for locust's states of a run. locust's table is filled in bulk once a
second: its percentiles are rounded as always, ours are not.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
import numpy as np
from locust import User, task
from locust.env import Environment
from locust.event import Events
from locust.stats import StatsError, bucket_response_time, stats_history

from loadgen.counts import Part, upper_ends
from loadgen.parts import Report, SeriesPart
from loadgen.plan import Plan, Scenario


class Idle(User):
    """Lives as long as the run."""

    @task
    def rest(self) -> None:
        gevent.sleep(3600)


def environment(plan: Plan | None = None) -> Any:
    """locust's Environment, without a runner yet. (Any: half of locust is untyped.)"""
    host = None if plan is None else ", ".join(sorted({each.target.url for each in plan.scenarios}))
    events: Any = Events
    return Environment(user_classes=[Idle], events=events(), host=host)


def open_page(made: Any, host: str, port: int) -> str:
    """locust's own web page. Gives its address; raises OSError where the port is taken."""
    page = made.create_web_ui(host=host, port=port)
    gevent.spawn(stats_history, made.runner)
    deadline = time.monotonic() + 5
    while not (server := getattr(page, "server", None)) or not server.started:
        if page.greenlet is not None and page.greenlet.dead:
            raise OSError(f"the web page cannot listen on {host}:{port}: is the port taken?")
        if time.monotonic() > deadline:
            raise OSError(f"the web page does not start on {host}:{port}")
        gevent.sleep(0.01)
    return f"http://{host or 'localhost'}:{server.server_port}/"


def show(made: Any, plan: Plan, report: Report) -> None:
    """Into locust's table, so that its page is alive."""
    now = time.time()
    for part in report.series:
        scenario = plan.scenarios[part.scenario]
        _enter(made.stats, _method(scenario), f"{scenario.name} {part.version}", part, now)


def _method(scenario: Scenario) -> str:
    return "gRPC" if scenario.target.grpc is not None else scenario.target.method


def _enter(stats: Any, method: str, name: str, part: SeriesPart, now: float) -> None:
    ended, errors = part.ok + part.failed + part.timed_out, part.failed + part.timed_out
    for entry in (stats.total, stats.entries[(name, method)]):
        second = int(now)
        if entry.use_response_times_cache and entry.last_request_timestamp:
            entry._cache_response_times(second - 1)
        entry.num_requests += ended
        entry.num_failures += errors
        entry.num_reqs_per_sec[second] += ended
        entry.num_fail_per_sec[second] += errors
        entry.last_request_timestamp = now
        entry.total_content_length += part.bytes_received
        for each in part.seconds:
            if each.latency is not None:
                _enter_times(entry, each.latency)
    for kind, count in part.failures.items():
        key = StatsError.create_key(method, name, kind)
        sample = f"{kind}: {part.samples[kind]}" if kind in part.samples else kind
        error = stats.errors.setdefault(key, StatsError(method, name, sample))
        error.occurrences += count


def _enter_times(entry: Any, latency: Part) -> None:
    entry.total_response_time += latency.total * 1000
    least, greatest = latency.least * 1000, latency.greatest * 1000
    entry.min_response_time = least if entry.min_response_time is None else min(entry.min_response_time, least)
    entry.max_response_time = max(entry.max_response_time, greatest)
    times = upper_ends(np.frombuffer(latency.indices, dtype="<i4").astype(np.int64)) / 1000
    for milliseconds, count in zip(times.tolist(), np.frombuffer(latency.counts, dtype="<i4").tolist(), strict=True):
        entry.response_times[bucket_response_time(milliseconds)] += count
