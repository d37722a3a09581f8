"""Traffic that experiments changed is put back as they noted it: at their end, or later where they were killed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from loadgen.experiment.routes import RoutesFault
from loadgen.experiment.store import Busy, Store, StoreFault

if TYPE_CHECKING:
    from loadgen.experiment.runner import Services


async def put_back(store: Store, services: Services, experiment: str) -> tuple[list[str], list[str]]:
    """Put back all traffic that an experiment changed; all that is to be said, and that which is bad news."""
    said: list[str] = []
    bad: list[str] = []
    for number, owner, before in await store.notes():
        if owner != experiment:
            continue
        if services.routes is None:
            bad.append(f"traffic of {before.model} was changed by {owner} and cannot be put back here")
            said.append(bad[-1])
            continue
        try:
            line = await services.routes.restore(before, f"end of experiment {experiment}")
        except RoutesFault as fault:
            bad.append(f"traffic of {before.model} could not be put back: {fault}; try headgate experiment restore")
            said.append(bad[-1])
            continue
        said.append(line)
        try:
            await store.strike(number)
        except StoreFault as fault:  # it will be put back once more, to what it is then already
            said.append(f"that it was put back cannot be noted: {fault}")
    return said, bad


async def restore_abandoned(store: Store, services: Services) -> list[str]:
    """Put back what experiments changed that do not run any more; what those changed that do stays."""
    said: list[str] = []
    for experiment in dict.fromkeys(owner for _, owner, _ in await store.notes()):
        namespace, _, name = experiment.partition("/")
        with contextlib.suppress(Busy):
            async with store.running(namespace, name):
                said += (await put_back(store, services, experiment))[0]
    return said
