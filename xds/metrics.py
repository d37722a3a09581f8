"""What the xDS side tells Prometheus. A metric name is a promise: docs/configuration.md lists them all."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

ACK_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Pushes(NamedTuple):
    """The counters of one gateway and type, looked up once: a push to 1,000 clients counts 1,000 times."""

    responses: Counter
    bytes: Counter


class XdsMetrics:
    """The collectors, registered in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        self.registry = registry
        self.connected = Gauge(
            "headgate_xds_connected_envoys",
            "Clients with an open ADS stream.",
            ("gateway", "variant"),
            registry=registry,
        )
        self._pushed: dict[tuple[str, str], Pushes] = {}
        self.pushes = Counter(
            "headgate_xds_pushes", "Responses sent to clients.", ("gateway", "type"), registry=registry
        )
        self.bytes = Counter(
            "headgate_xds_push_bytes", "Bytes of responses sent to clients.", ("gateway", "type"), registry=registry
        )
        self.ack_seconds = Histogram(
            "headgate_xds_ack_seconds",
            "Time from sending a response to its ACK.",
            ("gateway",),
            buckets=ACK_BUCKETS,
            registry=registry,
        )
        self.rejections = Counter(
            "headgate_xds_rejections",
            "NACKs: resources that a client would not take.",
            ("gateway", "type"),
            registry=registry,
        )
        self.refused = Counter(
            "headgate_xds_refused_streams", "Streams that were turned away.", ("reason",), registry=registry
        )
        self.load_reporters = Gauge(
            "headgate_xds_load_reporters", "Clients with an open load report stream.", ("gateway",), registry=registry
        )
        self.load_reports = Counter(
            "headgate_xds_load_reports", "Load reports received.", ("gateway",), registry=registry
        )

    def pushed(self, gateway: str, kind: str) -> Pushes:
        """The two counters of a push."""
        found = self._pushed.get((gateway, kind))
        if found is None:
            found = Pushes(self.pushes.labels(gateway, kind), self.bytes.labels(gateway, kind))
            self._pushed[gateway, kind] = found
        return found
