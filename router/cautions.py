"""What is allowed but probably not meant, as warnings: found when a rollout is planned."""

from __future__ import annotations

from collections.abc import Iterator

from router import schema
from router.policy import Wish
from router.problem import Problem
from router.schema import ModelRollout
from router.values import regex_size

ENVOY_REGEX_SIZE = 100
"""Envoy's default of the runtime key re2.max_program_size.error_level; a larger expression is rejected."""


def cautions(rollout: ModelRollout, wanted: tuple[Wish, ...], where: str) -> Iterator[Problem]:
    if all(wish.weight == 0 for wish in wanted):
        yield Problem(
            where,
            "spec.versions",
            f"all weights are 0: {rollout.primary.name}, the primary, serves everything",
            "give at least one version a positive weight",
            "warning",
        )
    yield from _large_regexes(rollout, where)
    weighted = [wish for wish in wanted if not wish.primary and (wish.version.weight or 0) > 1]
    if rollout.primary.weight is None and weighted:
        index = rollout.spec.versions.index(rollout.primary)
        first = weighted[0]
        yield Problem(
            where,
            f"spec.versions[{index}].weight",
            f"{rollout.primary.name}, the primary, has no weight and counts as 1 beside {first.name}'s {first.weight}",
            "give it a weight too",
            "warning",
        )


def _large_regexes(rollout: ModelRollout, where: str) -> Iterator[Problem]:
    """Only a warning: the limit is the Envoy operator's to raise, and we cannot see it from here."""
    for index, version in enumerate(rollout.spec.versions):
        for number, match in enumerate(version.match or ()):
            at = f"spec.versions[{index}].match[{number}]"
            tests: list[tuple[str, schema.PathMatch | schema.HeaderMatch | schema.QueryMatch]] = []
            tests += [(f"{at}.path", match.path)] if match.path else []
            tests += [(f"{at}.headers[{place}]", one) for place, one in enumerate(match.headers)]
            tests += [(f"{at}.query[{place}]", one) for place, one in enumerate(match.query)]
            for field, test in tests:
                if test.regex is not None and (size := regex_size(test.regex)) > ENVOY_REGEX_SIZE:
                    yield Problem(
                        where,
                        f"{field}.regex",
                        f"the regular expression compiles to size {size}; Envoy rejects more than {ENVOY_REGEX_SIZE}",
                        "write a simpler one, or raise re2.max_program_size.error_level in Envoy's runtime",
                        "warning",
                    )
