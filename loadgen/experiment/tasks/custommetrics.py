"""Task `custommetrics`: metrics of each version from Prometheus or any other database that answers JSON over HTTP.

A provider's template becomes, with the values of a version, a list of metrics: a query each, and a jq expression that
finds the number in its answer. What has no number is named, and fails the task unless `allowMissing` says otherwise.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.fetch import text, words
from loadgen.experiment.gotemplate import Template, TemplateFault
from loadgen.experiment.jq_number import found_within
from loadgen.experiment.metric import Measured, MetricFault, MetricInfo, Observed, normal
from loadgen.experiment.result import Insights, InsightsFault
from loadgen.experiment.secrets import masked, to_mask
from loadgen.experiment.tasks.settings import CustomMetricsSettings
from loadgen.experiment.values import HeaderTexts, PlainText, WebAddress
from loadgen.slo.verdict import ExitCode
from router.hints import path_text
from router.schema import Part
from router.words import in_our_words

if TYPE_CHECKING:
    import aiohttp

_PAUSE = 0.5
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_ANSWER = 16 * 1024 * 1024


class Parameter(Part):
    name: PlainText
    value: PlainText


class Query(Part):
    """One metric of a provider."""

    name: PlainText
    description: PlainText = ""
    type: Annotated[Literal["gauge", "counter", "Gauge", "Counter"], Field()]
    units: PlainText = ""
    params: tuple[Parameter, ...] = ()
    body: str | None = None
    jq_expression: str

    model_config = ConfigDict(extra="ignore")


class Provider(Part):
    """What a template renders to. `timeout` and `retries` are for the whole provider."""

    url: WebAddress
    method: Literal["GET", "POST", "PUT"] = "GET"
    headers: HeaderTexts = Field(default_factory=dict)
    provider: PlainText
    metrics: tuple[Query, ...] = Field(min_length=1)

    model_config = ConfigDict(extra="ignore")


async def perform(settings: CustomMetricsSettings, context: Context) -> Done:
    insights = _versions(settings, context)
    templates = await _templates(settings, context)
    values = settings.version_values or ({},)
    found: dict[str, dict[str, Observed]] = {}
    info: dict[str, MetricInfo] = {}
    missing: list[str] = []
    async with context.session(settings.timeout) as session:
        for index, own in enumerate(values):
            merged = _merged(settings.values, own)
            merged["elapsedTimeSeconds"] = _elapsed(merged.get("startingTime"), context)
            for name, template in templates.items():
                provider = _provider(name, template, merged)
                seen, wrong = await _asked(session, provider, settings)
                version = insights.versions[index]
                found.setdefault(version, {}).update({key: Observed((value,)) for key, value in seen.items()})
                info |= {metric(provider, one): _info(one) for one in provider.metrics}
                missing += [f"{each} of {insights.label(index)}" for each in wrong]
    try:
        insights = insights.joined(Measured(info, found))
    except InsightsFault as fault:
        raise TaskFailure(str(fault)) from None
    tracks = {insights.versions[index]: str(own["track"]) for index, own in enumerate(values) if own.get("track")}
    insights = replace(insights, tracks={**insights.tracks, **tracks})
    counted = sum(len(one) for one in found.values())
    if missing and not settings.allow_missing:
        what = f"{len(missing)} of {counted + len(missing)} metrics have no value: {'; '.join(missing)}"
        raise TaskFailure(what, "allowMissing: true lets it go on", code=ExitCode.NO_DATA, insights=insights)
    return Done(f"{counted} values" + (f"; without a value: {'; '.join(missing)}" if missing else ""), insights)


def _versions(settings: CustomMetricsSettings, context: Context) -> Insights:
    count = max(1, len(settings.version_values))
    known = context.insights
    if settings.versions and len(settings.versions) != count:
        raise TaskFailure(
            f"{len(settings.versions)} versions and {count} versionValues do not go together",
            code=ExitCode.BAD_SPEC,
        )
    if settings.versions:
        extra = tuple(one for one in settings.versions if one not in known.versions)
        ordered = (*settings.versions, *(one for one in known.versions if one not in settings.versions))
        if known.versions and not extra:
            places = [known.versions.index(one) for one in ordered]
            return replace(known, versions=ordered, observed=tuple(known.observed[place] for place in places))
        return known.joined(Measured({}, {one: {} for one in settings.versions}))
    unnamed = tuple("" if count == 1 else f"version {index}" for index in range(count))
    try:
        return known.with_versions(unnamed)
    except InsightsFault as fault:
        raise TaskFailure(str(fault), "name them with versions: [...]", code=ExitCode.BAD_SPEC) from None


async def _templates(settings: CustomMetricsSettings, context: Context) -> dict[str, Template]:
    found = {}
    for name, source in settings.templates.items():
        try:
            found[name] = Template(await text(context, source))
        except TemplateFault as fault:
            raise TaskFailure(f"the template of {name} cannot be read: {fault}") from None
    return found


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Anew for each version, so that nothing of one is left for the next."""
    made = dict(under)
    for key, value in over.items():
        below = made.get(key)
        made[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return made


def _elapsed(starting: object, context: Context) -> int:
    """Whole seconds since `startingTime` (RFC 3339), or since the experiment began; at least one."""
    began = context.result.started
    if starting is not None:
        try:
            at = datetime.fromisoformat(str(starting))
        except ValueError:
            raise TaskFailure(
                f"cannot parse startingTime {starting!r}", "write it as 2024-05-01T12:00:00Z", code=ExitCode.BAD_SPEC
            ) from None
        began = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return max(1, int(context.now() - began))


def _provider(name: str, template: Template, values: Mapping[str, Any]) -> Provider:
    try:
        rendered = template.render(values)
    except TemplateFault as fault:
        raise TaskFailure(f"the template of {name} cannot be rendered: {fault}") from None
    try:
        raw = yaml.load(rendered, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise TaskFailure(f"the template of {name} does not render to YAML: {' '.join(str(error).split())}") from None
    try:
        return Provider.model_validate(raw)
    except ValidationError as error:
        details = in_our_words(Provider, error, ()).errors(include_url=False)
        what = "; ".join(f"{path_text(one['loc'])}: {one['ctx']['what']}" for one in details)
        raise TaskFailure(f"what the template of {name} renders to is no provider: {what}") from None


def metric(provider: Provider, query: Query) -> str:
    name = f"{provider.provider}/{query.name}"
    try:
        return normal(name)
    except MetricFault as fault:
        raise TaskFailure(f"invalid metric name: {fault.what}", fault.hint) from None


def _info(query: Query) -> MetricInfo:
    kind: Literal["Counter", "Gauge"] = "Counter" if query.type.lower() == "counter" else "Gauge"
    return MetricInfo(kind, query.description.strip(), query.units)


async def _asked(
    session: aiohttp.ClientSession, provider: Provider, settings: CustomMetricsSettings
) -> tuple[dict[str, float], list[str]]:
    """The values that there are, and "metric (why not)" for the others. Queries are sent at the same time."""
    headers = {
        "Content-Type": "application/json;charset=utf-8",
        **{name: _expanded(value) for name, value in {**provider.headers, **settings.headers}.items()},
    }
    hidden = to_mask(value for name, value in headers.items() if name.lower() != "content-type")
    gate = asyncio.Semaphore(8)

    async def one(query: Query) -> tuple[str, float | str]:
        async with gate:
            found = await _value(session, provider, query, headers, settings)
            return metric(provider, query), masked(found, hidden) if isinstance(found, str) else found

    answers = await asyncio.gather(*(one(query) for query in provider.metrics))
    values = {name: value for name, value in answers if isinstance(value, float)}
    return values, [f"{name} ({value})" for name, value in answers if isinstance(value, str)]


async def _value(
    session: aiohttp.ClientSession,
    provider: Provider,
    query: Query,
    headers: Mapping[str, str],
    settings: CustomMetricsSettings,
) -> float | str:
    """The number, or why there is none."""
    import aiohttp

    params = [(one.name, one.value) for one in query.params]
    why = ""
    for attempt in range(settings.retries + 1):
        if attempt:
            await asyncio.sleep(min(5.0, _PAUSE * 2 ** (attempt - 1)))
        try:
            async with session.request(
                provider.method, provider.url, params=params, data=query.body, headers=headers
            ) as answer:
                raw = await answer.content.read(_ANSWER)
                while not answer.content.at_eof() and len(raw) < _ANSWER:
                    raw += await answer.content.read(_ANSWER - len(raw))
                status = answer.status
        except (aiohttp.ClientError, OSError) as error:
            why = words(error)
            continue
        if len(raw) >= _ANSWER:
            return f"the answer has more than {_ANSWER // 1024**2} MiB"
        if status < 300:
            return await found_within(max(5.0, settings.timeout), raw, query.jq_expression)
        why = f"status {status}: {' '.join(raw[:200].decode(errors='replace').split())}"
        if status not in _AGAIN:
            return why
    return why


def _expanded(value: str) -> str:
    """$NAME and ${NAME} are variables of the environment, so that secrets need not be in the file."""

    def variable(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise TaskFailure(f"the environment variable {name} is not set", "a header names it")
        return os.environ[name]

    return re.sub(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))", variable, value)
