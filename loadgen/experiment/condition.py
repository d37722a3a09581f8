"""`if` expressions of tasks: Iter8's subset of expr, read by hand. Parsed before anything runs, evaluated to a boolean.

or, ||   and, &&   not, !   == != < <= > >=   in   ( )   'text' "text" 12 3.5 true false nil   [1, 2]
Completed()  NoFailure()  SLOs()   result.failure  metadata.name  result.insights.numVersions  a[0]  a["key"]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from router.hints import nearest

FUNCTIONS = ("Completed", "NoFailure", "SLOs")
ROOTS = ("metadata", "spec", "result")
MAX_LENGTH = 10_000
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>\|\||&&|==|!=|<=|>=|<|>|!|\(|\)|\[|\]|\.|,|-)
    )""",
    re.VERBOSE,
)
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


class ConditionFault(Exception):
    """An expression that cannot be read, or whose value is not there or not a boolean."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Value:
    value: object


@dataclass(frozen=True, slots=True)
class Path:
    steps: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    function: str


@dataclass(frozen=True, slots=True)
class Row:
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    inner: Expression


@dataclass(frozen=True, slots=True)
class Joined:
    kind: Literal["and", "or"]
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Compared:
    sign: str
    left: Expression
    right: Expression


Expression = Value | Path | Asked | Row | Not | Joined | Compared


@dataclass(frozen=True, slots=True)
class Condition:
    """`text` is what the user wrote."""

    text: str
    expression: Expression

    def holds(self, document: Mapping[str, object], functions: Mapping[str, Callable[[], bool]]) -> bool:
        """Of the experiment as a document with metadata, spec and result. Raises ConditionFault."""
        found = _evaluate(self.expression, document, functions)
        if not isinstance(found, bool):
            raise ConditionFault(f"{self.text!r} is {_shown(found)}, not true or false")
        return found


def parse(text: str) -> Condition:
    """Raises ConditionFault."""
    if len(text) > MAX_LENGTH:
        raise ConditionFault(f"the expression has {len(text):,} characters", f"at most {MAX_LENGTH:,} are read")
    reader = _Reader(_tokens(text))
    expression = reader.either()
    if reader.left:
        raise ConditionFault(f"unexpected {reader.left[0][1]!r}")
    if isinstance(expression, Row) or (isinstance(expression, Value) and not isinstance(expression.value, bool)):
        raise ConditionFault("the expression is not true or false", "compare it with something")
    return Condition(text, expression)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None:
            raise ConditionFault(f"unexpected {text[at:].strip()[0]!r}")
        found.append((str(token.lastgroup), str(token[token.lastgroup or 0])))
        at = token.end()
    return found


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.left = tokens
        self._depth = 0

    def either(self) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ConditionFault(f"nested more than {MAX_DEPTH} levels deep")
        made = self._both()
        while self._take("or", "||"):
            made = Joined("or", made, self._both())
        self._depth -= 1
        return made

    def _both(self) -> Expression:
        made = self._negated()
        while self._take("and", "&&"):
            made = Joined("and", made, self._negated())
        return made

    def _negated(self) -> Expression:
        times = 0
        while self._take("not", "!"):
            times += 1
        made = self._comparison()
        return Not(made) if times % 2 else made

    def _comparison(self) -> Expression:
        left = self._operand()
        if sign := self._take(*_COMPARISONS, "in"):
            return Compared(sign, left, self._operand())
        if self.left[:2] == [("name", "not"), ("name", "in")]:
            del self.left[:2]
            return Not(Compared("in", left, self._operand()))
        return left

    def _operand(self) -> Expression:
        if not self.left:
            raise ConditionFault("the expression ends too early")
        kind, text = self.left.pop(0)
        match kind:
            case "number":
                return Value(float(text) if re.search(r"[.eE]", text) else int(text))
            case "string":
                return Value(re.sub(r"\\(.)", r"\1", text[1:-1]))
            case "name":
                return self._named(text)
        if text == "(":
            made = self.either()
            self._expect(")")
            return made
        if text == "[":
            return self._row()
        if text == "-" and self.left and self.left[0][0] == "number":
            value = self._operand()
            assert isinstance(value, Value)
            return Value(-value.value)  # type: ignore[operator]
        raise ConditionFault(f"unexpected {text!r}")

    def _row(self) -> Row:
        items: list[Expression] = []
        while not self._take("]"):
            if items:
                self._expect(",")
            items.append(self.either())
        return Row(tuple(items))

    def _named(self, name: str) -> Expression:
        if name in ("true", "false"):
            return Value(name == "true")
        if name in ("nil", "null"):
            return Value(None)
        if self.left and self.left[0][1] == "(":
            return self._asked(name)
        if name not in ROOTS:
            if name in FUNCTIONS:
                raise ConditionFault(f"{name} is a function", f"write {name}()")
            near = nearest(name, ROOTS) or nearest(name, FUNCTIONS)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(ROOTS)}, {'(), '.join(FUNCTIONS)}()"
            raise ConditionFault(f"{name!r} is not known", hint)
        steps: list[str | int] = [name]
        while self.left and self.left[0][1] in (".", "["):
            if self.left.pop(0)[1] == ".":
                kind, text = self._next()
                if kind != "name":
                    raise ConditionFault(f"unexpected {text!r} after '.'")
                steps.append(text)
            else:
                kind, text = self._next()
                if kind not in ("number", "string"):
                    raise ConditionFault(f"unexpected {text!r} in [ ]", "give a number or a text in quotes")
                steps.append(int(text) if kind == "number" and text.isdecimal() else text[1:-1])
                self._expect("]")
        return Path(tuple(steps))

    def _asked(self, name: str) -> Asked:
        if name not in FUNCTIONS:
            near = nearest(name, FUNCTIONS)
            hint = f"did you mean {near}()?" if near else f"known: {', '.join(f'{one}()' for one in FUNCTIONS)}"
            raise ConditionFault(f"function {name!r} is not known", hint)
        self._expect("(")
        if not self._take(")"):
            raise ConditionFault(f"{name}() takes no arguments")
        return Asked(name)

    def _next(self) -> tuple[str, str]:
        if not self.left:
            raise ConditionFault("the expression ends too early")
        return self.left.pop(0)

    def _take(self, *texts: str) -> str:
        if self.left and self.left[0][0] != "string" and self.left[0][1] in texts:
            return self.left.pop(0)[1]
        return ""

    def _expect(self, text: str) -> None:
        if not self._take(text):
            found = f"not {self.left[0][1]!r}" if self.left else "not the end"
            raise ConditionFault(f"{text!r} is expected, {found}")


def _evaluate(one: Expression, document: Mapping[str, object], functions: Mapping[str, Callable[[], bool]]) -> object:
    match one:
        case Value():
            return one.value
        case Path():
            return _follow(document, one.steps)
        case Asked():
            return functions[one.function]()
        case Row():
            return [_evaluate(each, document, functions) for each in one.items]
        case Not():
            return not _boolean(_evaluate(one.inner, document, functions), "not")
        case Joined():
            left = _boolean(_evaluate(one.left, document, functions), one.kind)
            if left == (one.kind == "or"):
                return left
            return _boolean(_evaluate(one.right, document, functions), one.kind)
        case Compared():
            return _compare(
                one.sign, _evaluate(one.left, document, functions), _evaluate(one.right, document, functions)
            )


def _boolean(value: object, word: str) -> bool:
    if not isinstance(value, bool):
        raise ConditionFault(f"{word} takes true or false, not {_shown(value)}")
    return value


def _follow(document: Mapping[str, object], steps: Sequence[str | int]) -> object:
    at: object = document
    for number, step in enumerate(steps):
        if isinstance(at, Mapping):
            at = at.get(step)
        elif isinstance(at, list | tuple):
            at = at[step] if isinstance(step, int) and 0 <= step < len(at) else None
        elif at is None:
            return None
        else:
            way = ".".join(str(each) for each in steps[: number + 1])
            raise ConditionFault(f"{way}: {_shown(at)} has no parts")
    return at


def _compare(sign: str, left: object, right: object) -> bool:
    if sign == "==":
        return left == right and isinstance(left, bool) == isinstance(right, bool)
    if sign == "!=":
        return not _compare("==", left, right)
    if sign == "in":
        if isinstance(right, Mapping | list | tuple) or (isinstance(right, str) and isinstance(left, str)):
            return left in right
        raise ConditionFault(f"in takes a list, not {_shown(right)}")
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    numbers = numbers and not isinstance(left, bool) and not isinstance(right, bool)
    if not numbers and not (isinstance(left, str) and isinstance(right, str)):
        raise ConditionFault(f"{_shown(left)} and {_shown(right)} cannot be compared with {sign}")
    below, same = bool(left < right), bool(left == right)  # type: ignore[operator]
    return {"<": below, "<=": below or same, ">": not below and not same, ">=": not below}[sign]


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
