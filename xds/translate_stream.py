"""What Envoy tells the sidecar of each single request, where a gateway asks for it: Fluentd's forward protocol.

All values are one string, which is cheaper to read than a map of them. The record's only key says how the string is
laid out: the layout's number, then the names of the labels. `sidecar.stream.layout` takes it apart again.

Envoy makes JSON of the string and parses it before it packs it, so that escapes cost: with U+001F between its parts
instead of line ends a request took 2.6 us more of Envoy's CPU. Labels are last, because a plugin may have taken them
from anywhere: whatever is in them, nothing comes after it.

Envoy insists that the cluster of such a logger is in its bootstrap (see `xds.bootstrap.SIDECAR_CLUSTER`), and refuses
the listener otherwise.
"""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import BackoffStrategy
from envoy_data_plane.envoy.extensions.access_loggers.fluentd.v3 import (
    FluentdAccessLogConfig,
    FluentdAccessLogConfigRetryOptions,
)
from envoy_data_plane.google.protobuf import Struct, Value

from xds import ir
from xds.bootstrap import SIDECAR_CLUSTER
from xds.translate_access import DURATION, FIRST_BYTE, OUTCOME, WHERE
from xds.translate_common import METADATA, pack, seconds

LAYOUT = "2"
BETWEEN, WITHIN, ALONG = "\n", "\r", "|"
"""No header of a request can hold the first two. The third stands between what clients have no say in."""
FLUSH = 0.2
BUFFER = 65_536
"""Bytes that each of Envoy's workers keeps while the sidecar is away: what comes after them is lost, and counted."""

_CLIENT = "%REQ({}):200%"
_ADDRESS = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
_REST = (
    ALONG.join(("%START_TIME(%s.%6f)%", DURATION, FIRST_BYTE, "%BYTES_RECEIVED%", "%BYTES_SENT%", "%REQ(:METHOD):20%")),
    "%PATH(NQ):300%",
    "%REQ(X-REQUEST-ID):64%",
    "%REQ(USER-AGENT):100%",
)


@lru_cache(maxsize=64)
def stream_log(stream: ir.Stream) -> AccessLog:
    """Return the logger for every request."""
    client = _CLIENT.format(stream.client_header) if stream.client_header else _ADDRESS
    labels = WITHIN.join([_label(source) for _, source in stream.labels])
    text = BETWEEN.join((OUTCOME + WHERE, client, f"%DYNAMIC_METADATA({METADATA}):2000%", *_REST, labels))
    layout = " ".join((LAYOUT, *(name for name, _ in stream.labels)))
    config = FluentdAccessLogConfig(
        cluster=SIDECAR_CLUSTER,
        tag="headgate.requests",
        stat_prefix="headgate",
        buffer_flush_interval=seconds(FLUSH),
        buffer_size_bytes=BUFFER,
        record=Struct(fields={layout: Value(string_value=text)}),
        retry_options=FluentdAccessLogConfigRetryOptions(
            backoff_options=BackoffStrategy(base_interval=seconds(0.1), max_interval=seconds(1.0))
        ),
    )
    return AccessLog(name="envoy.access_loggers.fluentd", typed_config=pack(config))


def _label(source: str) -> str:
    header, found, key = source.partition(":")
    return f"%DYNAMIC_METADATA({METADATA}:{key}):100%" if found else f"%REQ({header}):100%"
