"""What the stream tells: families for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from sidecar.instruments import Family, Kind, Sample
from sidecar.metrics import llm
from sidecar.metrics.bounds import BOUNDS
from sidecar.stream.losses import Losses
from sidecar.stream.receiver import Receiver
from sidecar.stream.requests import Requests

HELP: Mapping[str, tuple[Kind, str]] = {
    "headgate_stream_requests": ("counter", "Requests of the stream, by the labels of the gateway's streamRequests."),
    "headgate_stream_request_duration_seconds": (
        "histogram",
        "From a request's first byte to its answer's last, by the stream.",
    ),
    "headgate_stream_clients": ("gauge", "Different clients within the last whole minute."),
    **llm.HELP,
    "headgate_stream_entries": ("counter", "Entries of the stream that were taken."),
    "headgate_stream_lost": ("counter", "Entries that never came: Envoy had no room, or a connection ended."),
    "headgate_stream_refused": ("counter", "What came and was not taken, by why."),
    "headgate_stream_connections": ("gauge", "Connections from Envoy: one for each of its workers."),
    "headgate_stream_kept": ("gauge", "Requests that /requests can show."),
}
"""A promise: docs/sidecar.md lists them all."""
WHYS = ("malformed", "too-large", "no-room", "metadata", "connection")


def families(receiver: Receiver, losses: Losses) -> tuple[Family, ...]:
    """All of them, as they are now."""
    requests = receiver.requests
    requests.turn()
    lost = (("envoy", losses.envoy), ("way", losses.way))
    return (
        _family("headgate_stream_requests", (Sample("_total", by, n) for by, n in sorted(requests.counts().items()))),
        _durations(requests),
        _family(
            "headgate_stream_clients", (Sample("", llm.labels(by), n) for by, n in sorted(requests.clients.items()))
        ),
        *requests.llms.families(),
        _family("headgate_stream_entries", (Sample("_total", (), requests.entries),)),
        _family("headgate_stream_lost", (Sample("_total", (("where", where),), n) for where, n in lost)),
        _family("headgate_stream_refused", (Sample("_total", (("why", why),), requests.refused[why]) for why in WHYS)),
        _family("headgate_stream_connections", (Sample("", (), len(receiver.connections)),)),
        _family("headgate_stream_kept", (Sample("", (), len(requests)),)),
    )


def _durations(requests: Requests) -> Family:
    samples: list[Sample] = []
    for key, one in sorted(requests.durations.items()):
        labels = tuple(key._asdict().items())
        for bound, so_far in zip(BOUNDS, accumulate(one.counts), strict=True):
            samples.append(Sample("_bucket", (*labels, ("le", repr(bound))), so_far))
        count = sum(one.counts)
        samples.append(Sample("_bucket", (*labels, ("le", "+Inf")), count))
        samples += Sample("_sum", labels, one.total_us / 1e6), Sample("_count", labels, count)
    return _family("headgate_stream_request_duration_seconds", samples)


def _family(name: str, samples: Iterable[Sample]) -> Family:
    kind, told = HELP[name]
    return Family(name, kind, told, tuple(samples))
