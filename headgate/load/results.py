"""Where the result goes: stdout in one form, files in those that their names ask for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from headgate.commands.output import Failure, console
from loadgen.report.contents import Report
from loadgen.report.formats import by_name, render
from router.problem import Problem

_SECRET = re.compile(r"^\s*(authorization|proxy-authorization|cookie|[\w-]*(?:api-?key|token|secret)[\w-]*)\s*:", re.I)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


def unwritable(paths: Iterable[Path]) -> list[Problem]:
    """Reports that cannot be written, known before the load."""
    problems = []
    for path in paths:
        if by_name(path.name) is None:
            hint = "name it .html, .json, .csv, .xml, .md or .txt"
            problems.append(Problem("--report", "", f"what is {path} to be? its name does not tell", hint))
        elif not path.absolute().parent.is_dir():
            problems.append(Problem("--report", "", f"there is no folder {path.absolute().parent}"))
        elif path.is_dir():
            problems.append(Problem("--report", "", f"{path} is a folder", "name a file"))
    return problems


def show(report: Report, form: str) -> None:
    """On stdout."""
    if form == "text":
        from loadgen.report import console as coloured

        coloured.show(report, console())
    else:
        click.echo(render(report, form))


def write(report: Report, paths: Iterable[Path]) -> None:
    """Raises Failure after all that could be written has been."""
    failures = []
    for path in paths:
        fresh = not path.exists()
        try:
            path.write_text(render(report, by_name(path.name) or "text"), encoding="utf-8")
        except OSError as error:
            if fresh:  # half a report would be taken for a whole one
                path.unlink(missing_ok=True)
            failures.append(f"{path}: {(error.strerror or str(error)).lower()}")
    if failures:
        raise Failure(f"the report cannot be written: {'; '.join(failures)}")


def command_line(arguments: Sequence[str]) -> str:
    """What was typed, without what is secret in it: reports are passed on."""
    told = []
    for each in arguments:
        option, sign, value = each.partition("=") if each.startswith("--header=") else ("", "", each)
        if _SECRET.match(value):
            value = f"{value.partition(':')[0]}: ***"
        told.append(_PASSWORD.sub("***@", f"{option}{sign}{value}"))
    return shlex.join(["headgate", *told])
