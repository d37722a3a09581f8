"""`headgate status`: what a control plane knows, asked itself or read from what it wrote into the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from headgate.commands import control_plane
from headgate.commands.control_plane import NoAnswer, ask, maybe_url_option
from headgate.commands.output import Failure, console, draw, emit, examples, model_key, output_option
from headgate.kube_context import Choice, Cluster, Unreachable, cluster, has_cluster, kube_options

_EVERY = 1.0
_Result = TypeVar("_Result")


@click.command(
    short_help="Show models, their traffic and what is wrong.",
    epilog=examples("headgate status", "headgate status -w", "headgate status iris -o json", "headgate status -A"),
)
@click.argument("model", required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on showing it, every second, until Ctrl-C.")
@kube_options(listing=True)
@maybe_url_option
@output_option("table", "json", "yaml")
def status(model: str | None, watch: bool, choice: Choice, url: str | None, form: str) -> None:
    """Show models, their versions (* is the primary), readiness, weights, and which Envoys have applied them.

    With MODEL, only that one, and more of it. With --context, --kubeconfig, -n or -A it is read from the ModelRollouts
    in the cluster; with --url from a control plane. Without any: from the control plane on this machine if there is
    one, else from the cluster.
    """
    if watch and form != "table":
        raise click.UsageError("-w shows a table: leave out -o")

    def in_a_cluster(there: Cluster) -> None:
        _present(lambda: _read(there, model), lambda found: _drawn_rollouts(model, found), watch, form)

    def by_http(url: str) -> None:
        _present(lambda: _ask(model, url), lambda found: _drawn(model, found), watch, form)

    sought(choice, url, in_a_cluster, by_http)


def sought(
    choice: Choice, url: str | None, in_a_cluster: Callable[[Cluster], _Result], by_http: Callable[[str], _Result]
) -> _Result:
    """Do it where the user says, else where there is something."""
    if choice.given and url is not None and _on_command_line():
        raise click.UsageError("--url asks a control plane, --context, --kubeconfig, -n and -A a cluster: give one")
    if choice.given:
        with cluster(choice) as there:
            return in_a_cluster(there)
    if url is not None:
        return by_http(url)
    try:
        return by_http(control_plane.DEFAULT_URL)
    except NoAnswer as silent:
        nobody = silent
    hint = "give the --url of a control plane, or --kubeconfig and --context of a cluster"
    if not has_cluster():
        raise Failure(f"{nobody.message}; and there is no kubeconfig", hint) from None
    try:
        with cluster(choice) as there:
            return in_a_cluster(there)
    except Unreachable as missing:
        raise Failure(f"{nobody.message}; and {missing.message}", hint) from None


def _on_command_line() -> bool:
    source = click.get_current_context().get_parameter_source("url")
    return source is click.core.ParameterSource.COMMANDLINE


def asked_model(url: str, model: str) -> Any:
    """One model as a control plane knows it."""
    return _ask(model, url)


def _ask(model: str | None, url: str) -> Any:
    from urllib.parse import quote

    return ask(url, "/status" if model is None else f"/models/{quote(model_key(model))}")


def _drawn(model: str | None, document: Any) -> Any:
    from headgate import show

    return show.status(document, show.now()) if model is None else show.model(document, show.now())


def _read(there: Cluster, model: str | None) -> Any:
    from headgate import rollouts

    if model is not None:
        return rollouts.document(there.run(rollouts.find(there.client, *there.key(model))))
    namespace = None if there.choice.everywhere else there.namespace
    found = there.run(rollouts.every(there.client, namespace))
    maps = there.run(rollouts.routemaps(there.client, namespace))
    documents = [rollouts.document(one) for one in found]
    own = {one["model"] for one in documents}
    return {"namespace": namespace, "models": documents, "routemaps": [one for one in maps if one not in own]}


def _drawn_rollouts(model: str | None, found: Any) -> Any:
    from headgate import show, show_rollout

    return show_rollout.status(found, show.now()) if model is None else show_rollout.model(found, show.now())


def _present(read: Callable[[], Any], drawn: Callable[[Any], Any], watch: bool, form: str) -> None:
    document = read()
    if watch:
        _watch(document, read, drawn)
    elif form == "table":
        draw(drawn(document))
    else:
        emit(document, form)


def _watch(first: Any, read: Callable[[], Any], drawn: Callable[[Any], Any]) -> None:
    import time

    from rich.live import Live
    from rich.text import Text

    with Live(drawn(first), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(_EVERY)
            try:
                live.update(drawn(read()), refresh=True)
            except Failure as failure:  # it may come back: a restart is no reason to stop watching
                live.update(Text(failure.message, style="red"), refresh=True)
