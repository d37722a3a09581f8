"""What an experiment is asked to do: an ordered list of tasks whose parameters have been checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.experiment.condition import Condition
from loadgen.experiment.tasks.grpc_settings import GrpcSettings
from loadgen.experiment.tasks.http_settings import HttpSettings
from loadgen.experiment.tasks.settings import (
    AssessSettings,
    CompareSettings,
    CustomMetricsSettings,
    GitHubSettings,
    NotifySettings,
    ReadySettings,
    RouteSettings,
    SlackSettings,
)
from router.schema import Part

API_VERSION = "headgate.dev/v1alpha1"
KIND = "Experiment"
RUN = "run"

KINDS: Mapping[str, type[Part]] = {
    "http": HttpSettings,
    "grpc": GrpcSettings,
    "ready": ReadySettings,
    "custommetrics": CustomMetricsSettings,
    "assess": AssessSettings,
    "notify": NotifySettings,
    "slack": SlackSettings,
    "github": GitHubSettings,
    "route": RouteSettings,
    "compare": CompareSettings,
}
"""Tasks by name; a task with `run` has none."""


@dataclass(frozen=True, slots=True)
class Task:
    """`where` is what the user can open. `script` is what a task `run` runs."""

    kind: str
    settings: Part
    where: str
    condition: Condition | None = None
    continue_on_failure: bool = False
    script: str = ""


@dataclass(frozen=True, slots=True)
class Experiment:
    """`document` is what was read, as plain values. Relative paths in it count from `folder`. `every` is in seconds."""

    name: str
    namespace: str
    tasks: tuple[Task, ...]
    where: str
    folder: Path
    document: tuple[Mapping[str, Any], ...]
    loops: int = 1
    every: float = 0.0
    cron: str = ""
