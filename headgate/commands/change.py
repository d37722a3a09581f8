"""What the commands that change a rollout have in common: their options, and the way from a Change to its report."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headgate.commands.control_plane import DEFAULT_URL, NoAnswer, ask
from headgate.commands.output import (
    BadInput,
    Failure,
    draw,
    emit,
    is_terminal,
    is_unicode,
    model_key,
    output_option,
)
from headgate.kube_context import Choice, Cluster, Unreachable, cluster, kube_options

if TYPE_CHECKING:
    from headgate.rollouts import Made, Object
    from router.cluster.change import Change, Outcome

_Function = TypeVar("_Function", bound=Callable[..., Any])
_LONGEST = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """How a change shall be made and reported."""

    choice: Choice
    url: str | None
    why: str
    dry_run: bool
    wait: bool
    timeout: float
    form: str


def change_options(function: _Function) -> _Function:
    """The options of every command that changes a rollout, as one argument `asked`."""

    @functools.wraps(function)
    def gathered(
        *args: Any,
        choice: Choice,
        url: str | None,
        why: str,
        dry_run: bool,
        wait: bool,
        timeout: str,
        form: str,
        **rest: Any,
    ) -> Any:
        if not is_unicode(why) or not why.isprintable() or len(why) > _LONGEST:
            raise click.UsageError(f"--why takes one line of text in UTF-8, at most {_LONGEST} characters")
        if wait and dry_run:
            raise click.UsageError("--wait and --dry-run do not go together: a dry run changes nothing")
        asked = Asked(choice, url, why, dry_run, wait, _seconds(timeout), form)
        return function(*args, asked=asked, **rest)

    made: Any = gathered
    for option in reversed(
        [
            click.option("--why", default="", metavar="TEXT", help="Kept in the history."),
            click.option("--dry-run", is_flag=True, help="Let the API server check it; change nothing."),
            click.option("--wait", is_flag=True, help="Wait until every Envoy has it; exit 1 if that takes too long."),
            click.option("--timeout", default="60s", show_default=True, metavar="TIME", help="How long --wait waits."),
            kube_options(),
            click.option(
                "--url", envvar="HEADGATE_URL", show_envvar=True, help="Of a control plane without a cluster."
            ),
            output_option("table", "json", "yaml"),
        ]
    ):
        made = option(made)
    return made  # type: ignore[no-any-return]


def _seconds(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from router.values import PositiveDuration

    try:
        return float(TypeAdapter(PositiveDuration).validate_python(text))
    except ValidationError as error:
        context = error.errors(include_url=False)[0]["ctx"]
        raise click.UsageError(f"--timeout {context['what']}: {context['hint']}") from None


def carry_out(model: str, make: Callable[[Object], Outcome], asked: Asked, *, edit: str) -> None:
    """Make the change in the cluster and report it. `edit` says what to edit where manifests are in a folder."""
    if asked.url is not None and _on_command_line("url"):
        raise _in_a_folder(model, asked.url, edit)
    try:
        with cluster(asked.choice) as there:
            _in_a_cluster(there, model, make, asked)
    except Unreachable as unreachable:
        if asked.choice.given:
            raise
        try:
            failure = _in_a_folder(model, asked.url or DEFAULT_URL, edit)
        except NoAnswer as silent:
            raise Failure(f"{unreachable.message}; and {silent.message}", silent.hint) from None
        raise failure from None


def _on_command_line(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _in_a_folder(model: str, url: str, edit: str) -> Failure:
    """A control plane without a cluster cannot be told: it follows its manifests."""
    from urllib.parse import quote

    key = model_key(model)
    where = ask(url, f"/models/{quote(key)}").get("where") or "its manifest"
    if where.startswith(("ModelRollout ", "ConfigMap ")):
        return Failure(f"{key} is kept in a cluster ({where})", "leave out --url and choose the cluster with --context")
    return Failure(
        f"{key} comes from {where}: the control plane at {url} follows its manifests, they are the source of truth",
        f"edit {edit} there, it is taken over at once",
    )


def _in_a_cluster(there: Cluster, model: str, make: Callable[[Object], Outcome], asked: Asked) -> None:
    from headgate import rollouts

    namespace, name = there.key(model)

    def checked(raw: Object) -> Change:
        outcome = make(raw)
        if isinstance(outcome, tuple):
            raise BadInput(outcome)
        return outcome

    made = there.run(rollouts.change(there.client, namespace, name, checked, why=asked.why, dry_run=asked.dry_run))
    if not asked.wait:
        _report(document(made, asked.dry_run), asked.form)
        return
    progress = _Progress()
    try:
        found = there.run(rollouts.applied(there.client, made, asked.timeout, progress.tell))
    except Failure:
        progress.clear()
        _report(document(made, False) | {"programmed": False}, asked.form)
        raise
    progress.clear()
    notes = _afterwards(made, found)
    report = document(made, False)
    report |= {"programmed": True, "envoys": rollouts.status(found).get("envoys")}
    _report(report | {"notes": [*report["notes"], *notes]}, asked.form)


def document(made: Made, dry_run: bool) -> dict[str, Any]:
    """A change for programs, and for the table."""
    from headgate import rollouts

    said = made.record or {}
    return {
        "model": rollouts.key(made.raw),
        "what": made.change.what if made.record else "nothing to change",
        "changed": made.record is not None and not dry_run,
        "dryRun": dry_run,
        "by": said.get("by"),
        "why": said.get("why"),
        "at": said.get("at"),
        "generation": made.generation,
        "versions": [
            {"name": one.version, "primary": one.primary, "before": one.before, "after": one.after}
            for one in made.change.shares
        ],
        "notes": [*made.change.notes, *_beforehand(made)],
        "programmed": None,
        "envoys": None,
    }


def _beforehand(made: Made) -> list[str]:
    """Whether those who are to get traffic can serve it, as far as the status knows."""
    from headgate import rollouts

    if made.record is None or not rollouts.status(made.raw):
        return []
    found = []
    for one in made.change.shares:
        seen = rollouts.version(made.raw, one.version)
        if one.after and seen and not seen.get("ready"):
            found.append(f"{one.version} is not ready ({seen.get('reason')}): it gets nothing until it is")
    return found


def _afterwards(made: Made, raw: Object) -> list[str]:
    from headgate import rollouts

    if int(raw["metadata"].get("generation") or 0) > made.generation:
        return [f"somebody changed it again meanwhile (generation {raw['metadata']['generation']})"]
    seen = {one.version: rollouts.version(raw, one.version) for one in made.change.shares}
    if raw["spec"].get("paused") or not all(one.get("ready") for one in seen.values()):
        return []
    return [
        f"{one.version} has {seen[one.version].get('weight') or 0:g} % nevertheless: an annotation "
        "iter8.tools/weight on a resource of the version overrules the spec"
        for one in made.change.shares
        if abs(float(seen[one.version].get("weight") or 0) - one.after) > 0.01
    ]


def _report(found: dict[str, Any], form: str) -> None:
    from headgate import show_rollout

    if form == "table":
        draw(show_rollout.change(found))
    else:
        emit(found, form)


class _Progress:
    """One line on a terminal that is written over; elsewhere a line for each piece of news."""

    def __init__(self) -> None:
        self._last = ""
        self._terminal = is_terminal(sys.stderr)

    def tell(self, words: str) -> None:
        if words != self._last:
            self._last = words
            click.echo(
                f"\r\033[Kwaiting: {words}" if self._terminal else f"waiting: {words}", err=True, nl=not self._terminal
            )

    def clear(self) -> None:
        if self._last and self._terminal:
            click.echo("\r\033[K", err=True, nl=False)
