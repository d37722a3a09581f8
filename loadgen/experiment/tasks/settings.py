"""Parameters of the other tasks. Every field carries the description that users read in docs/tasks.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from loadgen.experiment.values import (
    Flag,
    HeaderTexts,
    Metric,
    PlainText,
    Span,
    SpanOrZero,
    Texts,
    WebAddress,
)
from router.schema import Part
from router.values import fault, shown

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ReadySettings(Part):
    """An object of a cluster, or an address."""

    name: str | None = Field(default=None, description="Name of the object.")
    group: str = Field(default="", description="Its API group, such as serving.kserve.io.")
    version: str | None = Field(default=None, description="Its API version, such as v1beta1.")
    resource: str | None = Field(default=None, description="Its plural, such as inferenceservices.")
    namespace: str | None = Field(default=None, description="By default that of the experiment.")
    conditions: tuple[str, ...] = Field(
        default=(), description="Conditions that must all be True. Without any it is enough that the object exists."
    )
    condition: str | None = Field(default=None, description="The same for one, as before Iter8 0.16.")
    url: WebAddress | None = Field(default=None, description="Ours. An address that must answer 2xx instead.")
    timeout: Span = Field(default=60.0, description="How long it is waited for.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.url is not None:
            if self.name or self.resource or self.version:
                raise fault("an object and url are both given", "wait for them in two tasks")
        elif missing := [one for one in ("name", "version", "resource") if not getattr(self, one)]:
            raise fault(f"{' and '.join(missing)} missing", "name an object, or give a url")
        return self

    def wanted(self) -> tuple[str, ...]:
        return (*self.conditions, *((self.condition,) if self.condition else ()))


class RunSettings(Part):
    """Of a script, as `with` beside `run`. Ours: Iter8's run has no parameters."""

    timeout: Span = Field(default=3600.0, description="Ours. After this the script is ended.")
    environment: Texts = Field(default_factory=dict, description="Ours. Variables besides those of headgate itself.")


class NotifySettings(Part):
    url: WebAddress = Field(description="Where to.")
    method: Literal["GET", "POST", "PUT", "PATCH"] | None = Field(
        default=None, description="GET, or POST when there is a payload."
    )
    params: Texts = Field(default_factory=dict, description="Query parameters.")
    headers: HeaderTexts = Field(default_factory=dict, description="Request headers.")
    payload_template_url: str | None = Field(
        default=None,
        alias="payloadTemplateURL",
        description="Go template of the body: an address, or a file.",
    )
    payload_template: str | None = Field(default=None, description="Ours. The template itself.")
    soft_failure: Flag = Field(default=False, description="A notification that fails does not fail the experiment.")
    timeout: Span = Field(default=10.0, description="Ours. How long an answer is waited for.")


class SlackSettings(Part):
    """As the chart of Iter8's performance tests has it."""

    url: WebAddress = Field(description="Slack's incoming webhook.")
    payload_template_url: str | None = Field(default=None, alias="payloadTemplateURL", description="Another body.")
    soft_failure: Flag = Field(default=True, description="A notification that fails does not fail the experiment.")


class GitHubSettings(Part):
    """As the chart of Iter8's performance tests has it: a repository_dispatch event."""

    owner: str = Field(description="Owner of the repository.")
    repo: str = Field(description="Name of the repository.")
    token: str = Field(description="A token that may write to it.")
    payload_template_url: str | None = Field(default=None, alias="payloadTemplateURL", description="Another body.")
    soft_failure: Flag = Field(default=True, description="A notification that fails does not fail the experiment.")


