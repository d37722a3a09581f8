"""A model's routes in, one RouteConfiguration out; and the scopes that lead its hosts there.

What repeats from model to model (matches, headers, timeouts) is authored and encoded once per value; names and weights
are joined to it (see `xds.encode.field`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import RuntimeFractionalPercent
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    QueryParameterMatcher,
    Route,
    RouteAction,
    RouteActionHashPolicy,
    RouteActionHashPolicyHeader,
    RouteActionRequestMirrorPolicy,
    RouteConfiguration,
    RouteMatch,
    ScopedRouteConfiguration,
    ScopedRouteConfigurationKey,
    ScopedRouteConfigurationKeyFragment,
    VirtualHost,
    WeightedCluster,
    WeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType

from xds import ir
from xds.encode import embed, encode, entry, field
from xds.resources import Resource
from xds.translate_access import route_name
from xds.translate_common import seconds, set_header
from xds.translate_plugins import FILTER, model_plugins
from xds.translate_rewrite import arm_headers, copy_headers, copy_host, rewritten_copies, route_path


def route_configuration(plan: ir.ModelPlan) -> Resource:
    """Return the model's routes: one virtual host, for whatever host the scope let in."""
    copies = rewritten_copies(plan.routes)
    routes = [_ROUTE(_route(plan, route, copies)) for route in plan.routes]
    virtual_host = _HOST_NAME(plan.name) + _ANY_DOMAIN + b"".join(routes)
    if plan.plugins is not None:
        virtual_host += _HOST_PLUGINS(model_plugins(plan.plugins))
    body = _CONFIGURATION_NAME(plan.name) + _VIRTUAL_HOST(virtual_host) + _UNCHECKED
    return Resource.of(plan.name, body, refs=tuple(dict.fromkeys(_clusters(plan))))


def scope(host: str, model: str, on_demand: bool) -> Resource:
    """Return the scope that leads a host to its model. It is named after the host, which may move to another model."""
    body = (
        (_SCOPE_ON_DEMAND(True) if on_demand else b"")
        + _SCOPE_NAME(host)
        + _SCOPE_ROUTES(model)
        + _SCOPE_KEY(_KEY_FRAGMENT(_FRAGMENT_STRING(host)))
    )
    return Resource.of(host, body, refs=(model,), on_demand=on_demand)


def _clusters(plan: ir.ModelPlan) -> Iterator[str]:
    for route in plan.routes:
        yield from (target.backend for target in route.targets)
        yield from (mirror.backend for mirror in route.mirrors)


def _route(plan: ir.ModelPlan, route: ir.Route, copies: frozenset[str]) -> bytes:
    action = _WEIGHTED_CLUSTERS(
        b"".join([_ARM(_arm(target, route)) for target in route.targets]) + (_BY_HASH if route.hash_header else b"")
    )
    action += _action(route.timeout, route.idle_timeout, route.hash_header)
    if path := route_path(route):
        action += _NEW_PATH(path)
    action += b"".join([_MIRROR(_mirror(mirror, route, plan.hosts, copies)) for mirror in route.mirrors])
    return _ROUTE_NAME(route_name(plan, route)) + _ROUTE_MATCH(_match(route.match)) + _ROUTE_ACTION(action)


def _arm(target: ir.Target, route: ir.Route) -> bytes:
    return (
        _ARM_NAME(target.backend)
        + _ARM_WEIGHT(target.weight)
        + b"".join([_ARM_REQUEST(encode(header)) for header in arm_headers(target, route)])
        + _arm_headers(
            target.version, target.set_request_headers, target.remove_request_headers, target.set_response_headers
        )
        + (_ARM_HOST(target.host_rewrite) if target.host_rewrite else b"")
    )


@lru_cache(maxsize=4096)
def _arm_headers(version: str, request: ir.Headers, remove: tuple[str, ...], response: ir.Headers) -> bytes:
    """Every answer names its version, whatever the model server itself says."""
    if not any(name.lower() == ir.VERSION_HEADER for name, _ in response):
        response = ((ir.VERSION_HEADER, version), *response)
    return encode(
        WeightedClusterClusterWeight(
            request_headers_to_add=[set_header(*header) for header in request],
            request_headers_to_remove=list(remove),
            response_headers_to_add=[set_header(*header) for header in response],
        )
    )


@lru_cache(maxsize=1024)
def _action(timeout: float, idle_timeout: float, hash_header: str | None) -> bytes:
    """Timeouts are always written: zero means none, absent would mean Envoy's 15 s."""
    by_header = [RouteActionHashPolicy(header=RouteActionHashPolicyHeader(header_name=hash_header or ""))]
    return encode(
        RouteAction(
            timeout=seconds(timeout),
            idle_timeout=seconds(idle_timeout),
            hash_policy=by_header if hash_header else [],
        )
    )


def _mirror(mirror: ir.Mirror, route: ir.Route, hosts: tuple[str, ...], copies: frozenset[str]) -> bytes:
    host = copy_host(mirror, route, hosts)
    return (
        _MIRROR_NAME(mirror.backend)
        + b"".join([_MIRROR_HEADER(encode(header)) for header in copy_headers(mirror, route, copies)])
        + _mirror_shape(mirror.percent, mirror.set_request_headers)
        + (_MIRROR_HOST(host) if host else b"")
    )


