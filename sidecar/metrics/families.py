"""Figures in, a page for Prometheus out, in its own text format or in OpenMetrics.

Written by hand, not with prometheus_client: the figures are Envoy's, and 100 versions are some 8,000 lines a scrape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, NamedTuple

from sidecar import instruments
from sidecar.metrics.bounds import BOUNDS
from sidecar.metrics.exemplars import ByKey, Exemplars, written
from sidecar.metrics.stats import Key
from sidecar.metrics.totals import Figures

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Family(NamedTuple):
    """A metric's name is a promise: docs/sidecar.md lists them all."""

    name: str
    """Of a counter: with its `_total`."""
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    help: str


REQUESTS = Family(
    "headgate_requests_total", "counter", "", "Requests by what their client got, or by what a mirrored copy got."
)
DURATION = Family(
    "headgate_request_duration_seconds", "histogram", "seconds", "From a request's first byte to its answer's last."
)
FIRST_BYTE = Family(
    "headgate_time_to_first_byte_seconds", "histogram", "seconds", "From a request's first byte to its answer's first."
)
REQUEST_BYTES = Family("headgate_request_bytes_total", "counter", "bytes", "Bytes of requests' bodies.")
RESPONSE_BYTES = Family("headgate_response_bytes_total", "counter", "bytes", "Bytes of answers' bodies.")
UP = Family("headgate_sidecar_envoy_up", "gauge", "", "Whether Envoy's admin endpoint answers.")
READS = Family("headgate_sidecar_reads_total", "counter", "", "Readings of Envoy's figures.")
FAILURES = Family("headgate_sidecar_read_failures_total", "counter", "", "Readings that failed.")
READ_SECONDS = Family("headgate_sidecar_read_seconds", "gauge", "seconds", "How long the last reading took.")
AGE = Family("headgate_sidecar_age_seconds", "gauge", "seconds", "Age of the figures.")
SERIES = Family("headgate_sidecar_stats", "gauge", "", "Stats of Envoy's that are followed.")
REFUSED = Family("headgate_sidecar_refused_stats", "gauge", "", "Stats that there was no room for.")

FAMILIES = (
    *(REQUESTS, DURATION, FIRST_BYTE, REQUEST_BYTES, RESPONSE_BYTES),
    *(UP, READS, FAILURES, READ_SECONDS, AGE, SERIES, REFUSED),
)


@dataclass(frozen=True, slots=True)
class Own:
    """How the sidecar itself gets on."""

    up: bool = False
    reads: int = 0
    failures: int = 0
    read_seconds: float = 0.0
    age: float | None = None
    stats: int = 0
    refused: int = 0


def content_type(accept: str) -> str:
    """OpenMetrics for those who ask for it."""
    return OPENMETRICS if "application/openmetrics-text" in accept else TEXT


def page(
    figures: Mapping[Key, Figures],
    own: Own | None,
    kind: str = TEXT,
    more: Iterable[instruments.Family] = (),
    exemplars: ByKey = MappingProxyType({}),
) -> str:
    """Return the page that `kind`, a content type, calls for. Without an Envoy there is no `own`.

    Exemplars are told in OpenMetrics only: nobody else reads them.
    """
    openmetrics = kind == OPENMETRICS
    lines: list[str] = []
    keys = sorted(figures)
    for family, samples in (
        (REQUESTS, _requests),
        (DURATION, _of_times("duration", "duration_us", lambda exemplars: exemplars.duration)),
        (FIRST_BYTE, _of_times("first_byte", "first_byte_us", lambda exemplars: exemplars.first_byte)),
        (REQUEST_BYTES, _of_sum("request_bytes")),
        (RESPONSE_BYTES, _of_sum("response_bytes")),
    ):
        _head(lines, family, openmetrics)
        for key in keys:
            shown = exemplars.get(key, _NO_EXEMPLARS) if openmetrics else _NO_EXEMPLARS
            lines.extend(samples(family.name, key, figures[key], shown))
    for family, value in _of_its_own(own) if own is not None else ():
        if value is not None:
            _head(lines, family, openmetrics)
            lines.append(f"{family.name} {value}")
    for each in more:
        lines.extend(_instrument(each, openmetrics))
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines)


def _of_its_own(own: Own) -> tuple[tuple[Family, float | None], ...]:
    return (
        (UP, int(own.up)),
        (READS, own.reads),
        (FAILURES, own.failures),
        (READ_SECONDS, own.read_seconds),
        (AGE, own.age),
        (SERIES, own.stats),
        (REFUSED, own.refused),
    )


def _instrument(family: instruments.Family, openmetrics: bool) -> Iterator[str]:
    """What plugins count."""
    name = family.name + ("_total" if family.kind == "counter" and not openmetrics else "")
    yield f"# HELP {name} {family.help.translate(_IN_HELP)}"
    yield f"# TYPE {name} {family.kind}"
    for sample in family.samples:
        said = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels)
        exemplar = written(sample.exemplar) if openmetrics else ""
        yield f"{family.name}{sample.suffix}{{{said}}} {sample.value!r}{exemplar}"


_IN_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def _head(lines: list[str], family: Family, openmetrics: bool) -> None:
    name = family.name.removesuffix("_total") if openmetrics else family.name
    lines += f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"
    if openmetrics and family.unit:
        lines.append(f"# UNIT {name} {family.unit}")


_NO_EXEMPLARS = Exemplars()
_Samples = Callable[[str, Key, Figures, Exemplars], Iterator[str]]


def _requests(name: str, key: Key, figures: Figures, exemplars: Exemplars) -> Iterator[str]:
    labels = _labels(key)
    for outcome, count in sorted(figures.requests.items()):
        code, grpc, flags = outcome
        protocol = "grpc" if grpc else "http"
        said = f'{labels},code="{code}",protocol="{protocol}",grpc_status="{grpc}",flags="{flags}"'
        yield f"{name}{{{said}}} {count}{written(exemplars.requests.get(outcome))}"


def _of_sum(kind: str) -> _Samples:
    def samples(name: str, key: Key, figures: Figures, exemplars: Exemplars) -> Iterator[str]:
        if kind in figures.sums:
            yield f"{name}{{{_labels(key)}}} {figures.sums[kind]}"

    return samples


def _of_times(kind: str, exact: str, shown: Callable[[Exemplars], Mapping[int, instruments.Exemplar]]) -> _Samples:
    """Without its exact sum a histogram has none, as Envoy's own would be a guess; and then it may have no count."""

    def samples(name: str, key: Key, figures: Figures, exemplars: Exemplars) -> Iterator[str]:
        times = figures.times.get(kind)
        if times is None:
            return
        labels, beside = _labels(key), shown(exemplars) if times.bounds == BOUNDS else {}
        for index, (before, count) in enumerate(zip(_buckets(times.bounds), times.counts, strict=True)):
            yield f"{name}_bucket{{{labels}{before}{count}{written(beside.get(index)) if beside else ''}"
        yield f'{name}_bucket{{{labels},le="+Inf"}} {times.count}'
        if exact in figures.sums:
            yield f"{name}_sum{{{labels}}} {figures.sums[exact] / 1e6!r}"
            yield f"{name}_count{{{labels}}} {times.count}"

    return samples


@lru_cache(maxsize=64)
def _buckets(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f',le="{bound!r}"}} ' for bound in bounds)


@lru_cache(maxsize=20_000)
def _labels(key: Key) -> str:
    shadow = "true" if key.route == "mirror" else "false"
    said = (*key._asdict().items(), ("shadow", shadow))
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in said)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
