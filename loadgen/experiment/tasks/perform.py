"""From a task to what does it."""

from __future__ import annotations

from loadgen.experiment.context import Context, Done
from loadgen.experiment.spec import Task
from loadgen.experiment.tasks import assess, compare, custommetrics, load, notify, ready, route, run
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
    RunSettings,
    SlackSettings,
)


async def perform(task: Task, context: Context) -> Done:
    """Raises TaskFailure."""
    match task.settings:
        case HttpSettings() as http:
            return await load.http(http, context)
        case GrpcSettings() as grpc:
            return await load.grpc(grpc, context)
        case ReadySettings() as settings:
            return await ready.perform(settings, context)
        case RunSettings() as settings:
            return await run.perform(task.script, settings, context)
        case CustomMetricsSettings() as settings:
            return await custommetrics.perform(settings, context)
        case AssessSettings() as settings:
            return await assess.perform(settings, context)
        case NotifySettings() as settings:
            return await notify.perform(settings, context)
        case SlackSettings() as settings:
            return await notify.slack(settings, context)
        case GitHubSettings() as settings:
            return await notify.github(settings, context)
        case RouteSettings() as settings:
            return await route.perform(settings, context)
        case CompareSettings() as settings:
            return await compare.perform(settings, context)
    raise AssertionError(f"no task takes {type(task.settings).__name__}")
