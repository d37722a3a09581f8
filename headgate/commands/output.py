"""How commands speak: data on stdout, problems as lines on stderr, colours only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from router.problem import Problem

BAD_INPUT = 2
_COLOURS = {"error": "red", "warning": "yellow"}
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Failure(click.ClickException):
    """It could not be done: one line for the user, exit code 1, or 2 when that is due to what was given."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        error_line(self.message, self.hint)


class BadInput(click.ClickException):
    """What the user gave is wrong: a line for each problem, exit code 2."""

    exit_code = BAD_INPUT

    def __init__(self, problems: Iterable[Problem]) -> None:
        super().__init__("bad input")
        self.problems = tuple(problems)

    def show(self, file: Any = None) -> None:
        complain(self.problems)


def error_line(message: str, hint: str = "", severity: str = "error") -> None:
    """Print `error: message (hint)`."""
    label = f"{severity}:"
    if coloured(sys.stderr):
        label = click.style(label, fg=_COLOURS[severity], bold=True)
    click.echo(f"{label} {message}" + (f" ({hint})" if hint else ""), err=True)


def complain(problems: Iterable[Problem]) -> None:
    """Print every problem on its own line."""
    for problem in problems:
        error_line(str(problem), severity=problem.severity)


def coloured(stream: Any) -> bool:
    return not os.environ.get("NO_COLOR") and is_terminal(stream)


def is_terminal(stream: Any) -> bool:
    """A stream that was closed before we began is None."""
    return stream is not None and bool(stream.isatty())


def console() -> Console:
    """Where tables go. Not cut off when the output is a file or a pipe."""
    from rich.console import Console

    terminal = is_terminal(sys.stdout)
    return Console(highlight=False, width=None if terminal else 250, no_color=not coloured(sys.stdout))


def draw(table: Any) -> None:
    """Print something of rich's, without the blanks that it puts at the ends of lines."""
    screen = console()
    with screen.capture() as capture:
        screen.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def emit(data: Any, form: str) -> None:
    """Print data for programs."""
    if form == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        import yaml

        click.echo(yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120), nl=False)


def output_option(*forms: str) -> Callable[[_Function], _Function]:
    """`-o`; the first form is the default."""
    return click.option(
        "-o", "--output", "form", type=click.Choice(forms), default=forms[0], show_default=True, help="How to print it."
    )


def examples(*lines: str) -> str:
    """The last section of a command's help. \\b keeps click from filling the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def is_unicode(text: str) -> bool:
    """Whether an argument was text: Python keeps other bytes as lone surrogates."""
    return not any("\ud800" <= one <= "\udfff" for one in text)


def model_key(name: str) -> str:
    """A model as users may write it: `iris` is short for `default/iris`."""
    namespace, slash, rest = name.rpartition("/")
    if not is_unicode(name) or not rest or "/" in namespace or (slash and not namespace):
        raise click.UsageError(f"{name!r} is not a model: write NAME or NAMESPACE/NAME")
    return f"{namespace or 'default'}/{rest}"
