"""How many requests each Envoy has in progress at the clusters that somebody watches. Times and reports in, asks out.

Envoys report only what they are asked for, and only while it is wanted: `watch` is for some seconds and is renewed by
asking again. What a real Envoy 1.40 does, on which this rests (tests/xds/test_loads_in_envoy.py):

- It answers at the end of the interval, and every message from us begins the interval anew: asking more often than it
  reports would silence it. So a changed wish waits until the report on the present one is there.
- A cluster that it has, but that is idle, is in the report with 0. A cluster that it does not have is not in the
  report. That is no 0: a removed cluster's requests go on, uncounted. Such a cluster is unknown here.
- It counts by host. A host that left the cluster takes its requests out of the count although they go on: who wants
  to see the last request end keeps the cluster and its endpoints until then.
- It opens its stream again 5 s after it lost it, whatever the bootstrap says of retries; ADS is back within 0.5 s.
- Without a cluster to report, reports are empty, but carry the node (61 kB): hence the long interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from xds.load_wire import LoadReport, ask_for

INTERVAL = 0.5
"""Seconds between two reports while something is watched."""

IDLE_INTERVAL = 600.0
"""Seconds between two reports of nothing."""

MOST_WATCHED = 10_000
"""Clusters of one gateway that can be watched at a time; what is wished beyond that stays unknown."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in progress at a cluster, as one Envoy last said. `received_at` is on the monotonic clock."""

    in_progress: int
    received_at: float


class Loads:
    """What is watched, by gateway, and what the Envoys say of it."""

    def __init__(self, gateways: Iterable[str], clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self._watched: dict[str, dict[str, float]] = {name: {} for name in gateways}
        self._reporters: dict[str, dict[Reporter, None]] = {name: {} for name in self._watched}

    def watch(self, gateway: str, clusters: Iterable[str], seconds: float = 5.0) -> None:
        """Have the gateway's Envoys report these clusters for the next seconds. An unknown gateway has no Envoys."""
        watched = self._watched.get(gateway)
        if watched is None:
            return
        now = self.clock()
        self._expire(gateway, now)
        added = False
        for cluster in clusters:
            if cluster in watched:
                watched[cluster] = max(watched[cluster], now + seconds)
            elif len(watched) < MOST_WATCHED:
                watched[cluster] = now + seconds
                added = True
        if added:
            for reporter in self._reporters[gateway]:
                reporter.wake()

    def reporting(self, gateway: str) -> frozenset[str]:
        """The node ids that have a stream open for load reports."""
        return frozenset(reporter.node for reporter in self._reporters.get(gateway, ()))

    def in_progress(self, gateway: str, cluster: str) -> Mapping[str, Load]:
        """The latest report of a cluster that is being watched, by node id; who has not reported it is not there.

        Two clients with the same node id count as one: added up, and as old as the older of the two.
        """
        self._expire(gateway, self.clock())
        if cluster not in self._watched.get(gateway, ()):
            return {}
        found: dict[str, Load | None] = {}
        for reporter in self._reporters[gateway]:
            load = reporter.loads.get(cluster)
            if reporter.node in found:
                before = found[reporter.node]
                if before is not None and load is not None:
                    together = before.in_progress + load.in_progress
                    load = Load(together, min(before.received_at, load.received_at))
                elif before is None:
                    load = None
            found[reporter.node] = load
        return {node: load for node, load in found.items() if load is not None}

    # What the streams do

    def join(self, gateway: str, node: str, wake: Callable[[], None]) -> Reporter:
        """A client opened a stream; `wake` is called when its reporter may have something to ask."""
        reporter = Reporter(self, gateway, node, wake)
        self._reporters[gateway][reporter] = None
        return reporter

    def leave(self, reporter: Reporter) -> None:
        """Forget the stream and all that it said."""
        self._reporters[reporter.gateway].pop(reporter, None)

    def wanted(self, gateway: str) -> frozenset[str]:
        """What is watched now."""
        self._expire(gateway, self.clock())
        return frozenset(self._watched[gateway])

    def next_expiry(self, gateway: str) -> float | None:
        """When `wanted` becomes less if nobody renews it; None when it is empty."""
        return min(self._watched[gateway].values(), default=None)

    def _expire(self, gateway: str, now: float) -> None:
        watched = self._watched.get(gateway, {})
        for cluster in [cluster for cluster, until in watched.items() if until <= now]:
            del watched[cluster]
            for reporter in self._reporters[gateway]:
                reporter.loads.pop(cluster, None)


class Reporter:
    """One client's stream without its socket: reports in, asks out."""

    def __init__(self, loads: Loads, gateway: str, node: str, wake: Callable[[], None]) -> None:
        self.gateway, self.node, self.wake = gateway, node, wake
        self.loads: dict[str, Load] = {}
        self._all = loads
        self._asked: frozenset[str] = frozenset()
        self._answered = True

    def receive(self, report: LoadReport) -> None:
        """Keep what was asked for and is still wanted; what the client leaves out it does not have."""
        now = self._all.clock()
        kept = self._asked & self._all.wanted(self.gateway)
        self.loads = {name: Load(count, now) for name, count in report.in_progress.items() if name in kept}
        self._answered = True

    def due(self) -> bytes | None:
        """What to ask now, if anything. A client that owes the report on the last ask is left in peace."""
        wanted = self._all.wanted(self.gateway)
        if wanted == self._asked or not self._answered:
            return None
        self._asked = wanted
        self._answered = not wanted
        return ask_for(sorted(wanted), INTERVAL if wanted else IDLE_INTERVAL)

    def next_deadline(self) -> float | None:
        """When `due` should be asked again although nothing came."""
        return self._all.next_expiry(self.gateway)
