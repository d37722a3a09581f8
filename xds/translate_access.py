"""What Envoy counts of every request, by itself: the stats access loggers of a listener, read by the sidecar.

Envoy counts at the end of a request what its client got, not what was tried upstream. All labels are joined into one
tag, because a stat costs Envoy about as much as its name has parts and letters; so the route's name tells its model and
primary, too (see `route_name`). The sidecar takes it apart again, and finds the version where Envoy knows it: in the
answer's `app-version`, which is there even if the cluster is shared by several versions, or in the cluster, which is
there even if the client left before the answer. Answers always have the header, those of Envoy itself too, once their
route is known.

What was answered is counted by the histogram of the time to its first byte, which every answer has: a counter beside it
would cost Envoy another 0.5 us of each request, and a filter by code 0.2 us. So there are as few as can be. An answer
that ended otherwise than well may have no such time, as its client had left, or the server, while a plugin held it.
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    ResponseFlagFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.stats.v3 import (
    Config,
    ConfigCounter,
    ConfigHistogram,
    ConfigHistogramUnit,
    ConfigStat,
    ConfigTag,
)
from envoy_data_plane.envoy.type.v3 import Scope

from xds import ir
from xds.translate_common import pack

_Op = ComparisonFilterOp
PREFIX = "headgate"
TAG = "by"
MOST_COUNTERS, MOST_HISTOGRAMS = 20_000, 10_000
"""What one listener may keep: codes and gRPC statuses are the model servers' to choose. Unused ones are evicted."""

WHERE = f"%ROUTE_NAME%|%UPSTREAM_CLUSTER%|%RESP({ir.VERSION_HEADER})%"
WHERE_ANSWERED = f"%ROUTE_NAME%||%RESP({ir.VERSION_HEADER})%"
"""One command less, for most requests: each costs, in each of the six stats."""
OUTCOME = "%RESPONSE_CODE%|%GRPC_STATUS_NUMBER%|%RESPONSE_FLAGS%|"
WHERE_COPIED = "~copy|%UPSTREAM_CLUSTER%|"
DURATION = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
FIRST_BYTE = "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%"
COPY_DURATION = "%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%"
COPY_FIRST_BYTE = "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%"


def route_name(plan: ir.ModelPlan, route: ir.Route) -> str:
    """`PRIMARY@MODEL@ROUTE`, for whoever counts. Most requests take the weighted route: its name is left out."""
    name = f"{plan.primary}@{plan.name}"
    return name if route.name == ir.WEIGHTED else f"{name}@{route.name}"


@lru_cache(maxsize=1)
def access_logs() -> tuple[AccessLog, ...]:
    """Return three loggers. Each request takes one of two: it was answered, or it was not and so has no times. Answers
    with a flag take the third as well, for what the first can count of them.
    """
    answered = _config(
        [*_bytes(WHERE_ANSWERED), *_sums(WHERE_ANSWERED)],
        [
            _histogram("duration", WHERE_ANSWERED, DURATION),
            _histogram("answered", OUTCOME + WHERE_ANSWERED, FIRST_BYTE),
        ],
    )
    requests = ConfigCounter(stat=_stat("requests", OUTCOME + WHERE), value_fixed=1)
    flagged = ConfigCounter(stat=_stat("flagged", OUTCOME + WHERE_ANSWERED), value_fixed=1)
    any_flag = AccessLogFilter(response_flag_filter=ResponseFlagFilter())
    return (
        _log(answered, _code(_Op.GE, 100)),
        _log(_config([requests, *_bytes(WHERE)]), _code(_Op.LE, 99)),
        _log(_config([flagged]), _both(any_flag, _code(_Op.GE, 100))),
    )


@lru_cache(maxsize=1)
def copy_logs() -> tuple[AccessLog, ...]:
    """Return two loggers of what goes upstream: mirrored copies pass no listener. Those say by a header that they are.

    So may others: the sidecar takes no figures of clusters that get no copies.
    """
    copied = AccessLogFilter(
        header_filter=HeaderFilter(header=HeaderMatcher(name=ir.SHADOW_HEADER, present_match=True))
    )
    requests = ConfigCounter(stat=_stat("requests", OUTCOME + WHERE_COPIED), value_fixed=1)
    answered = _config(
        [requests, *_sums(WHERE_COPIED, COPY_DURATION, COPY_FIRST_BYTE)],
        [
            _histogram("duration", WHERE_COPIED, COPY_DURATION),
            _histogram("first_byte", WHERE_COPIED, COPY_FIRST_BYTE),
        ],
    )
    return (
        _log(answered, _both(copied, _code(_Op.GE, 100))),
        _log(_config([requests]), _both(_code(_Op.LE, 99), copied)),
    )


def _both(one: AccessLogFilter, other: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=[one, other]))


def _bytes(where: str) -> list[ConfigCounter]:
    return [
        ConfigCounter(stat=_stat("request_bytes", where), value_format="%BYTES_RECEIVED%"),
        ConfigCounter(stat=_stat("response_bytes", where), value_format="%BYTES_SENT%"),
    ]


def _sums(where: str, duration: str = DURATION, first_byte: str = FIRST_BYTE) -> list[ConfigCounter]:
    return [
        ConfigCounter(stat=_stat("duration_us", where), value_format=duration),
        ConfigCounter(stat=_stat("first_byte_us", where), value_format=first_byte),
    ]


def _histogram(name: str, by: str, value: str) -> ConfigHistogram:
    return ConfigHistogram(stat=_stat(name, by), unit=ConfigHistogramUnit.Microseconds, value_format=value)


def _code(op: ComparisonFilterOp, code: int) -> AccessLogFilter:
    """Envoy wants a name by which its runtime could change the number."""
    value = RuntimeUInt32(default_value=code, runtime_key=f"headgate.code_{code}")
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=op, value=value)))


def _log(config: Config, when: AccessLogFilter) -> AccessLog:
    return AccessLog(name="envoy.access_loggers.stats", filter=when, typed_config=pack(config))


def _config(counters: list[ConfigCounter], histograms: list[ConfigHistogram] | None = None) -> Config:
    scope = Scope(prefix=PREFIX, max_counters=MOST_COUNTERS, max_histograms=MOST_HISTOGRAMS, enable_eviction=True)
    return Config(stats_scope=scope, counters=counters, histograms=histograms or [])


def _stat(name: str, value: str) -> ConfigStat:
    return ConfigStat(name=name, tags=[ConfigTag(name=TAG, value_format=value)])
