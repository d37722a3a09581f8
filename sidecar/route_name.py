"""The name that Envoy has for a route in, what headgate's control plane says by it out.

It is `PRIMARY@MODEL@ROUTE`: the version that answers by default, the model with its namespace, the route's own name. Of
the route that splits what no other route took it is `PRIMARY@MODEL` only.
"""

from __future__ import annotations

from typing import NamedTuple

WEIGHTED = "weighted"


class RouteName(NamedTuple):
    """`primary` and `model` are empty where the name is not of our control plane."""

    primary: str
    model: str
    name: str


def read(told: str) -> RouteName:
    """Take an Envoy's name of a route apart; one of another control plane stays whole."""
    primary, at, rest = told.partition("@")
    if not at:
        return RouteName("", "", told)
    model, _, name = rest.partition("@")
    return RouteName(primary, model, name or WEIGHTED)
