"""`headgate validate`: what is wrong with a folder of manifests."""

from __future__ import annotations

from pathlib import Path

import click

from headgate.commands.folder import config_option, folder_argument, plan_folder
from headgate.commands.output import BAD_INPUT, complain, emit, examples, output_option
from router.hints import counted


@click.command(
    short_help="Check manifests; list all problems at once.",
    epilog=examples("headgate validate models", "headgate validate models --config headgate.yaml -o json"),
)
@folder_argument
@config_option
@output_option("table", "json", "yaml")
def validate(folder: Path, file: Path | None, form: str) -> int:
    """Check every manifest below DIR and how they go together. Exits 2 when there are errors.

    All problems are listed at once, each with file, line, field and what to do.
    """
    from headgate.documents import problem_document

    found = plan_folder(folder, file)
    errors = len(found.errors)
    if form == "table":
        complain(found.problems)
        warnings = len(found.problems) - errors
        sums = (len(found.rollouts), "rollout"), (errors, "error"), (warnings, "warning")
        click.echo(", ".join(counted(number, noun) for number, noun in sums))
    else:
        emit(
            {
                "rollouts": len(found.rollouts),
                "files": found.files,
                "problems": [problem_document(problem) for problem in found.problems],
            },
            form,
        )
    return BAD_INPUT if errors else 0
