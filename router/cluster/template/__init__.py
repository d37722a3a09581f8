"""What Iter8's charts rendered from a few values, as manifests for headgate: the pure part of `headgate template`.

traffic-templates    templateName, targetEnv, trafficStrategy, modelName, modelVersions ...    traffic.py
routing-actions      action, appType, strategy, appName, appVersions ...                       traffic.py
release              environment, application ...                                              release.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from router.cluster.template import release as _release
from router.cluster.template import traffic as _traffic
from router.cluster.template.values import WHERE, Values
from router.problem import Problem


@dataclass(frozen=True, slots=True)
class Rendered:
    """`documents` is empty when a problem is an error: half of a rollout must not be applied."""

    documents: tuple[dict[str, Any], ...] = ()
    problems: tuple[Problem, ...] = ()


def render(values: Any, *, release: str = "release-name", namespace: str = "default") -> Rendered:
    """Tell the chart from the values and render it; `release` and `namespace` are those of Helm's command line."""
    if not isinstance(values, Mapping):
        return Rendered(problems=(Problem(WHERE, "", "the values are not a mapping", "write name: value"),))
    read = Values(values)
    documents = _chart(values)(read, release, namespace)
    problems = tuple(dict.fromkeys(read.problems))
    failed = any(one.severity == "error" for one in problems)
    return Rendered(() if failed else tuple(documents), problems)


_Chart = Callable[[Values, str, str], list[dict[str, Any]]]


def _chart(values: Mapping[str, Any]) -> _Chart:
    if "environment" in values or "application" in values:
        return _release.documents
    if "action" in values or "appName" in values or "appType" in values:
        return _traffic.routing_actions
    return _traffic.traffic_templates
