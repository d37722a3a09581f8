"""ModelRollouts as tables for a terminal, drawn from the status that the control plane wrote into the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headgate.show import age, problem_text, share
from headgate.show import model as http_model
from router.hints import counted

Document = Mapping[str, Any]

_SEVERITIES = {"error": "red", "warning": "yellow"}
_TROUBLE = ("Accepted", "Ready", "Programmed")


def status(found: Document, now: datetime) -> RenderableType:
    """A row per model, then what somebody should look at, then a line of sums."""
    models = found["models"]
    parts: list[RenderableType] = []
    if models:
        parts += [_models(models, now), Text()]
    for one in models:
        parts += _remarks(one)
    if found["routemaps"]:
        names = ", ".join(found["routemaps"])
        parts.append(Text(f"from Iter8 routemaps, without a status here (ask with --url): {names}"))
    where = f"in {found['namespace']}" if found["namespace"] else "in all namespaces"
    troubled = sum(bool(_state(one)[1]) for one in models)
    sums = f", {troubled} to look at" if troubled else ""
    parts.append(Text(f"{counted(len(models), 'model')} {where}{sums}"))
    return Group(*parts)


def model(one: Document, now: datetime) -> RenderableType:
    """One model with its versions."""
    versions = one["status"].get("versions") or ()
    parts: list[RenderableType] = [_models([one], now), Text()]
    if versions:
        parts += [_versions(versions, now), Text()]
    return Group(*parts, *_remarks(one))


def describe(raw: Document, events: Iterable[Document], now: datetime) -> RenderableType:
    """All of one model on a page."""
    from headgate import rollouts

    one, spec = rollouts.document(raw), raw["spec"]
    found = one["status"]
    parts: list[RenderableType] = [Text(one["model"], style="bold"), _facts(one, spec, now)]
    parts += _remarks(one, problems=False)
    if conditions := found.get("conditions"):
        parts += [Text(), _conditions(conditions, now)]
    resources = {each["name"]: each.get("resources") or () for each in spec.get("versions") or ()}
    versions = found.get("versions") or [{"name": name} for name in resources]
    parts += [Text(), _versions(versions, now)]
    parts += [Text(f"{name} consists of {', '.join(listed)}") for name, listed in resources.items() if listed]
    if gateways := found.get("gateways"):
        parts += [Text(), *_gateways(gateways)]
    if draining := found.get("draining"):
        parts += [Text(), *(Text.assemble(("draining: ", "yellow"), str(each)) for each in draining)]
    if problems := found.get("problems"):
        parts += [Text(), *(_problem(each) for each in problems)]
    if changes := rollouts.history(raw):
        parts += [Text(), history(changes, now)]
    if listed := list(events):
        parts += [Text(), _events(listed, now)]
    return Group(*parts)


def describe_http(one: Document, now: datetime) -> RenderableType:
    """The same with what a control plane tells over HTTP."""
    table = _pairs()
    for name, value in (
        ("comes from", one.get("where")),
        ("gateway", one["gateway"]),
        ("strategy", one["strategy"]),
        ("sticky by", one["sticky"]),
        ("generation", one.get("generation")),
        ("updated", f"{age(one.get('updatedAt'), now)} ago" if one.get("updatedAt") else None),
    ):
        if value not in (None, ""):
            table.add_row(name, str(value))
    return Group(Text(one["model"], style="bold"), table, Text(), http_model(dict(one), now))


def change(found: Document) -> RenderableType:
    """What a change does, or would do: shares before and after, notes, and how far it is."""
    head = Text(found["model"], style="bold")
    head.append(f": {found['what']}", style="not bold")
    table = _table("VERSION", ">BEFORE", ">AFTER")
    for one in found["versions"]:
        moved = "bold" if one["before"] != one["after"] else ""
        after = Text(share(one["after"]), style=moved)
        table.add_row(one["name"] + (" *" if one["primary"] else ""), share(one["before"]), after)
    parts: list[RenderableType] = [head, table]
    parts += [Text.assemble(("note: ", "yellow"), note) for note in found["notes"]]
    if found["dryRun"]:
        parts.append(Text("dry run: the API server would take it; nothing was changed"))
    elif found["changed"]:
        parts.append(Text(f"written by {found['by']} as generation {found['generation']}"))
    if found["programmed"]:
        parts.append(Text(f"programmed: {found['envoys'] or 'no'} Envoys"))
    return Group(*parts)


def history(found: Iterable[Document], now: datetime) -> Table:
    table = _table("CHANGED", "GEN", "BY", "WHAT", "WHY", wrapping=("WHAT", "WHY", "BY"))
    for one in found:
        generation = one.get("generation")
        ago = f"{age(one['at'], now)} ago" if one.get("at") else "-"
        table.add_row(ago, str(generation or "-"), *(str(one.get(name) or "-") for name in ("by", "what", "why")))
    return table


def _models(models: Iterable[Document], now: datetime) -> Table:
    # On a narrow terminal the traffic gives way, not the names.
    table = _table("MODEL", "PRIMARY", "TRAFFIC", "READY", "PROGRAMMED", "AGE", "NOTE", wrapping=("TRAFFIC",))
    for one in models:
        found = one["status"]
        versions = found.get("versions") or ()
        ready = f"{sum(bool(each.get('ready')) for each in versions)}/{len(versions)}" if versions else "-"
        words, style = _state(one)
        table.add_row(
            one["model"],
            found.get("primary") or "-",
            found.get("traffic") or "-",
            ready,
            found.get("envoys") or "-",
            age(one["createdAt"], now),
            Text(words, style=style),
        )
    return table


def _state(one: Document) -> tuple[str, str]:
    """What to look at, in a word, and its colour; a pause alone is none."""
    paused = "paused" if one["paused"] else ""
    if one["deletedAt"]:
        return "! deleting", "yellow"
    if one["statusIs"] != "current":
        return ("! no status" if one["statusIs"] == "absent" else "! stale"), "yellow"
    conditions = {each.get("type"): each for each in one["status"].get("conditions") or ()}
    wrong = [name for name in _TROUBLE if conditions.get(name, {}).get("status") == "False"]
    if conditions.get("Degraded", {}).get("status") == "True":
        return "! degraded", "red"
    if wrong:
        return f"! not {wrong[0].lower()}", "red" if wrong[0] == "Accepted" else "yellow"
    if problems := one["status"].get("problems"):
        return f"! {counted(len(problems), 'problem')}", "yellow"
    return paused, ""


def _remarks(one: Document, *, problems: bool = True) -> Iterator[Text]:
    name = (one["model"], "bold")
    if one["statusIs"] == "absent":
        yield Text.assemble(name, ": no control plane has looked at it (is 'headgate serve' running in the cluster?)")
        return
    if one["statusIs"] == "stale":
        seen, now = one["observedGeneration"], one["generation"]
        yield Text.assemble(
            name, f": the status is stale: it is of generation {seen}, the spec is generation {now} by now"
        )
    if one["deletedAt"]:
        yield Text.assemble(name, ": is being deleted")
    conditions = one["status"].get("conditions") or ()
    for each in conditions:
        wanted = "False" if each.get("type") == "Degraded" else "True"
        if each.get("status") != wanted and (each.get("message") or each.get("reason")):
            yield Text.assemble(name, f": {_not(each)}: {each.get('message') or each.get('reason')}")
    if problems:
        yield from (_problem(each) for each in one["status"].get("problems") or ())


def _not(condition: Document) -> str:
    kind = str(condition.get("type"))
    if kind == "Degraded":
        return "degraded" if condition.get("status") == "True" else "perhaps degraded"
    return f"not {kind.lower()}" if condition.get("status") == "False" else f"not known to be {kind.lower()}"


def _facts(one: Document, spec: Document, now: datetime) -> Table:
    table = _pairs()
    sticky = (spec.get("sticky") or {}).get("header")
    rows = (
        ("hosts", ", ".join(spec.get("hosts") or ())),
        ("gateway", spec.get("gateway") or "default"),
        ("strategy", spec.get("strategy") or "none"),
        ("sticky by", sticky),
        ("paused", "yes: its traffic stays as it was; 'headgate resume' ends it" if one["paused"] else None),
        ("traffic", one["status"].get("traffic")),
        ("Envoys", one["status"].get("envoys")),
        ("generation", one["generation"]),
        ("created", f"{age(one['createdAt'], now)} ago" if one["createdAt"] else None),
    )
    for name, value in rows:
        if value not in (None, ""):
            table.add_row(name, str(value))
    return table


def _conditions(conditions: Iterable[Document], now: datetime) -> Table:
    table = _table("CONDITION", "STATUS", "FOR", "REASON", "MESSAGE", wrapping=("MESSAGE",))
    for one in conditions:
        bad = one.get("status") == ("True" if one.get("type") == "Degraded" else "False")
        table.add_row(
            str(one.get("type")),
            Text(str(one.get("status")), style="red" if bad else ""),
            age(one.get("lastTransitionTime"), now),
            str(one.get("reason") or "-"),
            str(one.get("message") or "-"),
        )
    return table


def _versions(versions: Iterable[Document], now: datetime) -> Table:
    columns = ("VERSION", ">WEIGHT", ">MIRROR", "MATCH", "READY", "FOR", "ENDPOINTS", "REASON")
    table = _table(*columns, wrapping=("REASON",))
    for one in versions:
        table.add_row(
            str(one.get("name")) + (" *" if one.get("role") == "primary" else ""),
            share(float(one.get("weight") or 0)),
            share(float(one.get("mirrorPercent") or 0)),
            "yes" if one.get("match") else "-",
            _yes(one.get("ready")),
            age(one.get("since"), now),
            _endpoints(one.get("endpoints")),
            str(one.get("reason") or "-"),
        )
    return table


def _yes(ready: bool | None) -> Text:
    if ready is None:
        return Text("-")
    return Text("yes", style="green") if ready else Text("no", style="red")


def _endpoints(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"{found.get('ready', 0)}/{found.get('total', 0)}"
    return "-" if found is None else str(found)


def _gateways(gateways: Iterable[Document]) -> Iterator[RenderableType]:
    from headgate.rollouts import laggard

    for one in gateways:
        behind = one.get("lagging") or ()
        envoys = one.get("envoys")
        programmed = one.get("programmed")
        count = envoys if isinstance(envoys, str) or isinstance(programmed, bool) else f"{programmed}/{envoys}"
        yield Text.assemble(("gateway ", "bold"), f"{one.get('name')}: {count} Envoys have it")
        for each in behind:
            yield Text(f"  {laggard(each)}")
        for each in one.get("unreachable") or ():
            yield Text(f"  replica {each} does not answer for its Envoys")


def _events(events: Iterable[Document], now: datetime) -> Table:
    from headgate.rollouts import event_time

    table = _table("EVENT", "AGE", "REASON", "MESSAGE", wrapping=("MESSAGE",))
    for one in events:
        times = (one.get("series") or {}).get("count") or one.get("count") or 1
        message = str(one.get("message") or one.get("note") or "-") + (f" (x{times})" if times > 1 else "")
        kind = str(one.get("type") or "-")
        style = "yellow" if kind == "Warning" else ""
        table.add_row(
            Text(kind, style=style), age(event_time(one) or None, now), str(one.get("reason") or "-"), message
        )
    return table


def _problem(problem: Document) -> Text:
    severity = str(problem.get("severity") or "error")
    filled = {name: str(problem.get(name) or "") for name in ("where", "field", "hint")}
    filled["what"] = str(problem.get("what") or problem.get("message") or "")
    return Text.assemble((f"{severity}: ", _SEVERITIES.get(severity, "")), problem_text(filled))


def _table(*columns: str, wrapping: tuple[str, ...] = ()) -> Table:
    """Columns that begin with '>' are flush right; those in `wrapping` give way on a narrow terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name = column.lstrip(">")
        side: Literal["right", "left"] = "right" if column != name else "left"
        table.add_column(name, justify=side, no_wrap=name not in wrapping, overflow="fold")
    return table


def _pairs() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    return table
