"""`headgate sidecar`: figures per model version, from the Envoy beside it."""

from __future__ import annotations

from dataclasses import dataclass

import click

from headgate.commands.output import Failure, examples
from headgate.commands.serve import host_and_port


@dataclass(frozen=True)
class _Log:
    format: str
    level: str = "info"


@click.command(
    short_help="Tell what users of each version experience, beside an Envoy.",
    epilog=examples(
        "headgate sidecar --envoy http://127.0.0.1:9901",
        "headgate sidecar --envoy unix:/run/envoy/admin.sock --listen 0.0.0.0:18002",
    ),
)
@click.option(
    "--envoy", metavar="URL", default="http://127.0.0.1:9901", show_default=True, help="Envoy's admin endpoint."
)
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:18002", show_default=True, help="Metrics and figures."
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="Seconds between readings of Envoy.",
)
@click.option(
    "--forget-after",
    type=click.FloatRange(0, 86_400),
    default=300.0,
    show_default=True,
    help="Seconds until a version that Envoy no longer counts is forgotten.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="How to log.")
def sidecar(envoy: str, listen: str, interval: float, forget_after: float, log_format: str) -> None:
    """Read Envoy's figures and tell them per model version: /metrics for Prometheus, /versions as JSON.

    Envoy counts by itself; nothing here is on the path of a request. SIGTERM and SIGINT end it.
    """
    from sidecar.metrics.admin import address

    host, port = host_and_port(listen, "--listen")
    try:
        where = address(envoy)
    except ValueError as error:
        raise click.UsageError(f"--envoy {error}") from None

    import asyncio
    import logging

    from headgate import logs
    from sidecar.metrics.process import CannotListen, serve

    logs.set_up(_Log(format=log_format))
    log = logging.getLogger("sidecar")

    def started(actual: int) -> None:
        log.info("figures of %s on %s:%d", where, host, actual)

    try:
        asyncio.run(serve(where, host, port, interval=interval, grace=forget_after, started=started))
    except CannotListen as error:
        raise Failure(str(error), "give another port with --listen") from None
