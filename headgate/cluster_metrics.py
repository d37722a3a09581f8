"""How a replica gets on with the cluster that it follows, counted when somebody scrapes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from headgate.cluster import ClusterParts

_PREFIX = "headgate_kubernetes"


class ClusterMetrics(Collector):
    """A Prometheus collector over the parts."""

    def __init__(self, parts: ClusterParts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        parts, now = self._parts, time.monotonic()
        yield _gauge("followed", "Whether the API server is being followed now.", parts.source.trouble is None)
        objects = GaugeMetricFamily(f"{_PREFIX}_objects", "Objects known, by resource.", labels=("resource",))
        heard = GaugeMetricFamily(
            f"{_PREFIX}_heard_age_seconds", "Time since the API server last said anything.", labels=("resource",)
        )
        totals: dict[str, int] = {}
        ages: dict[str, float] = {}
        for one in parts.source.reflectors:
            resource = one.path.rpartition("/")[2]
            totals[resource] = totals.get(resource, 0) + len(one.objects)
            if one.heard_at is not None:
                ages[resource] = max(ages.get(resource, 0.0), now - one.heard_at)
        for resource, count in totals.items():
            objects.add_metric((resource,), count)
        for resource, age in ages.items():
            heard.add_metric((resource,), age)
        yield from (objects, heard)
        yield _gauge("leads", "Whether this replica writes.", parts.leads)
        yield _gauge("replicas", "Live replicas, this one included.", len(parts.members()))
        yield _gauge("draining", "Resources whose deletion waits for their last requests.", len(parts.draining()))
        written = parts.written()
        if written is not None:
            queue = written.queue
            yield _gauge("status_queue", "Statuses that wait to be looked at.", queue.ready + queue.working)
            for name, help_, value in (
                ("status_writes", "Statuses written.", written.writes),
                ("status_conflicts", "Status writes that came too late and were made again.", written.conflicts),
                ("status_failures", "Status writes that were refused or lost.", written.failures),
            ):
                yield CounterMetricFamily(f"{_PREFIX}_{name}", help_, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=value)
