"""`headgate who`: which version a sticky user gets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate.commands.control_plane import ask, url_option
from headgate.commands.folder import chosen, plan_folder
from headgate.commands.output import Failure, draw, emit, examples, is_unicode, model_key, output_option

if TYPE_CHECKING:
    from headgate.documents import Document


@click.command(
    short_help="Tell which version a sticky user gets.",
    epilog=examples("headgate who iris alice bob", "headgate who iris alice --manifests models"),
)
@click.argument("model")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@url_option
@click.option(
    "--manifests", type=click.Path(path_type=Path), help="Compute it from this folder, every version taken as ready."
)
@output_option("table", "json", "yaml")
def who(model: str, keys: tuple[str, ...], url: str, manifests: Path | None, form: str) -> None:
    """Tell which version of MODEL serves the users with these KEYs, and how that comes about.

    MODEL is NAMESPACE/NAME, or NAME in the namespace default. A KEY is a value of the model's sticky header. Envoy
    hashes it to one of 10,000 buckets, and each version owns a range of them as wide as its weight.
    """
    key = model_key(model)
    for user in keys:
        if not is_unicode(user) or not user.isprintable():
            raise click.UsageError(f"KEY {user!r} is no header value: write printable text in UTF-8")
    found = _offline(manifests, key, keys) if manifests is not None else _online(url, key, keys)
    if form != "table":
        emit(found, form)
        return
    _show(found)


def _online(url: str, model: str, keys: tuple[str, ...]) -> list[Document]:
    from urllib.parse import quote

    return [ask(url, f"/models/{quote(model)}/arm?key={quote(key, safe='')}") for key in keys]


def _offline(folder: Path, model: str, keys: tuple[str, ...]) -> list[Document]:
    from headgate.documents import arm_document

    offline = plan_folder(folder)
    [key] = chosen(offline, model)
    plan = offline.plans.get(key)
    found = [arm_document(plan, user) for user in keys] if plan is not None else []
    if not found or found[0] is None:
        raise Failure(f"{key} is not sticky", "set spec.sticky.header in its manifest", exit_code=2)
    return [one for one in found if one is not None]


def _show(found: list[Any]) -> None:
    from rich.table import Table

    first = found[0]
    table = Table(box=None, pad_edge=False)
    for column in (first["header"].upper(), "VERSION", "BUCKET", "RANGE"):
        table.add_column(column)
    for one in found:
        arm = next(arm for arm in one["arms"] if arm["version"] == one["version"] and arm["from"] <= one["bucket"])
        table.add_row(one["key"], one["version"], str(one["bucket"]), f"{arm['from']}-{arm['to'] - 1} of 10000")
    draw(table)
    if first["headerRoutes"]:
        click.echo("requests that match one of its header routes go there instead")
