"""`headgate translate`: the very resources that Envoy would get."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate.commands.folder import (
    chosen,
    config_option,
    folder_argument,
    gateways,
    not_ready_option,
    plan_folder,
)
from headgate.commands.output import BAD_INPUT, Failure, complain, emit, examples, output_option

if TYPE_CHECKING:
    from xds.resources import Resources


@click.command(
    short_help="Print the exact Envoy resources.",
    epilog=examples(
        "headgate translate models --model iris",
        "headgate translate models --gateway edge --config headgate.yaml -o json",
    ),
)
@folder_argument
@click.option("--model", help="Only this one: NAMESPACE/NAME, or NAME in the namespace default.")
@click.option("--gateway", help="Only this gateway's models and listeners.")
@not_ready_option
@config_option
@output_option("yaml", "json")
def translate(
    folder: Path, model: str | None, gateway: str | None, not_ready: tuple[str, ...], file: Path | None, form: str
) -> int:
    """Print the exact Envoy resources of each model, by type and name; without --model those of its gateways too."""
    from headgate.config import gateway_owner
    from xds import translate as envoy

    found = plan_folder(folder, file, not_ready)
    complain(found.problems)
    known = gateways(file)
    used = {plan.gateway for plan in found.plans.values()} | set(known)
    if gateway is not None and gateway not in used:
        raise Failure(f"no gateway {gateway!r}", f"known: {', '.join(sorted(used))}", exit_code=2)
    models = Counter(plan.gateway for plan in found.plans.values())
    mirrored = {plan.gateway for plan in found.plans.values() if any(route.mirrors for route in plan.routes)}
    documents: dict[str, Any] = {}
    if model is None:
        for name, one in known.items():
            if gateway in (None, name):
                documents[gateway_owner(name)] = _readable(envoy.translate_gateway(one, mirrored=name in mirrored))
    for key in chosen(found, model):
        plan = found.plans.get(key)
        if plan is not None and gateway in (None, plan.gateway):
            limit = known[plan.gateway].on_demand_above if plan.gateway in known else 2_000
            on_demand = models[plan.gateway] > limit
            documents[key] = _readable(envoy.translate(plan, on_demand=on_demand))
    emit(documents, form)
    return BAD_INPUT if found.errors else 0


def _readable(resources: Resources) -> dict[str, Any]:
    from xds.readable import readable

    return {
        kind.name.lower(): {name: readable(kind, resource) for name, resource in named.items()}
        for kind, named in resources.items()
        if named
    }
