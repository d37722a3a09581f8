"""Traffic that is changed for an experiment, and what is noted so that it can be put back whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from loadgen.experiment.tasks.settings import RouteSettings


@dataclass(frozen=True, slots=True)
class Before:
    """How a model's traffic was: `where` it is kept ("cluster" or a file), and for each version what it said of it.

    `after` is what the experiment makes of that: what somebody else has changed meanwhile is not put back. `context`
    tells how the place is reached again: a kubeconfig and its context, the text of a file.
    """

    model: str
    where: str
    versions: Mapping[str, Mapping[str, Any]]
    after: Mapping[str, Mapping[str, Any]]
    context: Mapping[str, str]


class RoutesFault(Exception):
    """The traffic could not be changed or put back; the message says why."""


class Routes(Protocol):
    """Where rollouts are changed. Implemented beside the commands that change them."""

    async def look(self, settings: RouteSettings, namespace: str, folder: str) -> Before:
        """How the traffic is now. Raises RoutesFault, also where the model or a version is not there."""

    async def change(self, settings: RouteSettings, before: Before, why: str) -> str:
        """Make it so and wait until every Envoy has it; what was done, in words. Raises RoutesFault."""

    async def restore(self, before: Before, why: str) -> str:
        """Put it back; nothing to do where it is so already. Raises RoutesFault."""
