"""A version's weight: the annotation iter8.tools/weight on any of its resources, else the spec, else 1.

Iter8 looked at the first resource only, while its charts annotate the last one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from router.cluster.objects import Object, part
from router.cluster.resource import Reference
from router.problem import Problem
from router.schema import MAX_WEIGHT
from router.values import shown

WEIGHT = "iter8.tools/weight"
DEFAULT_WEIGHT = 1
MAX_UINT32 = (1 << 32) - 1

_digits = re.compile(r"[0-9]+\Z").match


def weight(spec: int | None, objects: Iterable[tuple[Reference, Object | None]]) -> tuple[int, tuple[Problem, ...]]:
    """What the version asks for, ready or not, and what is wrong with its annotations."""
    annotated, problems = override(objects)
    if annotated is not None:
        return annotated, problems
    return DEFAULT_WEIGHT if spec is None else spec, problems


def override(
    objects: Iterable[tuple[Reference, Object | None]],
) -> tuple[int | None, tuple[Problem, ...]]:
    """The first valid annotation in the order of the resources; None without one."""
    problems: list[Problem] = []
    first: tuple[Reference, int] | None = None
    for named, obj in objects:
        raw = part(obj, "metadata", "annotations", WEIGHT)
        if raw is None:
            continue
        field = f"metadata.annotations[{WEIGHT}]"
        if not isinstance(raw, str) or not _digits(raw) or int(raw) > MAX_UINT32:
            what = f"invalid weight annotation {shown(raw)}, which is ignored"
            problems.append(Problem(str(named), field, what, f"write a whole number from 0 to {MAX_UINT32}", "warning"))
        elif first is None:
            first = (named, int(raw))
        elif first[1] != int(raw):
            what = f"weight {raw} is ignored: {first[0]} says {first[1]}"
            problems.append(Problem(str(named), field, what, "annotate one of the version's resources", "warning"))
    return first[1] if first else None, tuple(problems)


def fitted(weights: Mapping[str, int]) -> dict[str, int]:
    """The same proportions within what a ModelRollout allows; a positive weight stays positive."""
    largest = max(weights.values(), default=0)
    if largest <= MAX_WEIGHT:
        return dict(weights)
    return {name: max(1, one * MAX_WEIGHT // largest) if one else 0 for name, one in weights.items()}
