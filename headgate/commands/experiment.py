"""`headgate experiment`: run an ordered list of tasks against versions of a model, and tell what came of it."""

from __future__ import annotations

import click

from headgate.commands.experiment_assert import assert_
from headgate.commands.experiment_keep import delete, list_, restore
from headgate.commands.experiment_report import report
from headgate.commands.experiment_run import run
from headgate.commands.experiment_serve import serve
from headgate.commands.output import examples


@click.group(
    "experiment",
    short_help="Run experiments: load, SLOs per version, notifications.",
    epilog=examples(
        "headgate experiment run experiment.yaml",
        "headgate experiment report experiment.yaml -o html > report.html",
        "headgate experiment assert experiment.yaml -c completed -c nofailure -c slos --timeout 60s",
    ),
)
def experiment() -> None:
    """An experiment is an ordered list of tasks: wait, load, measure, assess, compare, notify. Iter8's files are read.

    Exit codes: 0 all holds; 1 something could not be done; 2 the experiment or an option is wrong; 3 no usable data;
    4 the run says nothing, as the generator could not keep up; 5 too few samples; 99 an SLO is broken; 130 interrupted.
    """


for _command in (run, report, assert_, list_, delete, restore, serve):
    experiment.add_command(_command)
