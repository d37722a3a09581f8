"""What is to be sent, as people say it: a string, a file, an address, a template, a feed -> a plan's Payload.

Everything is read and checked here, before there is a plan, and all that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadgen.payload.feeds import json_lines, read_rows
from loadgen.payload.fetch import fetch, read_file
from loadgen.payload.templates import Template, Unusable
from loadgen.plan import Payload
from router.problem import Problem

_FIELDS = ("text", "file", "url", "template", "template_file")


@dataclass(frozen=True, slots=True)
class Source:
    """One of `text`, `file`, `url`, `template`, `template_file`, or none of them.

    `sha256`: of what `url` gives. `feed`: a file of rows for the template; a JSONL file without a template is one body
    a line. `order`: how its rows, or lines, are taken. Relative paths begin at `folder`.
    """

    text: str | None = None
    file: str | None = None
    url: str | None = None
    sha256: str | None = None
    template: str | None = None
    template_file: str | None = None
    feed: str | None = None
    order: Literal["cycle", "random"] = "cycle"
    folder: Path = Path()


def payload(
    source: Source, where: str, names: Mapping[str, str] | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> tuple[Payload, tuple[Problem, ...]]:
    """The payload, which counts for nothing where there are problems.

    `names`: what the user calls the fields of a source ({"file": "payloadFile"}), for problems. `headers`: those of the
    target, whose templates may take the feed's columns as well.
    """
    called = {**{name: name for name in Source.__dataclass_fields__}, **(names or {})}
    given = [name for name in _FIELDS if getattr(source, name) is not None]
    problems: list[Problem] = []
    if len(given) > 1:
        said = " and ".join(called[name] for name in given)
        problems.append(Problem(where, called[given[0]], f"{said} say each what is to be sent", "give one of them"))
    if source.sha256 is not None and source.url is None:
        problems.append(Problem(where, called["sha256"], "a checksum is for what an address gives", "leave it out"))
    rows: tuple[Mapping[str, str], ...] = ()
    bodies: tuple[bytes, ...] = ()
    template = _template_of(source, where, called, problems)
    in_headers = any("{{" in value for _, value in headers)
    if source.feed is not None and template is None and not given and not in_headers:
        bodies = _lines(source, where, called, problems)
    elif source.feed is not None:
        found = read_rows(source.folder / source.feed, where, called["feed"])
        problems += [each for each in found if isinstance(each, Problem)]
        rows = tuple(each for each in found if not isinstance(each, Problem))
        if template is None and not in_headers:
            hint = "give a template, or leave the feed out"
            problems.append(Problem(where, called["feed"], "nothing takes the columns of this feed", hint))
    columns = tuple(rows[0]) if rows else ()
    broken_feed = source.feed is not None and not rows and not bodies
    if template is not None and not broken_feed:
        name = called["template" if source.template is not None else "template_file"]
        problems += _check(template, columns, where, name)
    for header, value in headers:
        if "{{" in value and not broken_feed:
            problems += _check(value, columns, where, f"headers.{header}")
    if template is None and given:
        bodies = _body(source, where, called, problems)
    return Payload(bodies, template, rows, source.order), tuple(problems)


def _template_of(source: Source, where: str, called: Mapping[str, str], problems: list[Problem]) -> str | None:
    if source.template is not None or source.template_file is None:
        return source.template
    data = read_file(source.folder / source.template_file, where, called["template_file"])
    if isinstance(data, Problem):
        problems.append(data)
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        problems.append(Problem(where, called["template_file"], f"a template is UTF-8, and byte {error.start} is not"))
        return None


def _lines(source: Source, where: str, called: Mapping[str, str], problems: list[Problem]) -> tuple[bytes, ...]:
    assert source.feed is not None
    if Path(source.feed).suffix.lower() not in (".jsonl", ".ndjson"):
        what = "the columns of this feed need a template"
        problems.append(Problem(where, called["feed"], what, "or give a .jsonl file, which is one body a line"))
        return ()
    found = json_lines(source.folder / source.feed, where, called["feed"])
    problems += [each for each in found if isinstance(each, Problem)]
    return tuple(each for each in found if isinstance(each, bytes))


def _body(source: Source, where: str, called: Mapping[str, str], problems: list[Problem]) -> tuple[bytes, ...]:
    data: bytes | Problem
    if source.text is not None:
        data = source.text.encode()
    elif source.file is not None:
        data = read_file(source.folder / source.file, where, called["file"])
    elif source.url is not None:
        data = fetch(source.url, where, called["url"], sha256=source.sha256)
    else:  # a template's file that could not be read
        return ()
    if isinstance(data, Problem):
        problems.append(data)
        return ()
    return (data,)


def _check(template: str, columns: tuple[str, ...], where: str, field: str) -> tuple[Problem, ...]:
    try:
        Template(template, columns)
    except Unusable as error:
        return (Problem(where, field, str(error)),)
    return ()
