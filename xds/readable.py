"""An encoded resource in, a plain dict out: protobuf's JSON with Envoy's own field names, every Any opened.

For people (`headgate translate`) and golden files. It parses with betterproto2, which takes milliseconds per resource:
never on the road to an Envoy.
"""

from __future__ import annotations

from typing import Any

import envoy_data_plane.envoy.config.route.v3
import envoy_data_plane.envoy.extensions.clusters.dns.v3
import envoy_data_plane.envoy.extensions.filters.http.lua.v3
import envoy_data_plane.envoy.extensions.filters.http.on_demand.v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3
import envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3
import envoy_data_plane.envoy.extensions.upstreams.http.v3  # noqa: F401  (an Any opens only to types that are loaded)
from betterproto2 import Casing
from envoy_data_plane.message_pool import default_message_pool

from xds.resources import Resource, Type


def readable(type: Type, resource: Resource) -> dict[str, Any]:
    """Return the resource as Envoy's documentation would write it; a private key is replaced, as Envoy's dumps do."""
    message = default_message_pool.url_to_type[type].parse(resource.body)
    shown: dict[str, Any] = message.to_dict(casing=Casing.SNAKE)
    if "private_key" in shown.get("tls_certificate", {}):
        shown["tls_certificate"]["private_key"] = {"inline_string": "[redacted]"}
    return shown
