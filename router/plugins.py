"""Which plugins run for a model: what its gateway runs, and what the model says of it, with every problem in that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from router.hints import nearest
from router.problem import Problem, Severity
from router.schema import ModelRollout, Plugin
from xds import ir
from xds.ir import PluginModels


@dataclass(frozen=True, slots=True)
class Chosen:
    """`plugins` is None when nothing has to be said of them to the model's Envoys; `running` names those that run.
    `backend_plugins` are those at the model's backends, None when there are none.

    `missing` is what the model requires and its gateway lacks: then its traffic must stay as it is.
    """

    plugins: ir.Plugins | None = None
    backend_plugins: ir.Plugins | None = None
    running: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    missing: Problem | None = None


def chosen(rollout: ModelRollout, gateway: ir.Gateway, where: str) -> Chosen:
    """Choose the model's plugins, in the order of its gateway."""
    offered = gateway.plugins
    there = {one.name: one for one in offered.chain} if offered is not None else {}
    said = {one.name: one for one in rollout.spec.plugins}
    problems = tuple(_problems(rollout, gateway.name, there, where))
    required = (problem for name, problem in problems if name not in there and _required(said[name]))
    running, why = [], []
    for plugin in there.values():
        run = _for_model(plugin, said.get(plugin.name))
        if run is not None:
            running.append(run)
        if sentence := _sentence(plugin, said.get(plugin.name), run):
            why.append(sentence)
    why += [
        f"plugin {name} does not run: gateway {gateway.name} has none of that name"
        for name, one in said.items()
        if name not in there and one.enabled
    ]
    own = beyond = None
    if offered is not None:
        all_of_it = replace(offered, chain=tuple(running))
        own, beyond = all_of_it.at(ir.PluginPlace.GATEWAY), all_of_it.at(ir.PluginPlace.BACKEND)
    return Chosen(
        plugins=own if offered is not None and own != offered.silent.at(ir.PluginPlace.GATEWAY) else None,
        backend_plugins=beyond if beyond is not None and beyond.chain else None,
        running=tuple(one.name for one in running),
        why=tuple(why),
        problems=tuple(problem for _, problem in problems),
        missing=next(required, None),
    )


def _for_model(plugin: ir.Plugin, said: Plugin | None) -> ir.Plugin | None:
    """The plugin as it runs for the model, None if it does not."""
    if said is None or plugin.models is PluginModels.ALWAYS:
        return None if plugin.models is PluginModels.ASKING else plugin
    if not said.enabled:
        return None
    config = json.loads(plugin.config) | json.loads(said.config)
    return replace(plugin, config=json.dumps(config, separators=(",", ":"), sort_keys=True))


def _sentence(plugin: ir.Plugin, said: Plugin | None, run: ir.Plugin | None) -> str:
    if run is None:
        return f"plugin {plugin.name} does not run: the model does without it" if said is not None else ""
    if said is None or plugin.models is PluginModels.ALWAYS:
        return f"plugin {plugin.name} runs: the gateway runs it for all models"
    settings = ", with settings of its own" if run.config != plugin.config else ""
    return f"plugin {plugin.name} runs: the model asks for it{settings}"


def _problems(
    rollout: ModelRollout, gateway: str, there: dict[str, ir.Plugin], where: str
) -> Iterator[tuple[str, Problem]]:
    """Each with the name of the plugin."""
    for index, said in enumerate(rollout.spec.plugins):
        field = f"spec.plugins[{index}]"
        plugin = there.get(said.name)
        if plugin is None:
            what = f"gateway {gateway!r} has no plugin {said.name!r}"
            if _required(said):
                what += ": the traffic stays as it was"
            elif said.enabled:
                what += ": the model is served without it"
            severity: Severity = "error" if said.enabled else "warning"
            yield said.name, Problem(where, f"{field}.name", what, _hint(said.name, there), severity)
        elif plugin.models is PluginModels.ALWAYS and (not said.enabled or said.config != "{}"):
            what = f"plugin {said.name!r} is the gateway's: a model can neither switch it off nor configure it"
            at = f"{field}.{'config' if said.enabled else 'enabled'}"
            yield said.name, Problem(where, at, what, "leave it out, or ask those who run the gateway")


def _required(said: Plugin) -> bool:
    return said.enabled and said.required


def _hint(name: str, there: dict[str, ir.Plugin]) -> str:
    if not there:
        return "plugins are given to a gateway in the control plane's configuration, gateways[].plugins"
    near = nearest(name, list(there))
    return f"did you mean {near!r}?" if near else f"known are {', '.join(there)}"
