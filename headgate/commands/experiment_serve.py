"""`headgate experiment serve`: results as JSON, in the shape that Iter8's Grafana dashboards read."""

from __future__ import annotations

import asyncio

import click

from headgate.commands.output import Failure, examples
from headgate.experiments import needs_load, opened, run_async, stopped_by_signals, store_options
from headgate.kube_context import Choice


@click.command(
    "serve",
    short_help="Serve results to Grafana dashboards.",
    epilog=examples("headgate experiment serve", "headgate experiment serve --listen 0.0.0.0:8080 --store cluster"),
)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@store_options
@needs_load
def serve(listen: str, place: str | None, choice: Choice) -> None:
    """Serve /httpDashboard and /grpcDashboard as Iter8 does, take /testResult, and list results at /experiments."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--listen {listen!r} is not HOST:PORT, such as 127.0.0.1:8080")
    run_async(_serve(host.strip("[]"), int(port), place, choice))


async def _serve(host: str, port: int, place: str | None, choice: Choice) -> None:
    from aiohttp import web

    from loadgen.experiment.serve import application

    stop = asyncio.Event()
    async with opened(place, choice) as store:
        runner = web.AppRunner(application(store), access_log=None)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise Failure(f"cannot open {host}:{port}: {why}", "give another one with --listen") from None
            with stopped_by_signals(stop.set):
                click.echo(f"experiments on http://{host}:{runner.addresses[0][1]}")
                await stop.wait()
        finally:
            await runner.cleanup()
