"""An experiment's result as text, HTML, JSON, JUnit, Markdown or CSV, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from loadgen.experiment.result import Result


def printed(result: Result, form: str) -> None:
    click.echo(rendered(result, form).rstrip("\n"))


def rendered(result: Result, form: str) -> str:
    from loadgen.experiment.present import report
    from loadgen.report import table
    from loadgen.report.experiment import render

    made = report(result)
    if form == "csv":
        return "".join(table.render(one) for one in made.runs)
    return render(made, form)
