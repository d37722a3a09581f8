"""From the bytes of a YAML file to rollouts and problems: all problems of the file at once, each with its line.

Ten thousand manifests are read at a cold start, so lines are looked up only when there is something to say about them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from router.documents import Document, Fault, Place, decode, documents
from router.hints import nearest, path_text
from router.problem import Problem
from router.schema import API_VERSION, GROUP, KIND, ModelRollout


@dataclass(frozen=True, slots=True)
class Located:
    """A rollout and where the user finds it, "file:line"."""

    rollout: ModelRollout
    where: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """`foreign` counts documents of other kinds, such as the Deployments beside a rollout, which are passed over."""

    rollouts: tuple[Located, ...] = ()
    problems: tuple[Problem, ...] = ()
    foreign: int = 0


def parse(data: bytes, where: str) -> Parsed:
    """Read every document of one file; a broken document hides none of those before it."""
    text = decode(data, where)
    if isinstance(text, Problem):
        return Parsed(problems=(text,))
    rollouts: dict[str, Located] = {}
    problems: list[Problem] = []
    foreign = 0
    for found in documents(text, where):
        if isinstance(found, Problem):
            problems.append(found)
            continue
        made = _read(found)
        foreign += made is None
        if isinstance(made, ModelRollout):
            at = f"{where}:{found.line(())}"
            first = rollouts.setdefault(made.key, Located(made, at)).where
            if first != at:
                what = f"{made.key} is already defined at {first}"
                problems.append(Problem(at, "metadata.name", what, "give it another name, or remove one of them"))
        elif made:
            problems += [Problem(f"{where}:{line}", field, what, hint) for line, field, what, hint in sorted(made)]
    return Parsed(tuple(rollouts.values()), tuple(problems), foreign)


def read(raw: Any, where: str) -> ModelRollout | tuple[Problem, ...]:
    """The same for one object that is a mapping already, as Kubernetes sends it."""
    try:
        return ModelRollout.model_validate(raw)
    except ValidationError as error:
        return tuple(
            Problem(where, path_text(detail["loc"]), detail["ctx"]["what"], detail["ctx"]["hint"])
            for detail in error.errors(include_url=False)
        )


def _read(document: Document) -> ModelRollout | list[Fault] | None:
    """The document's rollout, or everything that is wrong with it; None when it is of a foreign kind or empty."""
    raw, faults = document.build()
    if raw is None and not faults:
        return []  # an empty document between two '---'
    if isinstance(raw, dict) and not _kind_complaint(raw) and raw.get("kind") != KIND:
        return None
    if raw is None:
        return faults
    if complaint := _kind_complaint(raw):
        place, what, hint = complaint
        return [*faults, (document.line(place), path_text(place), what, hint)]
    try:
        rollout = ModelRollout.model_validate(raw)
    except ValidationError as error:
        return [*faults, *_complaints(error, document)]
    return faults or rollout


def _kind_complaint(raw: Any) -> tuple[Place, str, str] | None:
    """What is wrong with a document that is meant for us, or for nobody."""
    if not isinstance(raw, dict):
        return (), "the document is not a mapping", f"start with apiVersion: {API_VERSION} and kind: {KIND}"
    kind, version = raw.get("kind"), raw.get("apiVersion")
    group = version.split("/")[0] if isinstance(version, str) else None
    if kind == KIND and version == API_VERSION:
        return None
    if kind == "List" and any(isinstance(one, dict) and one.get("kind") == KIND for one in _items(raw)):
        return (
            ("kind",),
            f"a List with a {KIND} in it is not read",
            "write each as a document of its own, after a '---'",
        )
    if kind == KIND:
        if version is None:
            return (), f"apiVersion is missing beside kind: {KIND}", f"write apiVersion: {API_VERSION}"
        return ("apiVersion",), f"apiVersion {version!r} is not known for {KIND}", f"write apiVersion: {API_VERSION}"
    if group == GROUP or (isinstance(group, str) and nearest(group, [GROUP]) and nearest(str(kind), [KIND])):
        if kind is None:
            return (), f"kind is missing beside apiVersion: {version}", f"write kind: {KIND}"
        return ("kind",), f"kind {kind!r} is not known in {version}", f"write kind: {KIND}"
    if kind is None or version is None:
        missing = " and ".join(name for name in ("apiVersion", "kind") if raw.get(name) is None)
        return (), f"{missing} missing", f"write apiVersion: {API_VERSION} and kind: {KIND}"
    if isinstance(kind, str) and "/" not in kind and nearest(kind, [KIND]) and kind.lower() == KIND.lower():
        return ("kind",), f"kind {kind!r} is not known", f"write kind: {KIND}"
    return None


def _items(raw: dict[str, Any]) -> list[Any]:
    items = raw.get("items")
    return items if isinstance(items, list) else []


def _complaints(error: ValidationError, document: Document) -> Iterator[Fault]:
    for detail in error.errors(include_url=False):
        context = detail["ctx"]
        yield document.line(detail["loc"]), path_text(detail["loc"]), context["what"], context["hint"]