class CustomMetricsSettings(Part):
    templates: dict[str, str] = Field(
        default_factory=dict, min_length=1, description="For each provider the address, or file, of its template."
    )
    values: dict[str, Any] = Field(default_factory=dict, description="Variables of the templates.")
    version_values: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="For each version the variables that differ; `track` among them is shown beside its name.",
    )
    versions: tuple[str, ...] = Field(default=(), description="Ours. Names of these versions.")
    headers: HeaderTexts = Field(
        default_factory=dict, description="Ours. Headers of each query, such as Authorization; $NAME is a variable."
    )
    timeout: Span = Field(default=10.0, description="Ours. How long an answer is waited for.")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(default=3, description="Ours. Tries after the first one.")
    allow_missing: Flag = Field(
        default=False, description="Ours. A metric without a value is told, and does not fail the task."
    )


class Limit(Part):
    metric: Metric = Field(description="backend/metric, such as http/latency-p99.")
    limit: Finite = Field(description="In the metric's units.")


def _limits(value: object) -> object:
    """A list, or a mapping of metrics to limits as in the chart."""
    if isinstance(value, dict):
        return [{"metric": metric, "limit": limit} for metric, limit in value.items()]
    return value


Limits = Annotated[tuple[Limit, ...], BeforeValidator(_limits)]


class SlosSettings(Part):
    upper: Limits = Field(default=(), description="Metrics that must not be above their limit.")
    lower: Limits = Field(default=(), description="Metrics that must not be below their limit.")


class RewardsSettings(Part):
    max: tuple[Metric, ...] = Field(default=(), description="Metrics of which more is better.")
    min: tuple[Metric, ...] = Field(default=(), description="Metrics of which less is better.")


class AssessSettings(Part):
    slos: SlosSettings | None = Field(default=None, alias="SLOs", description="Upper and lower limits.")
    rewards: RewardsSettings | None = Field(default=None, description="Metrics by which the best version is found.")
    rules: tuple[str, ...] = Field(
        default=(), description="Ours. Objectives as in headgate load --slo: v2.latency-p95<=1.2*v1.latency-p95."
    )
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Ours. Of rules: hold or break them only with this confidence."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        slos = self.slos is not None and (self.slos.upper or self.slos.lower)
        rewards = self.rewards is not None and (self.rewards.max or self.rewards.min)
        if not slos and not rewards and not self.rules:
            raise fault("there is nothing to assess", "give SLOs, rewards or rules")
        return self


class MirrorSettings(Part):
    version: str = Field(description="Who gets copies.")
    percent: Annotated[float, Field(gt=0, le=100)] = Field(default=100.0, description="Of all requests.")


class HeaderSettings(Part):
    version: str = Field(description="Who gets the requests.")
    name: str = Field(default="traffic", description="Name of the header.")
    value: PlainText = Field(default="test", description="Its value.")


class RouteSettings(Part):
    """Exactly one of weights, header, mirror."""

    model: str = Field(description="NAME or NAMESPACE/NAME of the ModelRollout.")
    weights: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]] | None = Field(
        default=None, description="For each version that is named its weight."
    )
    header: HeaderSettings | None = Field(default=None, description="Requests with this header go to a version.")
    mirror: MirrorSettings | None = Field(default=None, description="Copies of the requests go to a version.")
    manifest: str | None = Field(
        default=None, description="File with the ModelRollout, where there is no cluster; it is edited in place."
    )
    keep: Flag = Field(default=False, description="Do not put it back at the end.")
    timeout: Span = Field(default=60.0, description="How long it is waited for, until every Envoy has it.")
    settle: SpanOrZero = Field(default=0.0, description="A time to wait after that.")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = [one for one in ("weights", "header", "mirror") if getattr(self, one)]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given together" if given else "nothing is to be changed"
            raise fault(what, "give exactly one of weights, header, mirror")
        return self


class CompareSettings(Part):
    candidate: str = Field(description="Name of a version.")
    primary: str = Field(description="Name of the version that it is held against.")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(default=0.95, description="Of the intervals.")
    fail_if_worse: Flag = Field(default=False, description="A candidate that is worse fails the task.")
    weights: dict[str, float] = Field(
        default_factory=dict, description="The split that was meant; the one that was measured is held against it."
    )

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.candidate == self.primary:
            raise fault(f"{shown(self.candidate)} is held against itself", "name two versions")
        return self
