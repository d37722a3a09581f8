"""Tasks `http` and `grpc`: put endpoints under load at the same time, and measure each version that answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Literal

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.fetch import fetched, words
from loadgen.experiment.measure import ALWAYS, measured
from loadgen.experiment.result import InsightsFault, LoadRun, outline
from loadgen.experiment.secrets import bare
from loadgen.experiment.tasks import grpc_plan, http_plan, messages
from loadgen.experiment.tasks.grpc_settings import GrpcSettings
from loadgen.experiment.tasks.http_settings import HttpEndpoint, HttpSettings
from loadgen.outcome import Outcome
from loadgen.plan import Bounds, Plan, Scenario
from loadgen.slo.verdict import ExitCode

INTERRUPTED = 130
_FIRST = 10.0
"""Seconds that the first requests may take."""


async def http(settings: HttpSettings, context: Context) -> Done:
    endpoints = http_plan.endpoints(settings)
    bodies = await asyncio.gather(*(_body(one, context) for one in endpoints.values()))
    initial = [
        _first(name, one, body, context)
        for (name, one), body in zip(endpoints.items(), bodies, strict=True)
        if not one.allow_initial_errors
    ]
    if failures := [one for one in await asyncio.gather(*initial) if one]:
        raise TaskFailure("; ".join(failures), "allowInitialErrors: true goes on", code=ExitCode.NO_DATA)
    scenarios = [
        http_plan.scenario(name, one, body, settings.grace)
        for (name, one), body in zip(endpoints.items(), bodies, strict=True)
    ]
    return await _loaded("http", settings, scenarios, bool(settings.endpoints), context)


async def grpc(settings: GrpcSettings, context: Context) -> Done:
    endpoints = grpc_plan.endpoints(settings)
    made = (messages.scenario(name, one, context, settings.grace) for name, one in endpoints.items())
    scenarios = list(await asyncio.gather(*made))
    return await _loaded("grpc", settings, scenarios, bool(settings.endpoints), context)


async def _loaded(
    task: Literal["http", "grpc"],
    settings: HttpSettings | GrpcSettings,
    scenarios: list[Scenario],
    several: bool,
    context: Context,
) -> Done:
    bounds = Bounds()
    if settings.max_lag is not None:
        bounds = replace(bounds, lag_p99=settings.max_lag)
    if settings.max_unknown is not None:
        bounds = replace(bounds, unknown_versions=settings.max_unknown)
    plan = Plan(context.experiment.name, tuple(scenarios), processes=settings.processes, bounds=bounds)
    outcome = await context.engine(plan, context.progress)
    if settings.warmup:
        return Done(f"warm-up: {_counted(outcome)}")
    ids = {one.name: one.name if several else "" for one in scenarios}
    percentiles = _percentiles(settings)
    load = LoadRun(
        task,
        context.result.loops,
        ids,
        {one.name: _target(one) for one in scenarios},
        tuple(sorted({*ALWAYS, *percentiles})),
        outcome,
        outline(plan),
    )
    try:
        insights = context.insights.joined(measured(task, outcome, ids, percentiles))
    except InsightsFault as fault:
        raise TaskFailure(str(fault)) from None
    insights = insights.loaded(load)
    if outcome.interrupted:
        died = next((fault.what for fault in outcome.faults if fault.kind == "other"), "")
        code = ExitCode.INVALID if died else INTERRUPTED
        raise TaskFailure(died or "the load was interrupted", code=code, insights=insights)
    if silent := _silent(outcome):
        raise TaskFailure(silent, code=ExitCode.NO_DATA, insights=insights)
    notes = [f"INVALID: {fault.what}" for fault in outcome.faults]
    if waited := _waited(outcome):
        notes.append(f"requests waited for a connection, the 99th percentile {waited * 1000:.3g} ms: give more of them")
    return Done("; ".join((_counted(outcome), *notes)), insights)


def _percentiles(settings: HttpSettings | GrpcSettings) -> set[float]:
    found = set(settings.percentiles or ())
    for one in settings.endpoints.values():
        found |= set(one.percentiles or ())
    return found


def _target(scenario: Scenario) -> str:
    grpc = scenario.target.grpc
    return grpc.method if grpc is not None else bare(scenario.target.url)


def _counted(outcome: Outcome) -> str:
    ended = sum(one.ended for one in outcome.series)
    errors = sum(one.errors for one in outcome.series)
    return f"{ended:,} requests, {errors:,} errors in {outcome.duration:.1f} s"


def _waited(outcome: Outcome) -> float:
    """Seconds, where it is a tenth of the latency or more: our connections and not the versions make it then."""
    found = [0.0]
    for one in outcome.series:
        queue, latency = one.metrics.get("queue"), one.metrics.get("latency")
        if queue is not None and latency is not None and queue.count and latency.count:
            waited, whole = queue.histogram().percentile(99), latency.histogram().percentile(99)
            found.append(waited if waited > max(0.005, whole / 10) else 0.0)
    return max(found)


def _silent(outcome: Outcome) -> str:
    """Why not one request was answered at all; empty where any was."""
    ended = sum(one.ended for one in outcome.series)
    if not ended:
        return "no request was sent, or none has ended"
    if any(one.ok or one.codes for one in outcome.series):
        return ""
    kinds: dict[str, int] = {}
    for one in outcome.series:
        for kind, count in one.failures.items():
            kinds[kind] = kinds.get(kind, 0) + count
    said = next((text for one in outcome.series for text in one.samples.values() if text), "")
    why = ", ".join(f"{kind} ({count:,})" for kind, count in sorted(kinds.items(), key=lambda each: -each[1]))
    return f"not one of {ended:,} requests was answered: {why or 'timeout'}" + (f": {said}" if said else "")


async def _body(one: HttpEndpoint, context: Context) -> bytes | None:
    """payloadURL before payloadFile before payloadStr, as in Iter8."""
    if one.payload_url is not None:
        return await fetched(context, one.payload_url)
    if one.payload_file is not None:
        return await fetched(context, one.payload_file)
    return one.payload_str.encode() if one.payload_str is not None else None


async def _first(name: str, one: HttpEndpoint, body: bytes | None, context: Context) -> str:
    """One request for each connection, as fortio begins: what is wrong when every one fails, else nothing."""
    scenario = http_plan.scenario(name, one, body, 0.0)
    several = await asyncio.gather(
        *(_tried(scenario, one, body, context) for _ in range(min(one.connections or http_plan.CONNECTIONS, 8)))
    )
    return several[0] if all(several) else ""


async def _tried(scenario: Scenario, one: HttpEndpoint, body: bytes | None, context: Context) -> str:
    import ssl

    import aiohttp

    target = scenario.target
    trust: ssl.SSLContext | bool = True
    if target.url.startswith("https:"):
        try:
            trust = _trust(scenario)
        except (OSError, ssl.SSLError) as error:
            return f"{bare(target.url)}: {error}"
    headers = {key: value for key, value in target.headers if "{{" not in value}
    templated = target.payload.template is not None
    try:
        async with (
            context.session(min(target.timeout, _FIRST)) as session,
            session.request(
                target.method,
                target.url,
                data=None if templated else body,
                headers=headers,
                ssl=trust,
                server_hostname=target.tls.server_name,
                allow_redirects=False,
            ) as answer,
        ):
            size = len(await answer.read())
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"{bare(target.url)}: {words(error)}"
    if templated or not any(answer.status in each for each in target.errors):
        return ""
    return f"error {answer.status} for {bare(target.url)} ({size} bytes)"


def _trust(scenario: Scenario) -> Any:
    import ssl

    tls = scenario.target.tls
    made = ssl.create_default_context(cafile=tls.ca)
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if tls.certificate:
        made.load_cert_chain(tls.certificate, tls.key)
    return made
