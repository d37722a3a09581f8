"""What a routing template of Iter8 is for, read from its text: strategy, hosts, matches, copies.

Templates are never rendered. Their actions are taken out, a weight leaves its index behind, and what remains is the
YAML that the charts would have produced with every version ready. A text that defies this is searched for words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from router.cluster.match import matches
from router.cluster.objects import Object, mappings, part, text
from router.problem import Problem
from router.schema import Strategy

_ACTION = re.compile(r"\{\{(?:(?!\{\{|\}\}).)*\}\}", re.DOTALL)  # never tried past the next one: linear
_WEIGHT = re.compile(r"\{\{-?\s*(?:\(\s*)?index\s+\$?\.Weights\s+(\d+)(?:\s*\))?\s*-?\}\}")
MAX_TEMPLATE = 32 * 1024
MAX_BRACKETS = 1_000
_MARK = "weight-of-"
_LEFT_OVER = "template-action"
_BRANCH = "branch"


@dataclass(frozen=True, slots=True)
class Routing:
    """What a template wants; indexes are those of the routemap's versions.

    `mirrors` holds the percentage of each copy, None where it is the version's weight. `paths` holds what a request's
    path is rewritten to.
    """

    template: str
    strategy: Strategy
    hosts: tuple[str, ...] = ()
    matches: Mapping[int, list[dict[str, Any]]] = field(default_factory=dict)
    mirrors: Mapping[int, float | None] = field(default_factory=dict)
    paths: Mapping[int, str] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The sentence for users."""
        equal = {
            Strategy.BLUE_GREEN: "split by weights",
            Strategy.CANARY: "candidates by match",
            Strategy.MIRROR: "candidates get copies",
            Strategy.NONE: "all traffic to the primary",
        }
        return (
            f"routing template {self.template!r} is not rendered, routes are computed: "
            f"strategy {self.strategy.value} ({equal[self.strategy]})"
        )


def routing(
    name: str, template: str, versions: Sequence[str], where: str, at: str
) -> tuple[Routing, tuple[Problem, ...]]:
    """Read one template; `versions` are the versions' names in order, by which routes are told apart."""
    manifest = _manifest(template)
    entries = _entries(manifest)
    if not entries:
        return Routing(name, _by_words(template)), ()
    hosts = tuple(one for one in _hosts(manifest) if _LEFT_OVER not in one)
    problems: list[Problem] = []
    split = any(_is_split(one) for one in entries)
    found: dict[int, list[dict[str, Any]]] = {}
    copies: dict[int, float | None] = {}
    paths: dict[int, str] = {}
    for order, entry in enumerate(entries, start=1):
        index = _version(entry, versions)
        rewritten = text(entry, "rewrite", "uri")
        if rewritten and index is not None:
            paths[index] = rewritten
        copies |= dict(_copies(entry, versions))
        raw = part(entry, "match") if "match" in entry else part(entry, "matches")
        if raw is None or (split and _is_branch(raw)):
            continue
        index = order if index is None else index
        if not 0 < index < len(versions):
            continue  # the primary needs no match: it serves what is left
        made, complaints = matches(raw, where, f"{at}.match")
        problems += complaints
        found[index] = [*found.get(index, []), *made]
    strategy = _strategy(split, found, copies, entries)
    return Routing(name, strategy, hosts, found, copies, paths), tuple(problems)


def _strategy(split: bool, found: Mapping[int, Any], copies: Mapping[int, Any], entries: Sequence[Object]) -> Strategy:
    if copies or any("mirror" in one for one in entries):
        return Strategy.MIRROR
    if split:
        return Strategy.BLUE_GREEN
    return Strategy.CANARY if found or any("matches" in one or "match" in one for one in entries) else Strategy.NONE


def _by_words(template: str) -> Strategy:
    if re.search(r"\bmirror(s|Percentage|_percent)?\s*:|RequestMirror", template):
        return Strategy.MIRROR
    if re.search(r"\bweight\s*:", template):
        return Strategy.BLUE_GREEN
    return Strategy.CANARY if re.search(r"\bmatch(es)?\s*:", template) else Strategy.NONE


def _manifest(template: str) -> Any:
    if len(template) > MAX_TEMPLATE:
        return None
    plain = _WEIGHT.sub(rf"{_MARK}\1", template)
    lines = [one for one in plain.splitlines() if "{{" not in one or _ACTION.sub("", one).strip()]
    plain = _ACTION.sub(_LEFT_OVER, "\n".join(lines))
    if plain.count("{") + plain.count("[") > MAX_BRACKETS:
        return None  # deep nesting is slow to refuse
    try:
        return yaml.load(plain, Loader=_Tolerant)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


