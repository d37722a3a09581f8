"""A template and data in, text out. What is printed must be there: a missing value is a fault, not "<no value>"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from loadgen.experiment.gotemplate.fault import TemplateFault
from loadgen.experiment.gotemplate.parse import (
    MAX_DEPTH,
    Action,
    Branch,
    Call,
    Field,
    Leave,
    Literal_,
    Name,
    Node,
    Operand,
    Pipeline,
    Text,
    Variable,
    parse,
)
from loadgen.experiment.gotemplate.values import Misuse, printed, truth
from loadgen.experiment.gotemplate.vocabulary import FUNCTIONS

MAX_OUTPUT = 4 * 1024 * 1024
"""Characters; a template cannot fill the memory."""

_NOTHING = object()


class Template:
    """Raises TemplateFault when the text is no template."""

    def __init__(self, source: str) -> None:
        self._tree = parse(source)

    def render(self, data: object) -> str:
        """Raises TemplateFault."""
        run = _Run(self._tree.defined)
        variables: list[tuple[str, object]] = [("$", data)]
        run.nodes(self._tree.body, data, variables)
        return "".join(run.out)


class _Left(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Run:
    def __init__(self, defined: Mapping[str, tuple[Node, ...]]) -> None:
        self._defined = defined
        self._depth = 0
        self._size = 0
        self.out: list[str] = []

    def nodes(self, nodes: tuple[Node, ...], dot: object, variables: list[tuple[str, object]]) -> None:
        for node in nodes:
            match node:
                case Text():
                    self._write(node.text)
                case Action():
                    value = self._value(node.pipeline, dot, variables)
                    if not node.pipeline.declared:
                        self._write(self._shown(node.pipeline, value))
                case Branch():
                    with _scope(variables):
                        self._branch(node, dot, variables)
                case Call():
                    self._call(node.name, node.pipeline, dot, variables, node.line)
                case Leave():
                    raise _Left(node.kind)

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_OUTPUT:
            raise TemplateFault(f"it renders to more than {MAX_OUTPUT:,} characters")
        self.out.append(text)

    def _shown(self, pipeline: Pipeline, value: object) -> str:
        if value is None or value is _NOTHING:
            last = pipeline.commands[-1][0]
            what = f".{'.'.join(last.names)}" if isinstance(last, Field) and last.names else "what it prints"
            raise TemplateFault(f"{what} has no value", pipeline.line)
        return printed(value)

    def _branch(self, node: Branch, dot: object, variables: list[tuple[str, object]]) -> None:
        if node.kind == "range":
            self._range(node, dot, variables)
            return
        value = self._value(node.pipeline, dot, variables)
        if truth(value):
            self.nodes(node.body, value if node.kind == "with" else dot, variables)
        else:
            self.nodes(node.otherwise, dot, variables)

    def _range(self, node: Branch, dot: object, variables: list[tuple[str, object]]) -> None:
        bare = Pipeline(node.pipeline.commands, node.pipeline.line)
        rows = list(_rows(self._value(bare, dot, variables), node.pipeline.line))
        if not rows:
            self.nodes(node.otherwise, dot, variables)
            return
        names = node.pipeline.declared
        for key, value in rows:
            with _scope(variables):
                if len(names) == 1:
                    variables.append((names[0], value))
                elif names:
                    variables += [(names[0], key), (names[1], value)]
                try:
                    self.nodes(node.body, value, variables)
                except _Left as left:
                    if left.kind == "break":
                        return

    def _call(
        self, name: str, pipeline: Pipeline | None, dot: object, variables: list[tuple[str, object]], line: int
    ) -> None:
        body = self._defined.get(name)
        if body is None:
            raise TemplateFault(f"no template {name!r} is defined", line)
        data = self._value(pipeline, dot, variables) if pipeline is not None else None
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateFault(f"template {name!r} calls itself without end", line)
        self.nodes(body, data, [("$", data)])
        self._depth -= 1

    def _value(self, pipeline: Pipeline, dot: object, variables: list[tuple[str, object]]) -> object:
        value: object = _NOTHING
        for command in pipeline.commands:
            value = self._command(command, value, dot, variables, pipeline.line)
        for name in pipeline.declared:
            if pipeline.assigns:
                _assign(variables, name, value, pipeline.line)
            else:
                variables.append((name, value))
        return value

    def _command(
        self, command: tuple[Operand, ...], piped: object, dot: object, variables: list[tuple[str, object]], line: int
    ) -> object:
        head, *rest = command
        if not isinstance(head, Name):
            if rest or piped is not _NOTHING:
                raise TemplateFault("only functions take arguments", line)
            return self._operand(head, dot, variables, line)
        if head.name in ("and", "or"):
            return self._lazy(head.name, rest, piped, dot, variables, line)
        arguments = [self._operand(one, dot, variables, line) for one in rest]
        if piped is not _NOTHING:
            arguments.append(piped)
        return self._apply(head.name, arguments, line)

    def _apply(self, name: str, arguments: list[object], line: int) -> object:
        if name == "include":
            return self._included(arguments, line)
        function = FUNCTIONS.get(name)
        if function is None:
            raise TemplateFault(f"function {name!r} is not known", line)
        try:
            return function(*arguments)
        except Misuse as misuse:
            raise TemplateFault(f"{name}: {misuse}" if name != "fail" else str(misuse), line) from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, OverflowError) as error:
            raise TemplateFault(f"{name}: {error}", line) from None

    def _included(self, arguments: list[object], line: int) -> str:
        if len(arguments) != 2:
            raise TemplateFault("include takes a name and a value", line)
        kept, self.out = self.out, []
        try:
            data = arguments[1]
            whole = Pipeline(((Literal_(data),),), line)
            self._call(str(arguments[0]), whole, data, [], line)
            return "".join(self.out)
        finally:
            self.out = kept

    def _lazy(
        self,
        name: str,
        operands: list[Operand],
        piped: object,
        dot: object,
        variables: list[tuple[str, object]],
        line: int,
    ) -> object:
        """As Go does since 1.18: what decides is the last that is looked at."""
        values: Iterator[object] = (self._operand(one, dot, variables, line) for one in operands)
        found: object = _NOTHING
        for value in _chained(values, piped):
            found = value
            if truth(value) == (name == "or"):
                return value
        if found is _NOTHING:
            raise TemplateFault(f"{name} takes at least one value", line)
        return found

    def _operand(self, operand: Operand, dot: object, variables: list[tuple[str, object]], line: int) -> object:
        match operand:
            case Literal_():
                return operand.value
            case Variable():
                return _variable(variables, operand.name, line)
            case Field():
                base = dot if operand.base is None else self._operand(operand.base, dot, variables, line)
                for name in operand.names:
                    base = _field(base, name, line)
                return base
            case Pipeline():
                return self._value(operand, dot, variables)
            case Name():
                return self._apply(operand.name, [], line)


@contextmanager
def _scope(variables: list[tuple[str, object]]) -> Iterator[None]:
    depth = len(variables)
    try:
        yield
    finally:
        del variables[depth:]


def _chained(values: Iterator[object], piped: object) -> Iterator[object]:
    yield from values
    if piped is not _NOTHING:
        yield piped


def _rows(value: object, line: int) -> Iterator[tuple[object, object]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        yield from sorted(value.items(), key=lambda each: str(each[0]))
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        if value > MAX_OUTPUT:
            raise TemplateFault(f"range over {value} is too long", line)
        yield from enumerate(range(value))
    else:
        raise TemplateFault(f"cannot range over {printed(value)!r}", line)


def _field(base: object, name: str, line: int) -> object:
    if base is None:
        return None
    if isinstance(base, Mapping):
        return base.get(name)
    raise TemplateFault(f".{name}: {printed(base)!r} has no fields", line)


def _variable(variables: list[tuple[str, object]], name: str, line: int) -> object:
    for known, value in reversed(variables):
        if known == name:
            return value
    raise TemplateFault(f"variable {name} is not declared", line)


def _assign(variables: list[tuple[str, object]], name: str, value: object, line: int) -> None:
    for index in range(len(variables) - 1, -1, -1):
        if variables[index][0] == name:
            variables[index] = (name, value)
            return
    raise TemplateFault(f"variable {name} is not declared", line)
