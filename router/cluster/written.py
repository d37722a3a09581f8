"""YAML that someone wrote into a text field of a Kubernetes object: its value, or what is wrong with it."""

from __future__ import annotations

from typing import Any

from router.documents import documents
from router.problem import Problem


def yaml_value(text: str, where: str) -> tuple[Any, str]:
    """The value of the only document, and a complaint with its line, empty when there is none.

    The reader for manifests is used, which refuses what would take the process down.
    """
    found: list[Any] = []
    for document in documents(text, where):
        if isinstance(document, Problem):
            at = document.where.removeprefix(where).strip(":").split(":")[0]
            return None, f"line {at}: {document.what}" if at else document.what
        raw, faults = document.build()
        for line, field, what, _ in faults:
            return None, f"line {line}: {field}: {what}" if field else f"line {line}: {what}"
        found.append(raw)
    if len(found) > 1:
        return None, "there is more than one document"
    return (found[0] if found else None), ""