class _Several(list[Any]):
    """The values of a key that was written several times: one entry per candidate's copy."""


class _Tolerant(yaml.SafeLoader):
    """Keeps every value of a repeated key, which the charts write for more than one copy."""

    def construct_repeated(self, node: yaml.MappingNode) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                continue
            value = self.construct_object(value_node, deep=True)
            made[key] = _Several([*_several(made[key]), value]) if key in made else value
        return made


_Tolerant.add_constructor("tag:yaml.org,2002:map", _Tolerant.construct_repeated)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, _Several) else [value]


def _entries(manifest: Any) -> list[Object]:
    """The http entries of a VirtualService, the rules of an HTTPRoute."""
    return [*mappings(manifest, "spec", "http"), *mappings(manifest, "spec", "rules")]


def _hosts(manifest: Object) -> Iterator[str]:
    for key in ("hosts", "hostnames"):
        listed = part(manifest, "spec", key)
        if isinstance(listed, list):
            yield from (one for one in listed if isinstance(one, str))


def _arms(entry: Object) -> list[Object]:
    return [*mappings(entry, "route"), *mappings(entry, "backendRefs")]


def _is_split(entry: Object) -> bool:
    """Whether an entry shares requests out; a lone arm's weight says nothing, and Iter8's mirror chart writes one."""
    arms = _arms(entry)
    return len(arms) > 1 and any("weight" in one for one in arms)


def _is_branch(raw: Any) -> bool:
    """The second pass of the KServe charts: a request that has been given its version, and comes by again."""
    entries = mappings(raw)
    return bool(entries) and all(set(one) == {"headers"} and set(one["headers"] or ()) == {_BRANCH} for one in entries)


def _copies(entry: Object, versions: Sequence[str]) -> Iterator[tuple[int, float | None]]:
    if "mirror" in entry:
        targets, percents = _several(entry["mirror"]), _several(entry.get("mirrorPercentage"))
        for order, target in enumerate(targets):
            percent, weighed = _percent(part(percents[order] if order < len(percents) else None, "value"))
            index = weighed if weighed is not None else _named(_host_names(text(target, "host")), versions)
            shared = index is None or index == 0  # a shared server: its name does not tell the versions apart
            yield (order + 1 if shared or index is None else index), percent
    for order, one in enumerate(mappings(entry, "mirrors")):
        percent, weighed = _percent(part(one, "percentage", "value"))
        index = weighed if weighed is not None else _named(_host_names(text(one, "destination", "host")), versions)
        yield (index if index else order + 1), percent
    mirrored = [one for one in mappings(entry, "filters") if one.get("type") == "RequestMirror"]
    for order, one in enumerate(mirrored):
        percent, weighed = _percent(part(one, "requestMirror", "percent"))
        index = weighed or _named([text(one, "requestMirror", "backendRef", "name")], versions)
        yield (index if index else order + 1), percent


def _percent(raw: Any) -> tuple[float | None, int | None]:
    """A percentage as far as the text shows it, and the version whose weight it is otherwise."""
    if isinstance(raw, str) and raw.startswith(_MARK):
        return None, int(raw.removeprefix(_MARK))
    if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 < raw <= 100:
        return float(raw), None
    return (100.0 if raw is None else None), None


def _version(entry: Object, versions: Sequence[str]) -> int | None:
    """The one version that an entry sends its requests to, by any of the names that the charts leave in it."""
    arms = _arms(entry)
    if len(arms) != 1:
        return _named([text(entry, "name")], versions)
    arm = arms[0]
    names: list[str] = []
    for scope in (arm, entry):
        request, response = part(scope, "headers", "request", "set"), part(scope, "headers", "response", "add")
        names += [text(request, "mm-vmodel-id"), *_host_names(text(request, "Host") or text(request, "host"))]
        names += [text(response, "app-version"), text(response, "mm-vmodel-id")]
        if "mirror" in entry:
            break  # the entry's own headers are the copy's
    names += [*_host_names(text(arm, "destination", "host")), text(arm, "name"), text(entry, "name")]
    return _named(names, versions)


def _host_names(host: str) -> list[str]:
    first = host.split(".")[0]
    return [first, first.removesuffix("-predictor-default"), first.removesuffix("-predictor")]


def _named(names: Sequence[str], versions: Sequence[str]) -> int | None:
    return next((versions.index(one) for one in names if one and one in versions), None)
