"""Rows for templates: a CSV file with a line of names, or JSON objects, one a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

from loadgen.payload.fetch import read_file
from loadgen.payload.templates import FUNCTIONS, NAMES
from router.problem import Problem

Rows = tuple[Mapping[str, str], ...]

_MOST_PROBLEMS = 20
_JSON = (".jsonl", ".ndjson", ".json")


def read_rows(path: str | Path, where: str, field: str = "") -> Rows | tuple[Problem, ...]:
    """The rows of a feed; .jsonl and .ndjson are JSON, whatever else is CSV. All have the same columns.

    A value of JSON that is no string stands for itself as JSON does: {"shape": [1, 4]} -> "[1, 4]".
    """
    data = read_file(path, where, field)
    if isinstance(data, Problem):
        return (data,)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return (Problem(f"{path}", "", f"this is no UTF-8: byte {error.start}"),)
    read = _json_rows if Path(path).suffix.lower() in _JSON else _csv_rows
    rows, problems = read(text, str(path))
    if not problems and not rows:
        problems = [Problem(str(path), "", "this feed has no rows")]
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        kept = problems[:_MOST_PROBLEMS]
        return (*kept, Problem(str(path), "", f"and {more} more problems")) if more > 0 else tuple(kept)
    return tuple(rows)


def json_lines(path: str | Path, where: str, field: str = "") -> tuple[bytes, ...] | tuple[Problem, ...]:
    """The lines of a file of JSON, each a body as it stands."""
    data = read_file(path, where, field)
    if isinstance(data, Problem):
        return (data,)
    bodies, problems = [], []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            json.loads(line)
        except ValueError as error:
            problems.append(Problem(f"{path}:{number}", "", f"this is no JSON: {error}"))
        else:
            bodies.append(line.strip())
    if not bodies and not problems:
        problems.append(Problem(str(path), "", "this file has no lines"))
    return tuple(problems[:_MOST_PROBLEMS]) or tuple(bodies)


def _csv_rows(text: str, path: str) -> tuple[list[dict[str, str]], list[Problem]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, str]] = []
    problems: list[Problem] = []
    columns: list[str] = []
    try:
        for values in reader:
            if not values:
                continue
            if not columns:
                columns = [value.strip() for value in values]
                problems = _columns(columns, f"{path}:{reader.line_num}")
                if problems:
                    break
            elif len(values) != len(columns):
                what = f"{len(values)} values for the {len(columns)} columns {', '.join(columns)}"
                problems.append(Problem(f"{path}:{reader.line_num}", "", what))
            else:
                rows.append(dict(zip(columns, values, strict=True)))
    except csv.Error as error:
        problems.append(Problem(f"{path}:{reader.line_num}", "", f"this is no CSV: {error}"))
    return rows, problems


def _json_rows(text: str, path: str) -> tuple[list[dict[str, str]], list[Problem]]:
    rows: list[dict[str, str]] = []
    problems: list[Problem] = []
    columns: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        at = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(Problem(at, "", f"this is no JSON: {error}"))
            continue
        if not isinstance(row, dict):
            problems.append(Problem(at, "", "a row is a JSON object, its names are the columns"))
            continue
        if not columns:
            columns = list(row)
            problems += _columns(columns, at)
        elif set(row) != set(columns):
            missing, extra = sorted(set(columns) - set(row)), sorted(set(row) - set(columns))
            said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(extra)} as well"] * bool(extra)
            problems.append(Problem(at, "", f"unlike the first row, this one {' and '.join(said)}"))
            continue
        rows.append({name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()})
    return rows, problems


def _columns(columns: list[str], where: str) -> list[Problem]:
    problems = []
    for at, name in enumerate(columns):
        if not name.isidentifier():
            hint = "letters, digits and _ can stand in {{ ... }}"
            problems.append(Problem(where, "", f"column {at + 1} cannot be called {name!r}", hint))
        elif name in (*NAMES, *FUNCTIONS):
            problems.append(Problem(where, "", f"column {name!r} has the name of a variable", "call it something else"))
        elif name in columns[:at]:
            problems.append(Problem(where, "", f"there are two columns {name!r}"))
    return problems
