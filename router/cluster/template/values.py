"""Reading chart values: typed access with defaults, and every mistake collected with its field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from router.hints import nearest
from router.problem import Problem, Severity
from router.schema import MAX_WEIGHT
from router.values import shown

WHERE = "values"


class Values:
    """One mapping of the values; `at` is its path. All of them share one list of problems."""

    def __init__(self, raw: Mapping[str, Any], at: str = "", problems: list[Problem] | None = None) -> None:
        self.raw = raw
        self.at = at
        self.problems: list[Problem] = [] if problems is None else problems

    def say(self, key: str, what: str, hint: str = "", severity: Severity = "error") -> None:
        self.problems.append(Problem(WHERE, self.field(key), what, hint, severity))

    def field(self, key: str) -> str:
        return ".".join(part for part in (self.at, key) if part)

    def has(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def text(self, key: str, default: str = "") -> str:
        value = self.raw.get(key)
        if value is None or value == "":
            return default
        if not isinstance(value, str):
            self.say(key, f"must be text, not {shown(value)}", "put it in quotes")
            return default
        return value

    def needed(self, key: str, hint: str) -> str:
        if self.raw.get(key) in (None, ""):
            self.say(key, f"{key} is required", hint)
        return self.text(key)

    def whole(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number, also as text, as Helm's --set-string leaves it. 0 is a value like others."""
        value = self.raw.get(key)
        if value is None:
            return default
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self.say(key, f"must be a whole number, not {shown(value)}", "write digits only")
            return default
        if not low <= value <= high:
            self.say(key, f"{value} is out of range", f"give {low} to {high:,}")
            return default
        return value

    def weight(self, default: int) -> int:
        found = self.whole("weight", default, 0, MAX_WEIGHT)
        return default if found is None else found

    def port(self, key: str = "port") -> int | None:
        return self.whole(key, None, 1, 65535)

    def part(self, key: str) -> Values:
        """The mapping under a key; an empty one where there is none."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, Mapping):
            self.say(key, f"must be a mapping, not {shown(value)}", "write its fields as name: value")
        return Values(value if isinstance(value, Mapping) else {}, self.field(key), self.problems)

    def parts(self, key: str) -> list[Values]:
        value = self.raw.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.say(key, f"must be a list, not {shown(value)}", "start each entry with '- '")
            return []
        found = []
        for index, one in enumerate(value):
            at = f"{key}[{index}]"
            if not isinstance(one, Mapping | None):
                self.say(at, f"must be a mapping, not {shown(one)}", "write its fields as name: value")
            found.append(Values(one if isinstance(one, Mapping) else {}, self.field(at), self.problems))
        return found

    def strings(self, key: str) -> dict[str, str]:
        """Labels or annotations."""
        found = {}
        for name, value in self.part(key).raw.items():
            if isinstance(value, str):
                found[str(name)] = value
            else:
                self.say(f"{key}.{name}", f"must be text, not {shown(value)}", "put it in quotes")
        return found

    def choice(self, key: str, known: Sequence[str], failure: str = "", default: str = "") -> str:
        """One of `known`; `failure` is what Iter8 says otherwise. Empty when it is not."""
        value = self.text(key, default)
        if value in known:
            return value
        near = nearest(value, known) if value else None
        hint = f"did you mean {near!r}?" if near else f"use one of {', '.join(known)}"
        self.say(key, failure or (f"{shown(value)} is not known" if value else f"{key} is required"), hint)
        return ""

    def known(self, *keys: str) -> None:
        """Warn of every other key: Helm takes a misspelt value without a word."""
        for key in self.raw:
            if key not in keys:
                near = nearest(str(key), keys)
                hint = f"did you mean {near!r}?" if near else f"known here: {', '.join(keys)}"
                self.say(str(key), "is not read", hint, "warning")
