"""Documents as tables for a terminal: plain dicts in (as HTTP gives them), rich renderables out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from headgate.documents import Document

_STATES = {"Programmed": "green", "Pending": "yellow", "Degraded": "red", "Rejected": "bold red"}
_SEVERITIES = {"error": "red", "warning": "yellow"}


def status(document: Document, now: datetime) -> RenderableType:
    """Everything: a table of models, then what somebody should look at, then a line of sums."""
    models, envoys = document["models"], document["envoys"]
    parts: list[RenderableType] = []
    if models:
        parts += [models_table(models, now), Text()]
    for gateway in document["gateways"]:
        if gateway["rejection"] is not None:
            parts.append(_rejected(f"gateway {gateway['gateway']}", gateway["rejection"]))
    parts += notes(models, document["problems"])
    parts += _silent(document.get("sidecars", []))
    parts.append(Text(f"{_count(models, 'model')}, {_count(envoys, 'Envoy')} connected, {_sums(models)}".rstrip(", ")))
    return Group(*parts)


def model(document: Document, now: datetime) -> RenderableType:
    """One model, with the reasons for its traffic."""
    parts: list[RenderableType] = [models_table([document], now), Text()]
    spoken = {one["name"]: one["live"]["llm"] for one in document["versions"] if (one.get("live") or {}).get("llm")}
    if spoken:
        parts += [tokens_table(spoken), Text()]
    parts.append(Text(f"hosts: {', '.join(document['hosts'])}"))
    parts += [Text(f"why: {sentence}") for sentence in document["why"]]
    parts += notes([document], document["problems"])
    return Group(*parts)


def plan(document: Document) -> RenderableType:
    """A model's routes in order, and why they are so."""
    sticky = f", sticky by {document['sticky']}" if document["sticky"] else ""
    hosts = ", ".join(document["hosts"]) or "no host"
    plugins = f"; plugins {', '.join(document['plugins'])}" if document["plugins"] else ""
    head = f" on {document['gateway']} ({hosts}; strategy {document['strategy']}{sticky}{plugins})"
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("  ROUTE", "REQUESTS", "GO TO", "COPIED TO"):
        table.add_column(name)
    for number, route in enumerate(document["routes"], start=1):
        targets = ", ".join(f"{one['version']} {share(one['weight'])}" for one in route["targets"])
        mirrors = ", ".join(f"{one['version']} {share(one['percent'])}" for one in route["mirrors"])
        table.add_row(f"  {number}. {route['name']}", route["match"], targets, mirrors or "-")
    parts: list[RenderableType] = [Text.assemble((document["model"], "bold"), head)]
    if document["routes"]:
        parts.append(table)
    return Group(*parts, *(Text(f"  why: {sentence}") for sentence in document["why"]))


def models_table(models: Iterable[Document], now: datetime) -> Table:
    """A row per version; what belongs to the model stands in its first row. Figures only where somebody told some."""
    models = list(models)
    counted = any(version.get("live") for one in models for version in one["versions"])
    figures = ("RPS", "ERRORS", "P99", "AGE") if counted else ()
    table = Table(box=None, pad_edge=False, header_style="bold")
    traffic = ("WEIGHT", "MIRROR", "MATCH", *figures)
    for name in ("MODEL", "STATE", "ENVOYS", "VERSION", *traffic, "READY", "FOR", "REASON"):
        # On a narrow terminal the reason gives way, not the names.
        right = name in ("WEIGHT", "MIRROR", *figures)
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "REASON")
    for one in models:
        state = Text(one["state"], style=_STATES.get(one["state"], ""))
        applied = f"{one['envoys']['applied']}/{one['envoys']['total']}"
        head: tuple[RenderableType, ...] = (one["model"], state, applied)
        for version in one["versions"]:
            table.add_row(*head, *_version(version, now, counted))
            head = ("", "", "")
        if not one["versions"]:
            table.add_row(*head)
    return table


