"""Templates of bodies and headers: Jinja2 in its sandbox, for texts that differ from request to request.

They take {{ seq }} (the number of the request, from 0), {{ user }}, {{ uuid }}, {{ random }} (a number from 0 to 1),
{{ now }} (UTC, ISO 8601), randint(LOW, HIGH), choice(LIST) and the columns of a feed. What is random follows from the
seed and the request's number, but for {{ uuid }}, which is never the same twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, TypeVar
from uuid import uuid4

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NAMES = ("seq", "user", "uuid", "random", "now")
FUNCTIONS = ("randint", "choice")

Item = TypeVar("Item")
_MASK = (1 << 64) - 1
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


class Unusable(ValueError):
    """A template that cannot be read, or not filled in; its text is for the user."""


class Chances:
    """Random numbers that are the same for the same seed and request, on whichever machine it is sent."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, seq: int) -> None:
        self._state = _mixed(seed * 0x9E3779B97F4A7C15 + seq)

    def whole(self) -> int:
        """64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return _mixed(self._state)

    def random(self) -> float:
        return (self.whole() >> 11) / (1 << 53)

    def randint(self, low: int, high: int) -> int:
        """Both ends belong to it."""
        if high < low:
            raise Unusable(f"randint({low}, {high}): there is no number between them")
        return low + self.whole() % (high - low + 1)

    def choice(self, items: Sequence[Item]) -> Item:
        if not items:
            raise Unusable("choice([]): there is nothing to choose from")
        return items[self.whole() % len(items)]


def _mixed(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Moment(Mapping[str, Any]):
    """What templates of one request may name; made when it is asked for, and the same in its body and its headers."""

    __slots__ = ("_chances", "_known", "_row")

    def __init__(self, seq: int, user: str, seed: int, row: Mapping[str, str]) -> None:
        self._known: dict[str, Any] = {"seq": seq, "user": user}
        self._chances = Chances(seed, seq)
        self._row = row

    def __getitem__(self, name: str) -> Any:
        value = self._known.get(name)
        if value is None:
            value = self._row.get(name)
            if value is None:
                value = self._known[name] = self._make(name)
        return value

    def _make(self, name: str) -> Any:
        if name == "uuid":
            return str(uuid4())
        if name == "random":
            return self._chances.random()
        if name == "now":
            return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if name in FUNCTIONS:
            return getattr(self._chances, name)
        raise Unusable(f"this row of the feed has no column {name}")

    def __iter__(self) -> Iterator[str]:
        return iter((*NAMES, *FUNCTIONS, *self._row))

    def __len__(self) -> int:
        return len(NAMES) + len(FUNCTIONS) + len(self._row)


class Template:
    """A text with its names found. `names`: what it takes; Unusable is raised for what it cannot have."""

    __slots__ = ("_render", "names")

    def __init__(self, text: str, columns: Collection[str] = ()) -> None:
        try:
            tree = _ENVIRONMENT.parse(text)
            self.names = frozenset(meta.find_undeclared_variables(tree))
            compiled = _ENVIRONMENT.from_string(tree)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise Unusable(f"the template cannot be read{f' (line {line})' if line else ''}: {error}") from None
        known = {*NAMES, *FUNCTIONS, *columns}
        unknown = sorted(self.names - known)
        if unknown:
            raise Unusable(_no_such_name(unknown, known, columns))
        self._render = _joined(tree) or self._by_jinja(compiled)

    def render(self, moment: Mapping[str, Any]) -> str:
        """Raises Unusable."""
        return self._render(moment)

    def _by_jinja(self, compiled: Any) -> Callable[[Mapping[str, Any]], str]:
        names = self.names

        def render(moment: Mapping[str, Any]) -> str:
            try:
                return str(compiled.render({name: moment[name] for name in names}))
            except Unusable:
                raise
            except Exception as error:  # whatever the user's expressions do
                raise Unusable(f"the template cannot be filled in: {type(error).__name__}: {error}") from None

        return render


def _no_such_name(unknown: Sequence[str], known: Collection[str], columns: Collection[str]) -> str:
    said = []
    for name in unknown:
        near = get_close_matches(name, known, 1)
        said.append(f"{{{{ {name} }}}}" + (f" (did you mean {near[0]}?)" if near else ""))
    has = ", ".join((*NAMES, *FUNCTIONS))
    rows = f", and the feed's columns {', '.join(columns)}" if columns else "; columns need a feed"
    return f"nothing is called {', '.join(said)}: there are {has}{rows}"


def _joined(tree: nodes.Template) -> Callable[[Mapping[str, Any]], str] | None:
    """The same as Jinja does, ten times as fast, for templates that hold nothing but texts and names."""
    parts: list[tuple[str, bool]] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if isinstance(node, nodes.TemplateData):
                parts.append((node.data, False))
            elif isinstance(node, nodes.Name):
                parts.append((node.name, True))
            else:
                return None

    def render(moment: Mapping[str, Any]) -> str:
        return "".join([str(moment[text]) if named else text for text, named in parts])

    return render
