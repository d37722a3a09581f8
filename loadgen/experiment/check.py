"""What single tasks cannot know: that a metric which is assessed is measured before, that a load has a target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from loadgen.experiment.metric import MetricFault, built_in
from loadgen.experiment.spec import Task
from loadgen.experiment.tasks.grpc_settings import GrpcEndpoint, GrpcSettings
from loadgen.experiment.tasks.http_settings import HttpEndpoint, HttpSettings
from loadgen.experiment.tasks.settings import AssessSettings, CompareSettings, CustomMetricsSettings
from loadgen.slo.language import parse_all
from router.documents import Place
from router.hints import nearest

Complaint = tuple[Place, str, str, bool]
"""Place within the parameters, what is wrong, what to do, and whether it is only a warning."""

_WITHOUT_EFFECT = ("keepalive", "lb_strategy", "enable_compression", "cpus", "name", "tags", "stream_call_duration")


def contradictions(tasks: Sequence[Task], unread: frozenset[str] = frozenset()) -> Iterator[Complaint]:
    """Of the last task, after those before it; `unread`: kinds of tasks before it whose parameters are wrong."""
    *before, task = tasks
    match task.settings:
        case HttpSettings() as http:
            yield from _http(http)
        case GrpcSettings() as grpc:
            yield from _grpc(grpc)
        case AssessSettings() as assess:
            yield from _assess(assess, before, unread)
        case CompareSettings():
            if not any(_records(one) for one in before) and not unread & {"http", "grpc"}:
                yield (), "nothing is measured before it", "put a task http or grpc before it", False


def _http(settings: HttpSettings) -> Iterator[Complaint]:
    yield from _names(settings.endpoints)
    if not settings.endpoints and settings.url is None:
        yield ("url",), "is missing", "give a url, or endpoints that have one", False
    for name, one in settings.endpoints.items():
        if settings.url is None and one.url is None:
            yield ("endpoints", name, "url"), "is missing", "give it here or for all endpoints", False
    yield from _qps((), settings)
    for name, one in settings.endpoints.items():
        yield from _qps(("endpoints", name), one)


def _qps(place: Place, one: HttpEndpoint) -> Iterator[Complaint]:
    if one.num_requests is not None and one.duration is not None:
        yield (*place, "duration"), "has no effect beside numRequests", "leave one of them out", True
    if one.error_ranges is not None:
        for index, each in enumerate(one.error_ranges):
            if each.lower is not None and each.upper is not None and each.lower > each.upper:
                yield (
                    (*place, "errorRanges", index),
                    f"{each.lower} to {each.upper} holds no status",
                    "swap them",
                    False,
                )


def _grpc(settings: GrpcSettings) -> Iterator[Complaint]:
    yield from _names(settings.endpoints)
    for field in ("call", "host"):
        if not settings.endpoints and getattr(settings, field) is None:
            yield (field,), "is missing", "it is required", False
        for name, endpoint in settings.endpoints.items():
            if getattr(settings, field) is None and getattr(endpoint, field) is None:
                yield ("endpoints", name, field), "is missing", "give it here or for all endpoints", False
    yield from _grpc_endpoint((), settings)
    for name, one in settings.endpoints.items():
        yield from _grpc_endpoint(("endpoints", name), one)


def _grpc_endpoint(place: Place, one: GrpcEndpoint) -> Iterator[Complaint]:
    if one.host is not None and not _is_host(one.host):
        yield (*place, "host"), f"{one.host!r} is not HOST:PORT", "write for example localhost:9000", False
    if one.call is not None and not _is_call(one.call):
        hint = "write package.Service/Method, such as inference.GRPCInferenceService/ModelInfer"
        yield (*place, "call"), f"{one.call!r} is not a method", hint, False
    for field in _WITHOUT_EFFECT:
        if getattr(one, field) not in (None, "", 0, {}, False):
            yield (*place, field.replace("_", "-")), "is taken without effect", "", True


def _is_host(text: str) -> bool:
    try:
        parts = urlsplit(text if "://" in text else f"//{text.removeprefix('dns:///')}")
        return bool(parts.hostname) and parts.port is not None and parts.path in ("", "/")
    except ValueError:
        return False


def _is_call(text: str) -> bool:
    service, _, method = text.rpartition("/" if "/" in text else ".")
    return bool(service) and bool(method) and not service.startswith("/") and "/" not in service


def _names(endpoints: dict[str, HttpEndpoint] | dict[str, GrpcEndpoint]) -> Iterator[Complaint]:
    for name in endpoints:
        if not name or not all(one.isalnum() or one in "._-" for one in name):
            hint = "use letters, digits, '.', '_' and '-': the name becomes a part of metrics'"
            yield ("endpoints", name), f"{name!r} cannot be the name of an endpoint", hint, False


def _assess(settings: AssessSettings, before: Sequence[Task], unread: frozenset[str]) -> Iterator[Complaint]:
    loads = [one for one in before if _records(one)]
    custom = any(isinstance(one.settings, CustomMetricsSettings) for one in before) or "custommetrics" in unread
    for place, metric in _metrics(settings):
        try:
            found = built_in(metric)
        except MetricFault as fault:
            yield place, fault.what, fault.hint, False
            continue
        if found is None:
            if not custom:
                hint = "put a task custommetrics before it, or use a metric of http or grpc"
                yield place, f"nothing measures {metric!r}", hint, False
            continue
        kind, endpoint = found
        same = [one for one in loads if one.kind == kind]
        names = [name for one in same for name in (_endpoints(one) or ("",))]
        if endpoint not in names and kind not in unread:
            yield place, *_unmeasured(metric, kind, names), False
    _, problems = parse_all(settings.rules, "rules")
    for problem in problems:
        yield ("rules",), problem.what, problem.hint, problem.severity == "warning"
    if settings.rules and not loads and not unread & {"http", "grpc"}:
        yield ("rules",), "nothing is measured before it", "put a task http or grpc before it", False


def _metrics(settings: AssessSettings) -> Iterator[tuple[Place, str]]:
    if settings.slos is not None:
        for side in ("upper", "lower"):
            for index, limit in enumerate(getattr(settings.slos, side)):
                yield ("SLOs", side, index, "metric"), limit.metric
    if settings.rewards is not None:
        for side in ("max", "min"):
            for index, metric in enumerate(getattr(settings.rewards, side)):
                yield ("rewards", side, index), metric


def _unmeasured(metric: str, kind: str, names: list[str]) -> tuple[str, str]:
    what = f"nothing measures {metric!r}"
    if not names:
        return what, f"put a task {kind} before it"
    known = [f"{kind}-{name}" if name else kind for name in names]
    backend, _, rest = metric.partition("/")
    near = nearest(backend, known) or known[0]
    return what, f"did you mean '{near}/{rest}'?"


def _records(task: Task) -> bool:
    return isinstance(task.settings, HttpSettings | GrpcSettings) and not task.settings.warmup


def _endpoints(task: Task) -> tuple[str, ...]:
    assert isinstance(task.settings, HttpSettings | GrpcSettings)
    return tuple(task.settings.endpoints)
