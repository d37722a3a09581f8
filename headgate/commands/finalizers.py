"""`headgate finalizers`: what headgate holds in a cluster, and how to let go of it without a control plane."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from headgate.commands.output import Failure, draw, emit, error_line, examples, is_terminal, is_unicode, output_option
from headgate.kube_context import Choice, Cluster, cluster, kube_options

if TYPE_CHECKING:
    from router.kube.carriers import Carrier, Found

_NAMED = 4


@click.group(
    "finalizers",
    short_help="Show and release what headgate keeps from being deleted.",
    epilog=examples("headgate finalizers list -A", "headgate finalizers release deploy/wisdom-0"),
)
def finalizers() -> None:
    """headgate puts the finalizer headgate.dev/drain on what serves a version, to keep it until its last request ended.

    These commands need no control plane, only the API server.
    """


@finalizers.command("list", epilog=examples("headgate finalizers list", "headgate finalizers list -A -o json"))
@kube_options(listing=True)
@output_option("table", "json", "yaml")
def list_(choice: Choice, form: str) -> None:
    """Show what carries the finalizer; of what is being deleted, since when and what it waits for.

    What it waits for is what the control plane last told in an Event.
    """
    with cluster(choice) as there:
        found = _search(there, "" if choice.everywhere else there.namespace)
        rows = [{**_row(one), "why": there.run(_why(there, one))} for one in found.carriers]
    if form == "table":
        _table(rows)
        where = "all namespaces" if choice.everywhere else f"the namespace {there.namespace}"
        click.echo(f"{_objects(len(rows))} in {where}")
    else:
        emit(rows, form)
    _tell_unseen(found)


@finalizers.command(
    "release",
    epilog=examples(
        "headgate finalizers release deploy/wisdom-0 svc/shop/wisdom-0",
        "headgate finalizers release --all -n shop",
        "headgate finalizers release --all --yes",
    ),
)
@click.argument("objects", nargs=-1, metavar="[TYPE/[NAMESPACE/]NAME]...")
@click.option("--all", "everything", is_flag=True, help="All that carry it: of all namespaces, or with -n of one.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@kube_options()
def release(objects: tuple[str, ...], everything: bool, yes: bool, choice: Choice) -> None:
    """Take the finalizer off, so that what is being deleted goes at once. Requests to it that are in flight may fail.

    Meant for when no control plane runs any more, such as after its removal: one that runs would put the finalizer
    back on what a rollout still uses. To opt out for good take the label headgate.dev/watch (or iter8.tools/watch) off
    the object: then it is released by the control plane itself.
    """
    if everything == bool(objects):
        raise click.UsageError("name the objects as TYPE/NAME, or give --all")
    with cluster(choice) as there:
        if everything:
            found = _search(there, choice.namespace or "", else_own=choice.namespace is None)
            _tell_unseen(found)
            chosen = list(found.carriers)
        else:
            chosen = _named(there, objects)
        if not chosen:
            click.echo("nothing carries the finalizer headgate.dev/drain")
            return
        if not yes:
            _confirm(chosen)
        failed = _release(there, chosen)
    if failed:
        raise Failure(f"{failed} of {_objects(len(chosen))} could not be released", "try again")


def _search(there: Cluster, namespace: str, *, else_own: bool = False) -> Found:
    """`else_own`: who may not look at all namespaces looks at the own one, as in a one-namespace installation."""
    from router.kube.carriers import carriers

    found = there.run(carriers(there.client, namespace))
    if found.denied and else_own:
        error_line(f"all namespaces may not be listed: only {there.namespace} is looked at", severity="warning")
        found = there.run(carriers(there.client, there.namespace))
    if found.denied:
        raise Failure(str(next(iter(found.unseen.values()))), "ask the cluster's administrator")
    return found


def _named(there: Cluster, objects: tuple[str, ...]) -> list[Carrier]:
    from router.hints import nearest
    from router.kube.carriers import carrier, kinds

    known = there.run(kinds(there.client))
    chosen = []
    for written in objects:
        parts = written.split("/")
        if len(parts) not in (2, 3) or not all(parts) or not is_unicode(written):
            raise click.UsageError(f"{written!r} is not an object: write TYPE/NAME or TYPE/NAMESPACE/NAME")
        type, name = parts[0], parts[-1]
        namespace = parts[1] if len(parts) == 3 else there.namespace
        kind = next((one for one in known if type.lower() in one.names), None)
        if kind is None:
            near = nearest(type, sorted(name for one in known for name in one.names))
            raise Failure(f"the cluster knows no type {type!r}", f"did you mean {near!r}?" if near else "", exit_code=2)
        one = there.run(carrier(there.client, kind, namespace, name))
        if one.carries:
            chosen.append(one)
        else:
            click.echo(f"{one}: does not carry the finalizer")
    return chosen


def _confirm(chosen: list[Carrier]) -> None:
    if not is_terminal(sys.stdin):
        raise click.UsageError("nobody can be asked here: add --yes")
    for one in chosen:
        click.echo(f"  {one}" + (" (being deleted)" if one.deleted_at else ""))
    click.confirm(f"Release {_objects(len(chosen))}? Requests in flight to them may fail.", abort=True)


def _release(there: Cluster, chosen: list[Carrier]) -> int:
    """How many could not be released; the others are all the same."""
    from router.kube.carriers import release as let_go

    failed = 0
    for one in chosen:
        try:
            done = there.run(let_go(there.client, one))
        except Failure as fault:
            failed += 1
            error_line(f"{one}: {fault.message}", fault.hint)
        else:
            click.echo(f"{one}: " + ("released" if done else "was released already"))
    return failed


def _row(one: Carrier) -> dict[str, Any]:
    return {
        "type": one.kind.short,
        "namespace": one.namespace,
        "name": one.name,
        "deletedAt": one.deleted_at or None,
    }


async def _why(there: Cluster, one: Carrier) -> str | None:
    """The control plane's last words about an object that is being deleted."""
    from router.kube.client import ApiFault

    if not one.deleted_at:
        return None
    try:
        query = {"fieldSelector": f"involvedObject.uid={one.uid}"}
        told = await there.client.get(f"/api/v1/namespaces/{one.namespace}/events", query)
    except ApiFault:
        return None
    own = [event for event in told.get("items") or () if (event.get("source") or {}).get("component") == "headgate"]
    last = max(own, key=lambda event: str(event.get("lastTimestamp") or ""), default=None)
    return str(last.get("message")) if last else None


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("NAMESPACE", "OBJECT", "DELETED", "WAITS FOR"):
        table.add_column(column, no_wrap=column != "WAITS FOR")
    for row in rows:
        waits = row["why"] or ("-" if row["deletedAt"] is None else "a control plane to release it")
        cells = (row["namespace"], f"{row['type']}/{row['name']}", row["deletedAt"] or "-", waits)
        table.add_row(*map(Text, cells))
    draw(table)


def _tell_unseen(found: Found) -> None:
    if found.unseen:
        names = sorted(str(kind) for kind in found.unseen)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        error_line(
            f"{len(names)} types could not be looked at: {', '.join(names[:_NAMED])}{more}",
            "their objects may carry the finalizer too, if a control plane was configured for them",
            "warning",
        )


def _objects(number: int) -> str:
    from router.hints import counted

    return counted(number, "object")