@lru_cache(maxsize=1024)
def _mirror_shape(percent: float, headers: ir.Headers) -> bytes:
    """The copy keeps its host name and says what it is, so that a model server need not learn from it or bill it."""
    marked = (
        *((name, value) for name, value in headers if name.lower() != ir.SHADOW_HEADER),
        (ir.SHADOW_HEADER, "true"),
    )
    return encode(
        RouteActionRequestMirrorPolicy(
            runtime_fraction=RuntimeFractionalPercent(default_value=fraction(percent)),
            disable_shadow_host_suffix_append=True,
            request_headers_mutations=[HeaderMutation(append=set_header(*header)) for header in marked],
        )
    )


def fraction(percent: float) -> FractionalPercent:
    """Return a percentage in the coarsest unit that holds it: hundredths of a percent, else ten-thousandths."""
    hundredths = round(percent * 100)
    if abs(percent * 100 - hundredths) < 1e-6:
        return FractionalPercent(numerator=hundredths, denominator=FractionalPercentDenominatorType.TEN_THOUSAND)
    return FractionalPercent(numerator=round(percent * 10_000), denominator=FractionalPercentDenominatorType.MILLION)


@lru_cache(maxsize=4096)
def _match(match: ir.Match) -> bytes:
    """A path prefix is Envoy's plain one: /v2 also matches /v20. Write /v2/ to mean the folder."""
    path = match.path
    method = [ir.HeaderMatch(":method", ir.StringMatch.EXACT, match.method)] if match.method else []
    return encode(
        RouteMatch(
            prefix=path.value if path.kind is ir.PathKind.PREFIX else None,
            path=path.value if path.kind is ir.PathKind.EXACT else None,
            safe_regex=RegexMatcher(regex=path.value) if path.kind is ir.PathKind.REGEX else None,
            headers=[_header(header) for header in (*method, *match.headers)],
            query_parameters=[_query(query) for query in match.query],
        )
    )


def _header(header: ir.HeaderMatch) -> HeaderMatcher:
    """A missing header is unlike every value: without saying so, Envoy would let an inverted match fail on it."""
    if header.kind is ir.StringMatch.PRESENT:
        return HeaderMatcher(name=header.name, present_match=True, invert_match=header.invert)
    return HeaderMatcher(
        name=header.name,
        string_match=_string(header.kind, header.value),
        invert_match=header.invert,
        treat_missing_header_as_empty=header.invert,
    )


def _query(query: ir.QueryMatch) -> QueryParameterMatcher:
    if query.kind is ir.StringMatch.PRESENT:
        return QueryParameterMatcher(name=query.name, present_match=True)
    return QueryParameterMatcher(name=query.name, string_match=_string(query.kind, query.value))


def _string(kind: ir.StringMatch, value: str) -> StringMatcher:
    match kind:
        case ir.StringMatch.EXACT:
            return StringMatcher(exact=value)
        case ir.StringMatch.PREFIX:
            return StringMatcher(prefix=value)
        case ir.StringMatch.SUFFIX:
            return StringMatcher(suffix=value)
        case ir.StringMatch.CONTAINS:
            return StringMatcher(contains=value)
        case ir.StringMatch.REGEX:
            return StringMatcher(safe_regex=RegexMatcher(regex=value))
        case ir.StringMatch.PRESENT:
            raise ValueError("PRESENT compares with nothing: it is written as present_match")


_CONFIGURATION_NAME = field(RouteConfiguration, "name")
_VIRTUAL_HOST = embed(RouteConfiguration, "virtual_hosts")
_UNCHECKED = encode(RouteConfiguration(validate_clusters=False))
_HOST_NAME = field(VirtualHost, "name")
_ANY_DOMAIN = encode(VirtualHost(domains=["*"]))
_ROUTE = embed(VirtualHost, "routes")
_HOST_PLUGINS = entry(VirtualHost, "typed_per_filter_config", FILTER)
_ROUTE_NAME = field(Route, "name")
_ROUTE_MATCH = embed(Route, "match")
_ROUTE_ACTION = embed(Route, "route")
_WEIGHTED_CLUSTERS = embed(RouteAction, "weighted_clusters")
_MIRROR = embed(RouteAction, "request_mirror_policies")
_MIRROR_NAME = field(RouteActionRequestMirrorPolicy, "cluster")
_ARM = embed(WeightedCluster, "clusters")
_BY_HASH = encode(WeightedCluster(use_hash_policy=True))
_ARM_NAME = field(WeightedClusterClusterWeight, "name")
_ARM_HOST = field(WeightedClusterClusterWeight, "host_rewrite_literal")
_MIRROR_HOST = field(RouteActionRequestMirrorPolicy, "host_rewrite_literal")
_MIRROR_HEADER = embed(RouteActionRequestMirrorPolicy, "request_headers_mutations")
_NEW_PATH = field(RouteAction, "path_rewrite")
_ARM_REQUEST = embed(WeightedClusterClusterWeight, "request_headers_to_add")
_ARM_WEIGHT = field(WeightedClusterClusterWeight, "weight")
_SCOPE_ON_DEMAND = field(ScopedRouteConfiguration, "on_demand")
_SCOPE_NAME = field(ScopedRouteConfiguration, "name")
_SCOPE_ROUTES = field(ScopedRouteConfiguration, "route_configuration_name")
_SCOPE_KEY = embed(ScopedRouteConfiguration, "key")
_KEY_FRAGMENT = embed(ScopedRouteConfigurationKey, "fragments")
_FRAGMENT_STRING = field(ScopedRouteConfigurationKeyFragment, "string_key")
