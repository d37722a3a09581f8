"""Task `route`: change a model's traffic for the rest of the experiment. What was is noted before it is changed."""

from __future__ import annotations

import asyncio

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.routes import RoutesFault
from loadgen.experiment.tasks.settings import RouteSettings


async def perform(settings: RouteSettings, context: Context) -> Done:
    experiment = context.experiment
    if context.routes is None:
        raise TaskFailure("nothing here can change routes", "run it with the command headgate experiment")
    why = f"experiment {experiment.namespace}/{experiment.name}"
    try:
        before = await context.routes.look(settings, experiment.namespace, str(experiment.folder))
        if not settings.keep:
            await context.note(before)
        said = await context.routes.change(settings, before, why)
    except RoutesFault as fault:
        raise TaskFailure(str(fault)) from None
    if settings.settle:
        await asyncio.sleep(settings.settle)
    return Done(said)
