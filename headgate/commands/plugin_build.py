"""`headgate plugin build`: compile what runs plugins inside Envoy."""

from __future__ import annotations

from pathlib import Path

import click

from headgate.commands.output import Failure, examples


@click.command("build", epilog=examples("headgate plugin build", "headgate plugin build --envoy /usr/bin/envoy"))
@click.option(
    "--envoy", type=click.Path(path_type=Path), help="The Envoy that is to be used. By default the installed."
)
@click.option("--into", type=click.Path(path_type=Path), help="A folder for the module. By default the user's cache.")
def build(envoy: Path | None, into: Path | None) -> None:
    """Compile the module that runs Python inside Envoy, and print where it is.

    It takes a C compiler, Python's headers and a Python with a shared library, and an Envoy of the version whose ABI
    the module speaks. Where one of them is missing, the message says which; plugins then run by ext_proc.
    """
    from headgate.envoy import EnvoyError, find_binary
    from sidecar.native.build import NativeError, check
    from sidecar.native.build import build as compiled

    try:
        version = check(envoy or find_binary())
        module = compiled(cache=into)
    except (NativeError, EnvoyError) as error:
        raise Failure(str(error)) from None
    click.echo(module.path)
    told = " ".join(f"{name}={value}" for name, value in module.environment.items())
    click.echo(f"for Envoy {version}; start it with {told}", err=True)
