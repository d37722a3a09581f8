"""`headgate sidecar`: figures per model version, from the Envoy beside it or from a proxy of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from headgate.commands import sidecar_proxy
from headgate.commands.output import Failure, examples
from headgate.commands.plugin import figures_option
from headgate.commands.serve import host_and_port

_ENVOY = "http://127.0.0.1:9901"


@dataclass(frozen=True)
class _Log:
    format: str
    level: str = "info"


@click.command(
    short_help="Tell what users of each version experience, beside an Envoy or without one.",
    epilog=examples(
        "headgate sidecar --envoy http://127.0.0.1:9901",
        "headgate sidecar --envoy unix:/run/envoy/admin.sock --listen 0.0.0.0:18002",
        "headgate sidecar --stream 127.0.0.1:18003",
        "headgate sidecar --proxy http://127.0.0.1:8080 --model iris --version v1 --plugin greet.py",
    ),
)
@click.option("--envoy", metavar="URL", default=_ENVOY, show_default=True, help="Envoy's admin endpoint.")
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
@click.option("--stream", metavar="HOST:PORT", help="Take Envoy's stream of single requests here; see streamRequests.")
@click.option(
    "--keep",
    type=click.IntRange(1, 1_000_000),
    default=10_000,
    show_default=True,
    help="With --stream: how many of the last requests /requests shows.",
)
@figures_option("Tell what plugins inside Envoy and beside it count: the folder where they say it.")
@click.option("--proxy", metavar="URL", help="No Envoy: be a reverse proxy in front of this model server.")
@click.option("--proxy-config", type=click.Path(path_type=Path), help="YAML file of the proxy, see docs/plugins.md.")
@click.option("--proxy-listen", metavar="HOST:PORT", help="Where its clients connect.  [default: 127.0.0.1:8080]")
@click.option("--model", metavar="MODEL", help="With --proxy: whose requests these are, NAME or NAMESPACE/NAME.")
@click.option("--version", metavar="NAME", help="With --proxy: the version that the model server is.")
@click.option("--plugin", "plugins", metavar="PLUGIN", multiple=True, help="With --proxy: run this plugin. Repeatable.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="How to log.")
def sidecar(
    envoy: str,
    listen: str,
    interval: float,
    forget_after: float,
    stream: str | None,
    keep: int,
    figures: Path | None,
    proxy: str | None,
    proxy_config: Path | None,
    proxy_listen: str | None,
    model: str | None,
    version: str | None,
    plugins: tuple[str, ...],
    log_format: str,
) -> None:
    """Tell figures per model version: /metrics for Prometheus, /versions as JSON.

    Beside an Envoy it reads what Envoy counts by itself; nothing here is on the path of a request. With --proxy it
    passes the requests on itself, through plugins, and counts them. SIGTERM and SIGINT end it.
    """
    host, port = host_and_port(listen, "--listen")
    asked = sidecar_proxy.Asked(proxy, proxy_config, proxy_listen, model, version, plugins)

    from headgate import logs

    if asked:
        context, said = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
        if context.get_parameter_source("envoy") is said:
            raise click.UsageError("--envoy reads an Envoy, --proxy does without one: give one of them")
        if context.get_parameter_source("figures") is said:
            raise click.UsageError("--plugin-figures are of plugins at an Envoy, --proxy tells those of its own")
        if stream is not None:
            raise click.UsageError("--stream takes what an Envoy tells, --proxy does without one: give one of them")
        config = sidecar_proxy.configuration(asked)
        logs.set_up(_Log(format=log_format))
        sidecar_proxy.run(config, host, port, interval)
        return
    if asked.stray is not None:
        raise click.UsageError(f"{asked.stray} goes with --proxy or --proxy-config")

    import asyncio
    import logging

    from sidecar.metrics.admin import address
    from sidecar.metrics.process import CannotListen, serve

    stream_at = None if stream is None else host_and_port(stream, "--stream")
    try:
        where = address(envoy)
    except ValueError as error:
        raise click.UsageError(f"--envoy {error}") from None
    logs.set_up(_Log(format=log_format))
    log = logging.getLogger("sidecar")

    def started(actual: int, streaming: int | None = None) -> None:
        if stream_at is not None:
            log.info("requests of %s on %s:%d", where, stream_at[0], streaming)
        log.info("figures of %s on %s:%d", where, host, actual)

    try:
        if stream_at is None:
            asyncio.run(
                serve(where, host, port, interval=interval, grace=forget_after, plugins=figures, started=started)
            )
        else:
            from sidecar.stream import process

            asyncio.run(
                process.serve(
                    *(where, (host, port), stream_at),
                    interval=interval,
                    grace=forget_after,
                    kept=keep,
                    plugins=figures,
                    started=started,
                )
            )
    except CannotListen as error:
        option = "--listen" if stream_at is None else "--listen or --stream"
        raise Failure(str(error), f"give another port with {option}") from None
