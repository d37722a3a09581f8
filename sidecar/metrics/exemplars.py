"""Single requests that stand for many: a request's id beside a bucket or a counter, for OpenMetrics.

Envoy's own counters know no single request; the stream does (`sidecar.stream.requests`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.instruments import Exemplar
from sidecar.metrics.stats import Key, Outcome


@dataclass(slots=True)
class Exemplars:
    """Of one key: the last request of each outcome, and of each bucket by the index of its bound."""

    requests: dict[Outcome, Exemplar] = field(default_factory=dict)
    duration: dict[int, Exemplar] = field(default_factory=dict)
    first_byte: dict[int, Exemplar] = field(default_factory=dict)


ByKey = Mapping[Key, Exemplars]


def written(exemplar: Exemplar | None) -> str:
    """What follows a sample, or nothing. OpenMetrics allows 128 characters for the labels, names included."""
    if exemplar is None:
        return ""
    return f' # {{request_id="{exemplar.request_id}"}} {exemplar.value!r} {exemplar.at!r}'
