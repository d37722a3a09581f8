"""`headgate plugin serve`: plugins in a process of their own, for any Envoy that has the external processing filter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate.commands.output import BAD_INPUT, Failure, emit, error_line, examples
from headgate.commands.plugin import config_option, figures_option, listed
from headgate.commands.serve import host_and_port

if TYPE_CHECKING:
    from sidecar.ext_proc.application import Application

_SOCKET = "unix:/run/headgate/plugins.sock"


@click.command(
    "serve",
    short_help="Run plugins beside Envoy, by its external processing filter (ext_proc).",
    epilog=examples(
        "headgate plugin serve greet.py --listen unix:/run/headgate/plugins.sock",
        "headgate plugin serve greet.py --show-envoy > envoy-part.yaml",
    ),
)
@click.argument("names", metavar="PLUGIN...", nargs=-1, required=True)
@config_option
@click.option(
    "--listen", metavar="ADDRESS", default=_SOCKET, show_default=True, help="unix:PATH, or HOST:PORT for a port."
)
@click.option("--call", "calls", metavar="URL", multiple=True, help="A server that plugins may call. Repeatable.")
@click.option("--metrics", metavar="HOST:PORT", help="Where /metrics and /healthz are. By default nowhere.")
@figures_option("Where headgate sidecar --plugin-figures finds the same metrics.")
@click.option("--reload", is_flag=True, help="Load plugins again when their files change.")
@click.option("--show-envoy", is_flag=True, help="Print the filter and the cluster for Envoy, and end.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="How to log.")
def serve(
    names: tuple[str, ...],
    config: Path | None,
    listen: str,
    calls: tuple[str, ...],
    metrics: str | None,
    figures: Path | None,
    reload: bool,
    show_envoy: bool,
    log_format: str,
) -> int:
    """Answer an Envoy's questions about each request with what plugins decide.

    Envoy is told of it by an HTTP filter and a cluster: --show-envoy prints both. When this process is away, requests
    go on without plugins, unless one of them has the policy "closed". SIGTERM and SIGINT end it, after the requests
    that it has begun.
    """
    address = _address(listen)
    pages_at = host_and_port(metrics, "--metrics") if metrics is not None else None
    application = _application(names, config, calls, reload)
    if application is None:
        return BAD_INPUT
    if show_envoy:
        from sidecar.ext_proc.envoy import cluster, http_filter

        emit({"http_filters": [http_filter(application.pipeline)], "clusters": [cluster(address)]}, "yaml")
        return 0

    import asyncio
    import gc
    import logging

    from headgate import logs
    from headgate.config import Log
    from sidecar.ext_proc.server import CannotListen, Server
    from sidecar.ext_proc.server import serve as run

    logs.set_up(Log(format="json" if log_format == "json" else "text"))
    log = logging.getLogger("headgate.plugins")

    def started(server: Server) -> None:
        where = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{server.port}"
        told = ", ".join(one.name for one in application.pipeline.plugins)
        pages = f"; figures on port {server.metrics_port}" if server.metrics_port else ""
        log.info("plugins for Envoy on %s: %s%s", where, told, pages)

    gc.collect()
    gc.freeze()  # what is loaded stays: no collection needs to look through it again
    try:
        with asyncio.Runner(loop_factory=_loop()) as runner:
            runner.run(run(application, address, metrics=pages_at, figures=figures, started=started))
    except CannotListen as error:
        raise Failure(str(error), "give another address with --listen") from None
    return 0


def _application(
    names: tuple[str, ...], config: Path | None, calls: tuple[str, ...], reload: bool
) -> Application | None:
    from pydantic import ValidationError

    from sidecar.ext_proc.application import Application, ExtProcSpec, WrongPlugins

    entries, folder = listed(names, config)
    try:
        given = {"plugins": entries, "folder": folder, "calls": calls, "reload": reload}
        return Application(ExtProcSpec.model_validate(given))
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            error_line(f"{'.'.join(map(str, one['loc']))}: {one['msg'][:1].lower()}{one['msg'][1:]}")
        return None
    except WrongPlugins as error:
        for line in str(error).splitlines():
            error_line(line)
        return None


def _address(listen: str) -> str:
    path = listen.removeprefix("unix:")
    if path != listen:
        if not path.startswith("/") or len(path.encode()) > 100:
            raise click.UsageError("--listen: a unix socket is unix:/PATH, at most 100 bytes long")
        return listen
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        raise click.UsageError(f"--listen: {listen!r} is neither unix:/PATH nor HOST:PORT")
    return listen


def _loop() -> Any:
    """uvloop's where it is installed: a third less time for each request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
