"""From the parameters of a task `grpc` to scenarios: the words of ghz in the engine's.

Without a rate, `concurrency` callers each wait for their answer before they call again. With one the rate is kept
whatever the answers do, and calls that find no place wait with their clock running; load schedules become its stages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from loadgen.experiment.tasks.grpc_settings import GRPC_DEFAULTS, GrpcEndpoint, GrpcSettings
from loadgen.experiment.tasks.http_plan import span
from loadgen.plan import MAX_DURATION, Arrivals, Grpc, Load, Payload, Scenario, Stage, Target, Tls

SINGLE = "grpc"
"""The scenario's name where there are no endpoints."""

MOST_STEPS = 10_000
MOST_CALLERS = 100_000
STREAMS = 1000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|b|kb|kib|mb|mib|gb|gib)", re.IGNORECASE)


def endpoints(settings: GrpcSettings) -> dict[str, GrpcEndpoint]:
    """Each endpoint laid over what is said for all, and that over the defaults; SINGLE where there are none."""
    shared = {
        name: getattr(settings, name) for name in GrpcEndpoint.model_fields if getattr(settings, name) is not None
    }
    if not settings.endpoints:
        return {SINGLE: _laid(shared, {})}
    return {name: _laid(shared, _given(one)) for name, one in settings.endpoints.items()}


def _given(one: GrpcEndpoint) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.model_fields_set if getattr(one, name) is not None}


def _laid(under: Mapping[str, Any], over: Mapping[str, Any]) -> GrpcEndpoint:
    made = {**GRPC_DEFAULTS, **under, **over}
    if "metadata" in under and "metadata" in over:
        made["metadata"] = {**under["metadata"], **over["metadata"]}
    if "total" in over and "duration" not in over:
        made.pop("duration", None)
    return GrpcEndpoint.model_construct(**{name: made.get(name) for name in GrpcEndpoint.model_fields})


def scenario(name: str, one: GrpcEndpoint, grpc: Grpc, payload: Payload, grace: float) -> Scenario:
    """The method and the messages have been read already."""
    headers = dict(one.metadata or {})
    if one.authority:
        headers["host"] = one.authority  # which HTTP/2 sends as :authority
    target = Target(
        url(one),
        protocol="grpc",
        method="POST",
        headers=tuple(headers.items()),
        payload=payload,
        grpc=grpc,
        tls=tls(one),
        timeout=one.timeout or MAX_DURATION,
        connect_timeout=one.connect_timeout or 10.0,
        version=one.version,
        attribution=one.attribution or (),
    )
    return Scenario(name, target, load(one, grace))


def url(one: GrpcEndpoint) -> str:
    host = (one.host or "").removeprefix("dns:///").rstrip("/")
    if "://" in host:
        return host
    return f"{'https' if secure(one) else 'http'}://{host}"


def secure(one: GrpcEndpoint) -> bool:
    """Iter8 forces `insecure`; here whoever names certificates, or says insecure: false, gets TLS."""
    return bool(one.cacert or one.cert or one.skip_tls) or one.insecure is False


def tls(one: GrpcEndpoint) -> Tls:
    return Tls(verify=not one.skip_tls, ca=one.cacert, certificate=one.cert, key=one.key, server_name=one.cname)


def message_size(value: str | int | None) -> int:
    """Bytes: 4194304, 16MB. Raises ValueError."""
    if value is None:
        return 64 * 1024 * 1024
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"max-recv-message-size {value!r} is not a size: write for example 16MB")
    unit = found[2].lower()
    factor = {"": 1, "b": 1}.get(unit) or 1024 ** "kmg".index(unit[0]) * 1024
    return max(1, int(float(found[1]) * factor))


def load(one: GrpcEndpoint, grace: float) -> Load:
    """Raises ValueError for a schedule that asks for nothing."""
    duration = one.duration or None
    total = None if duration else one.total
    if one.max_duration:
        duration = min(duration or math.inf, one.max_duration)
    stages = rate_stages(one)
    warmup = 0.0 if one.warmup_num_requests else one.warmup_duration or 0.0
    skipped = one.skip_first or 0
    warmup_requests = (one.warmup_num_requests or 0) + skipped
    if total is not None and skipped:
        total = max(1, total - skipped)  # ghz counts those that it skips
    concurrency, connections = one.concurrency or 50, one.connections or 1
    shared = {
        "requests": total,
        "duration": duration,
        "warmup": warmup,
        "warmup_requests": warmup_requests,
        "grace": 0.0 if one.duration and one.duration_stop in (None, "close") and not one.rps else grace,
        "connections": connections,
        "streams_per_connection": max(1, math.ceil(concurrency / connections)),
    }
    if not stages:
        users, staged = staged_users(one, concurrency)
        if staged:
            shared["streams_per_connection"] = max(1, math.ceil(users / connections))
        return Load(executor="users", users=users, staged_users=staged, **shared)  # type: ignore[arg-type]
    length = duration if duration is not None else None
    if length is None:
        length = _until_all(stages, total or 1)
    stages = _lasting(stages, length)
    # Calls of a slow version must not keep those of others waiting for a place.
    shared["streams_per_connection"] = max(STREAMS, shared["streams_per_connection"])  # type: ignore[type-var]
    return Load(executor="arrivals", arrivals=Arrivals(stages, spacing=one.spacing or "constant"), **shared)  # type: ignore[arg-type]


