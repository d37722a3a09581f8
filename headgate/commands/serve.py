"""`headgate serve`: the control plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.commands.output import BadInput, Failure, examples

if TYPE_CHECKING:
    from headgate.config import Config
    from router.schema import Part

    PartOfConfig = TypeVar("PartOfConfig", bound=Part)


@click.command(
    short_help="Run the control plane.",
    epilog=examples(
        "headgate serve --manifests models",
        "headgate serve --kubernetes",
        "headgate serve --config headgate.yaml --log-format json",
    ),
)
@click.option("--manifests", type=click.Path(path_type=Path), help="Folder of ModelRollout manifests; it is watched.")
@click.option("--kubernetes", is_flag=True, help="Follow a Kubernetes cluster instead of a folder.")
@click.option("-n", "--namespace", help="With --kubernetes: follow only this namespace.  [default: all]")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="With --kubernetes: credentials, as kubectl's.")
@click.option("--context", help="With --kubernetes: the kubeconfig's context.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="YAML file, see docs/configuration.md.")
@click.option("--xds", metavar="HOST:PORT", help="Where Envoys connect.  [default: 127.0.0.1:18000]")
@click.option("--http", metavar="HOST:PORT", help="Health, status and metrics.  [default: 127.0.0.1:18001]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much to log.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How to log.")
def serve(
    manifests: Path | None,
    kubernetes: bool,
    namespace: str | None,
    kubeconfig: Path | None,
    context: str | None,
    file: Path | None,
    xds: str | None,
    http: str | None,
    log_level: str | None,
    log_format: str | None,
) -> None:
    """Watch rollouts and the readiness of what they name, and serve the routes to Envoys.

    Rollouts are manifests in a folder, or objects in a Kubernetes cluster.

    Options win over the configuration file. SIGTERM and SIGINT end it; Envoys keep their last routes.
    """
    config = configuration(file)
    given: dict[str, Any] = {}
    if manifests is not None:
        given["manifests"] = manifests
    for name, text in (("xds", xds), ("http", http)):
        if text is not None:
            address, port = host_and_port(text, f"--{name}")
            given[name] = getattr(config, name).model_copy(update={"address": address, "port": port})
    given["kubernetes"] = _chosen(
        config.kubernetes, enabled=kubernetes or None, namespace=namespace, kubeconfig=kubeconfig, context=context
    )
    given["log"] = _chosen(config.log, level=log_level, format=log_format)
    config = config.model_copy(update=given)
    if config.kubernetes.enabled and config.manifests is not None:
        raise click.UsageError("a folder of manifests and --kubernetes exclude each other: choose one")
    if not config.kubernetes.enabled and (namespace or kubeconfig or context):
        raise click.UsageError("--namespace, --kubeconfig and --context go with --kubernetes")
    if not config.kubernetes.enabled and config.manifests is None:
        raise click.UsageError("no rollouts: give --manifests or --kubernetes, or either in the configuration")
    if config.manifests is not None and not config.manifests.exists():
        raise Failure(f"{config.manifests}: there is no such folder", "create it or mend --manifests", exit_code=2)

    from headgate import logs
    from headgate.serve import CannotListen, run
    from router.kube.client import NoCluster

    logs.set_up(config.log)
    try:
        run(config)
    except CannotListen as error:
        raise Failure(str(error), error.hint) from None
    except NoCluster as error:
        raise Failure(str(error), "give --kubeconfig, or run it in a pod", exit_code=2) from None


def _chosen(section: PartOfConfig, **options: Any) -> PartOfConfig:
    return section.model_copy(update={name: value for name, value in options.items() if value is not None})


def configuration(file: Path | None) -> Config:
    """The configuration of a file, or the default one."""
    from headgate.config import Config, read

    if file is None:
        return Config()
    config = read(file)
    if isinstance(config, tuple):
        raise BadInput(config)
    return config


def host_and_port(text: str, option: str) -> tuple[str, int]:
    """`127.0.0.1:18000`, `[::1]:18000` or `xds.example:18000` in two parts."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise click.UsageError(f"{option} {text!r} is not HOST:PORT, such as 127.0.0.1:18000")
    return host.strip("[]"), int(port)
