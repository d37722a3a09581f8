"""`headgate plan`: what a folder of manifests would do, and why."""

from __future__ import annotations

from pathlib import Path

import click

from headgate.commands.folder import chosen, config_option, folder_argument, not_ready_option, plan_folder
from headgate.commands.output import BAD_INPUT, complain, draw, emit, error_line, examples, output_option


@click.command(
    short_help="Show the routes of models, and why.",
    epilog=examples("headgate plan models", "headgate plan models --model iris --not-ready iris/v2"),
)
@folder_argument
@click.option("--model", help="Only this one: NAMESPACE/NAME, or NAME in the namespace default.")
@not_ready_option
@config_option
@output_option("table", "json", "yaml")
def plan(folder: Path, model: str | None, not_ready: tuple[str, ...], file: Path | None, form: str) -> int:
    """Show each model's routes in the order in which Envoy tries them, with shares, and why they are so.

    Every version counts as ready unless --not-ready names it.
    """
    from headgate.documents import plan_document

    found = plan_folder(folder, file, not_ready)
    complain(found.problems)
    documents = [
        plan_document(found.rollouts[key].rollout, found.planned[key])
        for key in chosen(found, model)
        if key in found.planned
    ]
    if form == "table":
        from headgate import show

        for number, document in enumerate(documents):
            if number:
                click.echo()
            draw(show.plan(document))
        if not documents and not found.errors:
            error_line(f"there are no rollouts in {folder}", severity="warning")
    else:
        emit(documents, form)
    return BAD_INPUT if found.errors else 0
