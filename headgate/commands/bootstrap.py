"""`headgate bootstrap`: what an Envoy has to be started with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from headgate.commands.output import emit, examples, output_option
from headgate.commands.serve import host_and_port

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--node-id", default="envoy-1", show_default=True, help="Name of this Envoy, unique among all."),
    click.option("--cluster", default="default", show_default=True, help="The gateway that this Envoy belongs to."),
    click.option(
        "--xds", metavar="HOST:PORT", default="127.0.0.1:18000", show_default=True, help="The control plane's xDS port."
    ),
    click.option("--admin-address", default="127.0.0.1", show_default=True, help="Address of Envoy's admin page."),
    click.option("--admin-port", type=click.IntRange(0, 65535), default=9901, show_default=True, help="Its port."),
    click.option(
        "--sidecar", metavar="IP:PORT", help="Where headgate sidecar takes requests; needed for streamRequests."
    ),
    click.option("--sotw", is_flag=True, help="State-of-the-world xDS instead of delta."),
    click.option("--tls-ca", metavar="FILE", help="CA of the control plane's certificate; turns TLS on."),
    click.option("--tls-certificate", metavar="FILE", help="Certificate that this Envoy shows."),
    click.option("--tls-key", metavar="FILE", help="Key of that certificate."),
    click.option(
        "--tls-server-name", metavar="NAME", help="Name in the control plane's certificate, if not its address."
    ),
)


def bootstrap_options(function: _Function) -> _Function:
    """What describes an Envoy; `made` takes them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def made(
    *,
    node_id: str,
    cluster: str,
    xds: str,
    admin_address: str,
    admin_port: int,
    sidecar: str | None,
    sotw: bool,
    tls_ca: str | None,
    tls_certificate: str | None,
    tls_key: str | None,
    tls_server_name: str | None,
) -> dict[str, Any]:
    """The bootstrap that these options describe."""
    from xds.bootstrap import UpstreamTls, bootstrap

    if (tls_certificate is None) != (tls_key is None):
        raise click.UsageError("--tls-certificate and --tls-key go together")
    if tls_ca is None and (tls_certificate or tls_server_name):
        raise click.UsageError("--tls-certificate, --tls-key and --tls-server-name need --tls-ca")
    for option, given in (("--node-id", node_id), ("--cluster", cluster), ("--admin-address", admin_address)):
        if not given.strip():
            raise click.UsageError(f"{option} is empty")
    address, port = host_and_port(xds, "--xds")
    tls = None
    if tls_ca is not None:
        tls = UpstreamTls(tls_ca, certificate=tls_certificate, key=tls_key, server_name=tls_server_name)
    return bootstrap(
        node_id=node_id,
        node_cluster=cluster,
        xds_address=address,
        xds_port=port,
        admin_address=admin_address,
        admin_port=admin_port,
        tls=tls,
        sotw=sotw,
        sidecar=None if sidecar is None else _ip_and_port(sidecar),
    )


def _ip_and_port(text: str) -> tuple[str, int]:
    from ipaddress import ip_address

    address, port = host_and_port(text, "--sidecar")
    try:
        ip_address(address)
    except ValueError:
        raise click.UsageError(f"--sidecar {text!r} names no IP address: write for example 127.0.0.1:18003") from None
    return address, port


@click.command(
    short_help="Print the bootstrap of an Envoy.",
    epilog=examples(
        "headgate bootstrap --node-id edge-1 --xds 10.0.0.5:18000 > envoy.yaml",
        "headgate bootstrap --tls-ca ca.pem --tls-certificate edge-1.pem --tls-key edge-1.key",
    ),
)
@bootstrap_options
@output_option("yaml", "json")
def bootstrap(form: str, **options: Any) -> None:
    """Print the bootstrap of an Envoy that takes everything else from headgate.

    TLS files are paths on Envoy's machine. Start it with: envoy -c envoy.yaml
    """
    emit(made(**options), form)
