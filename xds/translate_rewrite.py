"""New hosts and paths in, the pieces of routes and clusters that make Envoy use them out.

An arm of a weighted split has a field for its host, but none for its path, and Envoy rejects a header_mutation filter
that touches `:path`. So each arm says its path in a header (an arm's headers are set first), and the route's
`path_rewrite` takes it from there; the query stays. Where all arms agree, the route says it itself.

A copy is made from the rewritten request. Its policy has a field for the host; its path again comes as a header, which
a Lua filter in the cluster of the copies turns into the path and takes away.

    request ─► arm: x-headgate-path ─► route: path_rewrite ─┬─► version
                                                            └─► copy: x-headgate-path ─► cluster: Lua ─► shadow
"""

from __future__ import annotations

from collections.abc import Iterator

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter

from xds import ir
from xds.translate_common import literal, pack

PATH_HEADER = "x-headgate-path"
FORWARDED_HOST = "x-forwarded-host"

_PRESENT_PATH = "%PATH(NQ:PATH)%"
_ORIGINAL_PATH = "%PATH(NQ:ORIG)%"
_PRESENT_HOST = "%REQ(:authority)%"

_COPY_PATH = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local path = headers:get("{PATH_HEADER}")
  if path then
    local query = string.match(headers:get(":path"), "%?.*$") or ""
    headers:replace(":path", path .. query)
    headers:remove("{PATH_HEADER}")
  end
end
"""


def route_path(route: ir.Route) -> str:
    """The route's `path_rewrite`, a format; empty when no arm has a new path."""
    paths = {target.path_rewrite for target in route.targets}
    if len(paths) == 1:
        return literal(paths.pop())
    return f"%REQ({PATH_HEADER})%"


def arm_headers(target: ir.Target, route: ir.Route) -> Iterator[HeaderValueOption]:
    """What an arm says of its host and path. Each says its path if any does: a client may send that header, too."""
    if target.host_rewrite:
        yield _append(FORWARDED_HOST, _PRESENT_HOST)  # Envoy's own option does not know an arm's host
    if len({each.path_rewrite for each in route.targets}) > 1:
        yield _set(PATH_HEADER, literal(target.path_rewrite) if target.path_rewrite else _PRESENT_PATH)


def copy_host(mirror: ir.Mirror, route: ir.Route, hosts: tuple[str, ...]) -> str:
    """The copy's host: its own, else the model's where the arms may have replaced it; empty to leave it."""
    if mirror.host_rewrite or not any(target.host_rewrite for target in route.targets):
        return mirror.host_rewrite
    return hosts[0] if hosts else ""


def copy_headers(mirror: ir.Mirror, route: ir.Route, rewritten: frozenset[str]) -> Iterator[HeaderMutation]:
    """What a copy says of its host and path; `rewritten` are the clusters that read the latter."""
    if mirror.host_rewrite and not any(target.host_rewrite for target in route.targets):
        yield HeaderMutation(append=_append(FORWARDED_HOST, _PRESENT_HOST))
    if mirror.path_rewrite:
        yield HeaderMutation(append=_set(PATH_HEADER, literal(mirror.path_rewrite)))
    elif any(target.path_rewrite for target in route.targets):
        yield HeaderMutation(append=_set(PATH_HEADER, _ORIGINAL_PATH))
    elif mirror.backend in rewritten:
        yield HeaderMutation(remove=PATH_HEADER)  # a client's own


def rewritten_copies(routes: tuple[ir.Route, ...]) -> frozenset[str]:
    """The clusters whose copies need a path of their own."""
    return frozenset(
        mirror.backend
        for route in routes
        for mirror in route.mirrors
        if mirror.path_rewrite or any(target.path_rewrite for target in route.targets)
    )


def copy_filters() -> list[HttpFilter]:
    """The HTTP filters of such a cluster, without the last."""
    return [
        HttpFilter(
            name="envoy.filters.http.lua",
            typed_config=pack(Lua(default_source_code=DataSource(inline_string=_COPY_PATH))),
        ),
    ]


def codec_filter() -> HttpFilter:
    """The last filter of a cluster that has any."""
    return HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=pack(UpstreamCodec()))


def _set(name: str, format: str) -> HeaderValueOption:
    action = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=format), append_action=action)


def _append(name: str, format: str) -> HeaderValueOption:
    action = HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
    return HeaderValueOption(header=HeaderValue(key=name, value=format), append_action=action)
