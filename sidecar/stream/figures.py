"""What the stream tells: families for Prometheus, figures of LLMs for /versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from sidecar.instruments import SECONDS, Family, Kind, Labels, Sample
from sidecar.metrics.bounds import BOUNDS
from sidecar.metrics.totals import Times
from sidecar.stream.losses import Losses
from sidecar.stream.receiver import Receiver
from sidecar.stream.requests import Histogram, Requests, Version

HELP: Mapping[str, tuple[Kind, str]] = {
    "headgate_stream_requests": ("counter", "Requests of the stream, by the labels of the gateway's streamRequests."),
    "headgate_stream_request_duration_seconds": (
        "histogram",
        "From a request's first byte to its answer's last, by the stream.",
    ),
    "headgate_stream_clients": ("gauge", "Different clients within the last whole minute."),
    "headgate_stream_tokens": ("counter", "Tokens of requests and answers, as plugins said."),
    "headgate_stream_time_to_first_token_seconds": ("histogram", "From the request to the answer's first token."),
    "headgate_stream_time_between_tokens_seconds": ("histogram", "Mean time between two tokens of an answer."),
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
    spoken = sorted(requests.llm.items())
    tokens = [
        Sample("_total", (*_of(version), ("direction", direction)), count)
        for version, one in spoken
        for direction, count in one.tokens.items()
    ]
    lost = (("envoy", losses.envoy), ("way", losses.way))
    return (
        _family("headgate_stream_requests", (Sample("_total", by, n) for by, n in sorted(requests.counts().items()))),
        _durations(requests),
        _family("headgate_stream_clients", (Sample("", _of(by), n) for by, n in sorted(requests.clients.items()))),
        _family("headgate_stream_tokens", tokens),
        _times("headgate_stream_time_to_first_token_seconds", ((version, one.first) for version, one in spoken)),
        _times("headgate_stream_time_between_tokens_seconds", ((version, one.between) for version, one in spoken)),
        _family("headgate_stream_entries", (Sample("_total", (), requests.entries),)),
        _family("headgate_stream_lost", (Sample("_total", (("where", where),), n) for where, n in lost)),
        _family("headgate_stream_refused", (Sample("_total", (("why", why),), requests.refused[why]) for why in WHYS)),
        _family("headgate_stream_connections", (Sample("", (), len(receiver.connections)),)),
        _family("headgate_stream_kept", (Sample("", (), len(requests)),)),
    )


def llm(requests: Requests) -> list[dict[str, Any]]:
    """Tokens and times of each version since the sidecar began, as JSON."""
    return [
        {
            **version._asdict(),
            "tokens_in": one.tokens["in"],
            "tokens_out": one.tokens["out"],
            "time_to_first_token_seconds": _told(one.first),
            "time_between_tokens_seconds": _told(one.between),
        }
        for version, one in sorted(requests.llm.items())
    ]


def _told(one: Histogram) -> dict[str, float | None]:
    """Above the last bound nobody knows how far: the last bound is told."""
    counts = tuple(accumulate(one.counts))
    times = Times((*SECONDS, SECONDS[-1]), counts)
    quantiles = {name: times.quantile(share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return {"count": times.count, "sum": round(one.total, 6), **quantiles}


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


def _times(name: str, by: Iterable[tuple[Version, Histogram]]) -> Family:
    samples: list[Sample] = []
    for version, one in by:
        *within, count = accumulate(one.counts)
        if not count:
            continue
        for bound, so_far in zip((*map(str, SECONDS), "+Inf"), (*within, count), strict=True):
            samples.append(Sample("_bucket", (*_of(version), ("le", bound)), so_far))
        samples += Sample("_sum", _of(version), one.total), Sample("_count", _of(version), count)
    return _family(name, samples)


def _of(version: Version) -> Labels:
    return tuple(version._asdict().items())
