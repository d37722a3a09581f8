"""What `validate`, `plan`, `translate` and `who` share: a folder of manifests, planned without a control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.commands.output import Failure, model_key
from headgate.commands.serve import configuration

if TYPE_CHECKING:
    from router.offline import Offline
    from router.step import RolloutState
    from xds.ir import Gateway

_Function = TypeVar("_Function", bound=Callable[..., Any])

folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The control plane's configuration, to check against its gateways.",
)
not_ready_option = click.option(
    "--not-ready",
    metavar="MODEL/VERSION",
    multiple=True,
    help="Ask what would be if this version were not ready. Can be given several times.",
)


def plan_folder(folder: Path, file: Path | None = None, not_ready: tuple[str, ...] = ()) -> Offline:
    """Read and plan everything in the folder, with the sticky slots that a control plane left there."""
    from router.offline import load

    if not folder.exists():
        raise Failure(f"{folder}: there is no such folder or file", "create it or mend the path", exit_code=2)
    return load(
        folder,
        gateways=gateways(file) if file is not None else None,
        ready=_unready(not_ready) or True,
        states=_states(folder, file),
    )


def gateways(file: Path | None) -> dict[str, Gateway]:
    """The gateways of a configuration, or of the default one."""
    return {gateway.name: gateway.as_ir() for gateway in configuration(file).gateways}


def chosen(found: Offline, model: str | None) -> list[str]:
    """The models asked for; a name that is not there is answered with what was meant."""
    if model is None:
        return list(found.rollouts)
    key = model_key(model)
    if key not in found.rollouts:
        from headgate.documents import unknown

        answer = unknown("model", key, found.rollouts)
        raise Failure(answer["error"], answer["hint"], exit_code=2)
    return [key]


def _unready(names: tuple[str, ...]) -> dict[str, set[str]]:
    unready: dict[str, set[str]] = {}
    for name in names:
        model, _, version = name.rpartition("/")
        if not model or not version or model.count("/") > 1:
            raise click.UsageError(f"--not-ready {name!r} is not MODEL/VERSION, such as iris/v2 or default/iris/v2")
        unready.setdefault(model_key(model), set()).add(version)
    return unready


def _states(folder: Path, file: Path | None) -> Mapping[str, RolloutState]:
    from router.state_file import NAME, load

    path = configuration(file).state_file or (folder.parent if folder.is_file() else folder) / NAME
    return load(path)[0]
