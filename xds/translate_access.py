"""What Envoy counts of every request, by itself: the stats access loggers of a listener, read by the sidecar.

Envoy counts at the end of a request what its client got, not what was tried upstream. All labels are joined into one
tag, because a stat costs Envoy about as much as its name has parts. The sidecar takes it apart again, and finds the
version where Envoy knows it: in the cluster, which is there even if the client left before the answer, and in the
answer's `app-version`, which is there even if the cluster is not, or is shared by several versions.
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLog,
    AccessLogFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32
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

PREFIX = "headgate"
TAG = "by"
MOST_COUNTERS, MOST_HISTOGRAMS = 20_000, 10_000
"""What one listener may keep: codes and gRPC statuses are the model servers' to choose. Unused ones are evicted."""

WHERE = (
    "%ROUTE_NAME%|%METADATA(VIRTUAL_HOST:headgate:counted)%|"  # PRIMARY@MODEL in one: each command costs
    f"%UPSTREAM_CLUSTER%|%RESP({ir.VERSION_HEADER})%"
)
OUTCOME = "%RESPONSE_CODE%|%GRPC_STATUS_NUMBER%|%RESPONSE_FLAGS%|"
DURATION = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
FIRST_BYTE = "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%"


@lru_cache(maxsize=1)
def access_logs() -> tuple[AccessLog, ...]:
    """Return one logger for every request, and one for those that were answered: the others have no times."""
    requests = _config(
        counters=[
            ConfigCounter(stat=_stat("requests", OUTCOME + WHERE), value_fixed=1),
            ConfigCounter(stat=_stat("request_bytes", WHERE), value_format="%BYTES_RECEIVED%"),
            ConfigCounter(stat=_stat("response_bytes", WHERE), value_format="%BYTES_SENT%"),
        ],
    )
    times = _config(
        counters=[
            ConfigCounter(stat=_stat("duration_us", WHERE), value_format=DURATION),
            ConfigCounter(stat=_stat("first_byte_us", WHERE), value_format=FIRST_BYTE),
        ],
        histograms=[
            ConfigHistogram(
                stat=_stat("duration", WHERE), unit=ConfigHistogramUnit.Microseconds, value_format=DURATION
            ),
            ConfigHistogram(
                stat=_stat("first_byte", WHERE), unit=ConfigHistogramUnit.Microseconds, value_format=FIRST_BYTE
            ),
        ],
    )
    answered = AccessLogFilter(
        status_code_filter=StatusCodeFilter(
            comparison=ComparisonFilter(
                op=ComparisonFilterOp.GE,
                value=RuntimeUInt32(default_value=100, runtime_key="headgate.answered_from"),
            )
        )
    )
    return _log(requests), _log(times, answered)


def _log(config: Config, when: AccessLogFilter | None = None) -> AccessLog:
    return AccessLog(name="envoy.access_loggers.stats", filter=when, typed_config=pack(config))


def _config(counters: list[ConfigCounter], histograms: list[ConfigHistogram] | None = None) -> Config:
    scope = Scope(prefix=PREFIX, max_counters=MOST_COUNTERS, max_histograms=MOST_HISTOGRAMS, enable_eviction=True)
    return Config(stats_scope=scope, counters=counters, histograms=histograms or [])


def _stat(name: str, value: str) -> ConfigStat:
    return ConfigStat(name=name, tags=[ConfigTag(name=TAG, value_format=value)])