def rate_stages(one: GrpcEndpoint) -> tuple[Stage, ...]:
    """The schedule of ghz; its last rate goes on until the calls or the time are used up. Empty: no rate is asked."""
    match one.load_schedule or "const":
        case "step":
            return _steps(one)
        case "line":
            return _line(one)
    rate = float(one.rps or 0)
    return (Stage(MAX_DURATION, rate, rate),) if rate else ()


def staged_users(one: GrpcEndpoint, concurrency: int) -> tuple[int, tuple[Stage, ...]]:
    """How many callers there are at most, and the schedule of those that are at work; a line is steps of a second."""
    kind = one.concurrency_schedule or "const"
    if kind == "const":
        return concurrency, ()
    step = one.concurrency_step or 0
    length = one.concurrency_step_duration if kind == "step" else 1.0
    if not step or not length:
        wanted = "concurrency-step and concurrency-step-duration" if kind == "step" else "concurrency-step"
        raise ValueError(f"concurrency-schedule {kind} takes {wanted}")
    level, passed = one.concurrency_start or (1 if step > 0 else concurrency), 0.0
    end = one.concurrency_end
    most = min(one.concurrency_max_duration or math.inf, MAX_DURATION)
    found: list[Stage] = []
    while passed < most and len(found) < MOST_STEPS and not _reached(level, step, end) and 0 < level <= MOST_CALLERS:
        found.append(Stage(min(length, most - passed), level, level))
        passed += length
        level = max(0, level + step)
    if end is not None and _reached(level, step, end):
        level = end
    elif found:
        level = int(found[-1].end)
    if level < 1:
        raise ValueError("the concurrency falls to 0: give concurrency-end: 1 or more")
    found.append(Stage(MAX_DURATION, level, level))
    return int(max(stage.end for stage in found)), tuple(found)


def _steps(one: GrpcEndpoint) -> tuple[Stage, ...]:
    rate, step, length = float(one.load_start or 0), float(one.load_step or 0), one.load_step_duration or 0.0
    if not step or not length:
        raise ValueError("load-schedule step takes load-step and load-step-duration")
    found: list[Stage] = []
    passed = 0.0
    most = min(one.load_max_duration or math.inf, MAX_DURATION)
    while passed < most and not _reached(rate, step, one.load_end) and len(found) < MOST_STEPS:
        span_ = min(length, most - passed)
        found.append(Stage(span_, rate, rate))
        passed += span_
        rate = max(0.0, rate + step)
    last = float(one.load_end) if one.load_end is not None and _reached(rate, step, one.load_end) else rate
    if passed >= most and found:
        last = found[-1].end
    found.append(Stage(MAX_DURATION, last, last))
    return tuple(found)


def _line(one: GrpcEndpoint) -> tuple[Stage, ...]:
    start, slope = float(one.load_start or 0), float(one.load_step or 0)
    if not slope:
        raise ValueError("load-schedule line takes load-step, the change of the rate in each second")
    seconds = one.load_max_duration or math.inf
    if one.load_end is not None:
        seconds = min(seconds, max(0.0, (one.load_end - start) / slope))
    elif slope < 0:
        seconds = min(seconds, start / -slope)
    if not seconds:
        raise ValueError("load-schedule line goes away from load-end: load-step has the wrong sign")
    seconds = min(seconds, MAX_DURATION)
    end = start + slope * seconds
    ramp = Stage(seconds, start, end)
    return (ramp, Stage(MAX_DURATION, end, end)) if seconds < MAX_DURATION else (ramp,)


def _reached(rate: float, step: float, end: float | None) -> bool:
    if end is None:
        return step < 0 and rate <= 0
    return rate >= end if step > 0 else rate <= end


def _until_all(stages: tuple[Stage, ...], total: int) -> float:
    """Seconds in which the schedule asks for so many calls. Raises ValueError where it never does."""
    passed, area = 0.0, 0.0
    for stage in stages:
        mean = (stage.start + stage.end) / 2
        if mean and area + mean * stage.duration >= total:
            # of a ramp the whole length: the number of calls ends it anyhow
            length = stage.duration if stage.start != stage.end else span(max(1, math.ceil(total - area)), mean)
            return min(passed + length, MAX_DURATION)
        passed, area = passed + stage.duration, area + mean * stage.duration
    raise ValueError(f"the schedule never comes to {total} calls: its rate falls to 0")


def _lasting(stages: tuple[Stage, ...], length: float) -> tuple[Stage, ...]:
    found: list[Stage] = []
    passed = 0.0
    for stage in stages:
        left = length - passed
        if left <= 0:
            break
        part = min(stage.duration, left)
        end = stage.start + (stage.end - stage.start) * part / stage.duration
        found.append(Stage(part, stage.start, end))
        passed += part
    return tuple(found)