def tokens_table(spoken: Mapping[str, Document]) -> Table:
    """What language models say, by version: tokens a second, and how long one waits for the first and for the next."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("VERSION", no_wrap=True)
    for name in ("TOKENS/S IN", "OUT", "FIRST TOKEN P50", "P99", "NEXT P50", "P99"):
        table.add_column(name, justify="right", no_wrap=True)
    for version, llm in spoken.items():
        times = (llm[name][share] for name in ("timeToFirstToken", "timeBetweenTokens") for share in ("p50", "p99"))
        rates = (f"{llm[name]:.1f}" for name in ("tokensInPerSecond", "tokensOutPerSecond"))
        table.add_row(version, *rates, *map(_took, times))
    return table


def notes(models: Iterable[Document], problems: Iterable[Document]) -> Iterator[Text]:
    """Envoy's words, laggards, problems: a line each."""
    for one in models:
        if one["rejection"] is not None:
            yield _rejected(one["model"], one["rejection"])
            continue
        for lag in one["envoys"]["lagging"][:3]:
            yield Text.assemble((one["model"], "bold"), f": {lag['node']}: {lag['why']}")
        more = len(one["envoys"]["lagging"]) - 3
        if more > 0:
            yield Text.assemble((one["model"], "bold"), f": and {more} more Envoys are not up to date")
    for problem in problems:
        yield Text.assemble(
            (f"{problem['severity']}: ", _SEVERITIES.get(problem["severity"], "")), problem_text(problem)
        )


def _rejected(who: str, rejection: Document) -> Text:
    words = f"{rejection['node']} rejected {rejection['type']} {rejection['resource']}: {rejection['message']}"
    return Text.assemble((who, "bold"), ": ", (words, "red"))


def problem_text(problem: Document) -> str:
    """A problem as it is printed everywhere."""
    at = f"{problem['where']}: {problem['field']}" if problem["field"] else problem["where"]
    return f"{at}: {problem['what']}" + (f" ({problem['hint']})" if problem["hint"] else "")


def share(percent: float) -> str:
    """90 %, 0.01 %, and nothing for nothing."""
    return f"{percent:g} %" if percent else "-"


def age(then: str | None, now: datetime) -> str:
    """How long ago: 5s, 3m, 2h, 4d."""
    if then is None:
        return "-"
    seconds = max(0, int((now - datetime.fromisoformat(then)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def now() -> datetime:
    return datetime.now(UTC)


def _silent(sidecars: Iterable[Document]) -> Iterator[Text]:
    for one in sidecars:
        if one["trouble"] is not None:
            since = "no figures yet" if one["age"] is None else f"its figures are {one['age']:.0f} s old"
            yield Text.assemble(("warning: ", "yellow"), f"sidecar {one['url']}: {one['trouble']}; {since}")


def live(figures: Document | None) -> tuple[RenderableType, ...]:
    """Requests a second, errors, p99, and how old that is."""
    if figures is None:
        return ("-", "-", "-", "-")
    errors = Text(f"{figures['errorPercent']:.2g} %", style="red" if figures["errors"] else "")
    return (f"{figures['rps']:.1f}", errors, _took(figures["p99"]), f"{figures['age']:.1f}s")


def _took(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{seconds * 1000:.3g} ms"


def _version(version: Document, now: datetime, counted: bool = False) -> tuple[RenderableType, ...]:
    endpoints = version["endpoints"]
    ready = Text("yes" if version["ready"] else "no", style="green" if version["ready"] else "red")
    if endpoints is not None and endpoints["total"] > 1:
        ready.append(f" {endpoints['ready']}/{endpoints['total']}", style="default")
    return (
        version["name"] + (" *" if version["role"] == "primary" else ""),
        share(version["weight"]),
        share(version["mirror"] or 0),
        "yes" if version["match"] else "-",
        *(live(version.get("live")) if counted else ()),
        ready,
        age(version["since"], now),
        version["reason"],
    )


def _sums(models: list[Any]) -> str:
    counts = {state: sum(one["state"] == state for one in models) for state in _STATES}
    return ", ".join(f"{number} {state.lower()}" for state, number in counts.items() if number)


def _count(items: list[Any], noun: str) -> str:
    return f"{len(items):,} {noun}" + ("" if len(items) == 1 else "s")
