"""Every form that a run's report has, by the name that users give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from loadgen.report import document, html, junit, markdown, table, text
from loadgen.report.contents import Report

_RENDERERS: dict[str, Callable[[Report], str]] = {
    "text": text.render,
    "html": html.render,
    "json": document.render,
    "csv": table.render,
    "junit": junit.render,
    "markdown": markdown.render,
}
FORMATS = tuple(_RENDERERS)
_ENDINGS = {
    ".txt": "text",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".csv": "csv",
    ".xml": "junit",
    ".md": "markdown",
}


def render(report: Report, form: str) -> str:
    """Raises ValueError for a form that there is not."""
    if form not in _RENDERERS:
        raise ValueError(f"there is no report {form!r}: there are {', '.join(FORMATS)}")
    return _RENDERERS[form](report)


def by_name(path: str) -> str | None:
    """The form that a file's name asks for: report.html, junit.xml, ...; None if it asks for none."""
    return _ENDINGS.get(PurePath(path).suffix.lower())
