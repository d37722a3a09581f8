"""YAML documents as plain values, with the line of every part.

PyYAML's C parser makes the nodes; the values are built here, because its own constructor is slow, lets duplicate keys
pass and writes aliases out without a limit. Deep nesting is refused before the parser sees it: it would crash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml

from router.hints import path_text
from router.problem import Problem

MAX_VALUES = 200_000
"""Values that one document may hold, aliases written out; a file of 10,000 lines has about 30,000."""

MAX_DEPTH = 64
MAX_BYTES = 16 * 1024 * 1024

_MANY = 200
_INDENTED = re.compile(rf"[ \t?:-]{{{_MANY}}}").search
_TAG = "tag:yaml.org,2002:"

Place = tuple[int | str, ...]
"""The way to a part: keys and indexes."""

Fault = tuple[int, str, str, str]
"""Line, field, what is wrong, what to do."""


def decode(data: bytes, where: str) -> str | Problem:
    """The text of a file, or what keeps it from being one."""
    if len(data) > MAX_BYTES:
        return Problem(where, "", f"the file has {len(data):,} bytes", f"at most {MAX_BYTES:,} are read; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return Problem(
            f"{where}:{line}",
            "",
            f"the file is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}",
            "save it as UTF-8",
        )


def documents(text: str, where: str) -> Iterator[Document | Problem]:
    """Every document of a text; where it breaks off, a problem ends the row."""
    try:
        if line := _too_deep(text):
            yield _too_nested(where, line)
            return
        loader = _Loader(text)
    except yaml.YAMLError as error:
        yield _broken(error, where)
        return
    try:
        while loader.check_node():
            if (root := loader.get_node()) is not None:
                yield Document(root)
    except yaml.YAMLError as error:
        yield _broken(error, where)
    finally:
        loader.dispose()


class Document:
    """One YAML document: its plain value, and the line of each part of it."""

    def __init__(self, root: yaml.Node) -> None:
        self._root = root
        self._left = MAX_VALUES
        self._faults: list[Fault] = []

    def build(self) -> tuple[Any, list[Fault]]:
        """The value, and what YAML let pass but we do not: (line, field, what, hint)."""
        try:
            return self._build(self._root, ()), self._faults
        except _TooLarge as error:
            return None, [(self.line(()), "", str(error), "write it with fewer aliases, or split it")]

    def line(self, place: Place) -> int:
        """The line where this part stands, or of the nearest part around it."""
        node = self._root
        line: int = node.start_mark.line
        for part in place:
            found = _part(node, part)
            if found is None:
                break
            line, node = found
        return line + 1

    def _build(self, node: yaml.Node, place: Place) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooLarge(f"the document holds more than {MAX_VALUES:,} values, aliases written out")
        if len(place) > MAX_DEPTH:
            raise _TooLarge(f"the document is nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, place)

    def _mapping(self, node: yaml.Node, place: Place) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag == _TAG + "merge":
                for name, value in self._merged(value_node, place):
                    built.setdefault(name, value)
                continue
            if not isinstance(key, str):
                self._fault(key_node, place, "a key is not plain text", "write name: value")
                continue
            if key in built and not self._from_merge(node, key, key_node):
                self._fault(key_node, (*place, key), f"key {key!r} is given twice", "keep one of them")
                continue
            value = self._build(value_node, (*place, key))
            if value is None:
                built.pop(key, None)  # as in Kubernetes, null is the same as leaving it out
            else:
                built[key] = value
        return built

    def _from_merge(self, node: yaml.Node, key: str, key_node: yaml.Node) -> bool:
        return all(other is key_node or other.value != key for other, _ in node.value)

    def _merged(self, node: yaml.Node, place: Place) -> Iterator[tuple[str, Any]]:
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(one, yaml.MappingNode):
                yield from self._build(one, (*place, "<<")).items()
            else:
                self._fault(one, place, "'<<' takes a mapping", "name an anchored mapping, such as *base")

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        value: str = node.value
        match node.tag.removeprefix(_TAG):
            case "str" | "timestamp" | "value":
                return value
            case "null":
                return None
            case "bool":
                return value.lower() in ("yes", "true", "on")
            case "int":
                return _whole(value)
            case "float":
                return _fraction(value)
            case "merge":
                return value
        self._fault(node, place, f"tag {node.tag!r} is not known", "remove it")
        return None

    def _fault(self, node: yaml.Node, place: Place, what: str, hint: str) -> None:
        self._faults.append((node.start_mark.line + 1, path_text(place), what, hint))


def _too_deep(text: str) -> int | None:
    """The line where nesting goes too far. The C composer recurses without a limit and would take the process down.

    Depth needs brackets, or indentation and indicators at the start of a line: texts with few of them need no look.
    """
    if text.count("[") + text.count("{") < _MANY and not _INDENTED(text):
        return None
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return int(event.start_mark.line) + 1  # type: ignore[union-attr]
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _too_nested(where: str, line: int) -> Problem:
    return Problem(f"{where}:{line}", "", f"YAML nested more than {MAX_DEPTH} levels deep", "nothing was read")


def _broken(error: yaml.YAMLError, where: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is not None and "maximum nesting depth" in reason:  # libyaml's own limit, met before any event is there
        return _too_nested(where, mark.line + 1)
    context = getattr(error, "context", None)
    what = f"broken YAML: {reason}" + (f" {context}" if context else "")
    if mark is None:
        position = getattr(error, "position", None)
        what += f" at offset {position}" if position is not None else ""
        return Problem(where, "", what, "nothing of the file was read")
    mend = "indent with blanks, not with tabs" if "cannot start any token" in what else "mend the line"
    return Problem(f"{where}:{mark.line + 1}:{mark.column + 1}", "", what, f"{mend}; nothing after it was read")


class _Loader(yaml.CSafeLoader):
    """The C parser with plain resolving: cached, and without the bookkeeping that path resolvers need."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode:
            return _scalar_tag(value) if implicit[0] else _TAG + "str"
        return _TAG + ("map" if kind is yaml.MappingNode else "seq")

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass


@lru_cache(maxsize=16_384)
def _scalar_tag(value: str) -> str:
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in (*resolvers.get(value[:1], ()), *resolvers.get(None, ())):
        if pattern.match(value):
            return str(tag)
    return _TAG + "str"


class _TooLarge(Exception):
    pass


def _whole(value: str) -> int | str:
    plain = value.replace("_", "")
    if ":" in plain or len(plain) > 64:
        return value  # YAML 1.1 reads 1:30 as ninety; nobody means that
    sign = -1 if plain.startswith("-") else 1
    digits = plain.lstrip("+-")
    if digits.startswith("0b"):
        return sign * int(digits[2:], 2)
    if digits.startswith("0x"):
        return sign * int(digits[2:], 16)
    if len(digits) > 1 and digits.startswith("0"):
        return sign * int(digits, 8)
    return sign * int(digits)


def _fraction(value: str) -> float | str:
    plain = value.replace("_", "").lower()
    if ":" in plain:
        return value
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))


def _part(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(part, int) and isinstance(node, yaml.SequenceNode) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line, item
    if isinstance(part, str) and isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.value == part:
                return key_node.start_mark.line, value_node
    return None
