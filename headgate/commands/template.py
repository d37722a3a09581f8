"""`headgate template`: what Iter8's charts traffic-templates, routing-actions and release rendered, for headgate."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headgate.commands.output import BadInput, Failure, complain, examples

if TYPE_CHECKING:
    from router.problem import Problem

_STEP = re.compile(r"([^.\[\]]+)|\[(\d{1,4})\]")
_PATH = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[\d{1,4}\])*")


@click.command(
    short_help="Print manifests for kubectl from the values of Iter8's charts.",
    epilog=examples(
        "headgate template -f values.yaml | kubectl apply -f -",
        "headgate template -f values.yaml --set mirrorPercentage=20",
        "cat values.yaml | headgate template -f - | kubectl delete -f -",
    ),
)
@click.option(
    "-f", "--values", "files", multiple=True, metavar="FILE", help="YAML file of values; - is standard input."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value: a.b=1,list[0].weight=20."
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Where the values name no namespace.")
@click.option("--name", default="release-name", show_default=True, help="Where the values name no application.")
def template(files: tuple[str, ...], settings: tuple[str, ...], namespace: str, name: str) -> None:
    """Print the manifests that a few values stand for: a ModelRollout, and ConfigMaps for its weights.

    The values are those of Iter8's charts traffic-templates, routing-actions and release. Of several files, and of
    --set, the later ones win.
    """
    import yaml

    from router.cluster.template import render

    if not files and not settings:
        raise click.UsageError("no values: give -f FILE, -f - for standard input, or --set")
    values: dict[str, Any] = {}
    for file in files:
        values = merged(values, _read(file))
    for setting in settings:
        for each in _split(setting):
            _set(values, each)
    rendered = render(values, release=name, namespace=namespace)
    if not rendered.documents and rendered.problems:
        raise BadInput(rendered.problems)
    complain(rendered.problems)
    click.echo(
        yaml.dump_all(
            rendered.documents, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120, explicit_start=True
        ),
        nl=False,
    )


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings are joined key by key; everything else, lists too, is replaced: as Helm does."""
    made = dict(under)
    for key, value in over.items():
        below = made.get(key)
        made[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return made


def _read(file: str) -> dict[str, Any]:
    from router.documents import decode, documents
    from router.problem import Problem

    where = "stdin" if file == "-" else file
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read {file}: {(error.strerror or str(error)).lower()}", exit_code=2) from None
    text = decode(data, where)
    if isinstance(text, Problem):
        raise BadInput([text])
    found: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for document in documents(text, where):
        if isinstance(document, Problem):
            problems.append(document)
            continue
        raw, faults = document.build()
        problems += [Problem(f"{where}:{line}", field, what, hint) for line, field, what, hint in faults]
        if isinstance(raw, dict):
            found.append(raw)
        elif raw is not None and not faults:
            problems.append(Problem(where, "", "the values are not a mapping", "write name: value"))
    if len(found) > 1:
        problems.append(_several(where))
    if problems:
        raise BadInput(problems)
    return found[0] if found else {}


def _several(where: str) -> Problem:
    from router.problem import Problem

    return Problem(where, "", "there is more than one document", "give each file of values with its own -f")


def _split(setting: str) -> list[str]:
    """At commas that are neither escaped nor within braces."""
    return [each for each in re.split(r"(?<!\\),(?![^{]*\})", setting) if each]


def _set(values: dict[str, Any], setting: str) -> None:
    path, found, value = setting.partition("=")
    if not found or not _PATH.fullmatch(path):
        raise click.UsageError(f"--set {setting!r} is not KEY=VALUE, such as modelVersions[0].weight=20")
    steps = [int(index) if index else name for name, index in _STEP.findall(path)]
    at: Any = values
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, int):
            at.extend([None] * (step + 1 - len(at)))
        below = at[step] if isinstance(step, int) else at.get(step)
        if following is None:
            below = _scalar(value)
        elif not isinstance(below, list if isinstance(following, int) else dict):
            below = [] if isinstance(following, int) else {}
        at[step] = below
        at = below


def _scalar(value: str) -> Any:
    if value.startswith("{") and value.endswith("}"):
        return [_scalar(one) for one in value[1:-1].split(",") if one]
    value = value.replace("\\,", ",")
    if value in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[value]
    return int(value) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", value) else value


def _dumper() -> Any:
    """Texts of several lines as blocks, for readers."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return Dumper
