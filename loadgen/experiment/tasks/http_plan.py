"""From the parameters of a task `http` to scenarios: fortio's words in the engine's.

`qps` is a rate that is kept whatever the answers do: latency counts from when a request was to start, so a server that
stalls cannot slow the load down and look better. fortio waits for answers; its `-qps 0` is the executor `max` here.

Its four connections are no default for a rate: a slow version would hold them, and the wait for a free one would count
against the other versions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from loadgen.experiment.tasks.http_settings import HTTP_DEFAULTS, HttpEndpoint, HttpSettings
from loadgen.plan import MAX_DURATION, Arrivals, Executor, Load, Payload, Range, Scenario, Stage, Target, Tls

CONNECTIONS = 4
"""Without a rate, unless said otherwise, and how many requests are tried first."""

SINGLE = "http"
"""The scenario's name where there are no endpoints."""


def endpoints(settings: HttpSettings) -> dict[str, HttpEndpoint]:
    """Each endpoint laid over what is said for all, and that over the defaults; SINGLE where there are none."""
    shared = {name: getattr(settings, name) for name in HttpEndpoint.model_fields}
    if not settings.endpoints:
        return {SINGLE: _laid(shared, {})}
    return {name: _laid(shared, _given(one)) for name, one in settings.endpoints.items()}


def _laid(under: Mapping[str, Any], over: Mapping[str, Any]) -> HttpEndpoint:
    made = {name: value for name, value in under.items() if value is not None} | dict(over)
    if under.get("headers") and over.get("headers"):
        made["headers"] = {**under["headers"], **over["headers"]}
    if "num_requests" in over:
        pass  # an endpoint's own count wins over a duration for all
    elif "duration" in over:
        made.pop("num_requests", None)
    defaults = dict(HTTP_DEFAULTS)
    if made.get("duration") is not None and made.get("num_requests") is None:
        defaults.pop("num_requests")
    return HttpEndpoint.model_construct(
        **{name: made.get(name, defaults.get(name)) for name in HttpEndpoint.model_fields}
    )


def _given(one: HttpEndpoint) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.model_fields_set if getattr(one, name) is not None}


def scenario(name: str, one: HttpEndpoint, body: bytes | None, grace: float) -> Scenario:
    """`body` has been read already."""
    headers = dict(one.headers or {})
    if one.content_type is not None:
        headers["Content-Type"] = one.content_type
    assert one.url is not None
    target = Target(
        one.url,
        protocol="http2" if one.http2 else "http1",
        method=one.method or ("POST" if body is not None else "GET"),
        headers=tuple(headers.items()),
        payload=payload(body),
        tls=tls(one),
        timeout=one.timeout or 20.0,
        version=one.version,
        attribution=one.attribution or (),
        errors=tuple(Range(each.lower, each.upper) for each in one.error_ranges or ()),
        users=one.users or 0,
    )
    return Scenario(name, target, load(one, grace))


def payload(body: bytes | None) -> Payload:
    """A body with {{ }} in it is a template, rendered for each request."""
    if body is None:
        return Payload()
    if re.search(rb"\{\{\s*(seq|user|uuid|random|now)\b", body):
        return Payload(template=body.decode())
    return Payload(bodies=(body,))


def tls(one: HttpEndpoint) -> Tls:
    given = one.tls
    if given is None:
        return Tls()
    return Tls(
        verify=not given.insecure_skip_verify,
        ca=given.ca_cert,
        certificate=given.cert,
        key=given.key,
        server_name=given.server_name,
    )


def load(one: HttpEndpoint, grace: float) -> Load:
    rate = float(one.qps or 0)
    requests, duration = one.num_requests, None if one.num_requests else one.duration
    executor: Executor = "max"
    arrivals = None
    if rate > 0:
        executor = "arrivals"
        seconds = duration if duration is not None else span(requests or 1, rate)
        arrivals = Arrivals((Stage(seconds, rate, rate),), spacing=one.spacing or "constant")
    return Load(
        executor=executor,
        arrivals=arrivals,
        requests=requests,
        duration=duration,
        warmup=0.0 if one.warmup_num_requests else one.warmup_duration or 0.0,
        warmup_requests=one.warmup_num_requests or 0,
        grace=grace,
        connections=one.connections or (CONNECTIONS if executor == "max" else 0),
    )


def span(requests: int, rate: float) -> float:
    """Seconds that surely hold so many arrivals, also at random; the number of requests ends the load before."""
    return min(MAX_DURATION, (requests + 10 * math.sqrt(requests) + 50) / rate)
