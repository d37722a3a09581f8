"""The values of Iter8's chart for performance tests: `tasks: [ready, http, assess]`, and a section for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loadgen.experiment.spec import KINDS
from router.documents import Place
from router.hints import nearest, unknown_field
from router.values import shown

OTHERS = (
    "iter8Image",
    "majorMinor",
    "logLevel",
    "resources",
    "serviceAccountName",
    "metricsServerURL",
    "runner",
    "cronjobSchedule",
    "namespace",
    "resourceTypes",
    "abnmetrics",
)
"""Values of the chart that say how it is installed; they are passed over."""

SHORT = {
    "svc": ("", "v1", "services", ()),
    "service": ("", "v1", "services", ()),
    "cm": ("", "v1", "configmaps", ()),
    "deploy": ("apps", "v1", "deployments", ("Available",)),
    "isvc": ("serving.kserve.io", "v1beta1", "inferenceservices", ("Ready",)),
    "vs": ("networking.istio.io", "v1beta1", "virtualservices", ()),
    "ksvc": ("serving.knative.dev", "v1", "services", ("Ready",)),
    "httproute": ("gateway.networking.k8s.io", "v1beta1", "httproutes", ()),
    "chaosengine": ("litmuschaos.io", "v1alpha1", "chaosengines", ()),
    "mr": ("headgate.dev", "v1alpha1", "modelrollouts", ("Programmed",)),
}
"""Short names of `ready`: group, version, resource, conditions."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A task as a spec would have it, and where its parameters stand."""

    place: Place
    task: dict[str, Any]


Complaint = tuple[Place, str, str]


def is_values(raw: Mapping[str, Any]) -> bool:
    return "spec" not in raw and isinstance(raw.get("tasks"), list)


def tasks(raw: Mapping[str, Any]) -> tuple[tuple[Asked, ...], tuple[Complaint, ...]]:
    """In the order of `tasks`."""
    names = raw["tasks"]
    problems: list[Complaint] = [] if names else [(("tasks",), ".Values.tasks is empty", "name one task at least")]
    found: list[Asked] = []
    for index, name in enumerate(names):
        if not isinstance(name, str) or name not in KINDS:
            near = nearest(str(name), list(KINDS))
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(KINDS)}"
            problems.append((("tasks", index), f"unknown task: {shown(name)}", hint))
        elif name == "ready":
            made, wrong = _ready(raw)
            found += made
            problems += wrong
        else:
            found.append(Asked((name,), {"task": name, "with": raw.get(name) or {}}))
    sections = ("tasks", *KINDS, *OTHERS)
    problems += [((key,), *unknown_field(key, [*sections])) for key in raw if key not in sections]
    return tuple(found), tuple(problems)


def _ready(raw: Mapping[str, Any]) -> tuple[list[Asked], list[Complaint]]:
    section = raw.get("ready") or {}
    if not isinstance(section, Mapping):
        return [], [(("ready",), f"must be a mapping, not {shown(section)}", "write for example deploy: NAME")]
    shared = {key: section[key] for key in ("timeout", "namespace") if key in section}
    types = {**SHORT, **dict(_configured(raw.get("resourceTypes")))}
    found: list[Asked] = []
    problems: list[Complaint] = []
    for short, name in section.items():
        if short in shared:
            continue
        if short not in types:
            hint = f"known: {', '.join(types)}"
            problems.append((("ready", short), f"no type definition for: {short}", hint))
            continue
        group, version, resource, conditions = types[short]
        given = {"name": name, "group": group, "version": version, "resource": resource, "conditions": [*conditions]}
        found.append(Asked(("ready", short), {"task": "ready", "with": {**given, **shared}}))
    if not found and not problems:
        problems.append((("ready",), "there is nothing to wait for", "write for example deploy: NAME"))
    return found, problems


def _configured(raw: Any) -> Iterator[tuple[str, tuple[str, str, str, tuple[str, ...]]]]:
    """`resourceTypes` of the chart: more short names."""
    for short, one in raw.items() if isinstance(raw, Mapping) else ():
        if isinstance(one, Mapping):
            low = {str(key).lower(): value for key, value in one.items()}
            given = low.get("conditions")
            conditions = tuple(str(each) for each in given) if isinstance(given, list) else ()
            yield short, (str(low.get("group", "")), str(low.get("version", "")), str(low.get("resource")), conditions)
