"""The tree of a template: nodes that are rendered in turn, and pipelines that yield a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadgen.experiment.gotemplate.fault import TemplateFault
from loadgen.experiment.gotemplate.lex import Piece, Token, pieces

MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Literal_:
    value: object


@dataclass(frozen=True, slots=True)
class Field:
    """`base` (None: the dot) and the names after it: .a.b, $x.a, (f).a."""

    base: Operand | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    name: str


@dataclass(frozen=True, slots=True)
class Name:
    """A function."""

    name: str


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands whose value is the last argument of the next; `declared` variables take the last one's value."""

    commands: tuple[tuple[Operand, ...], ...]
    line: int
    declared: tuple[str, ...] = ()
    assigns: bool = False


Operand = Literal_ | Field | Variable | Name | Pipeline


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    kind: Literal["if", "with", "range"]
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """{{ template "name" pipeline }}"""

    name: str
    pipeline: Pipeline | None
    line: int


@dataclass(frozen=True, slots=True)
class Leave:
    kind: Literal["break", "continue"]


Node = Text | Action | Branch | Call | Leave


@dataclass(frozen=True, slots=True)
class Tree:
    body: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]]


def parse(source: str) -> Tree:
    """Raises TemplateFault."""
    parser = _Parser(list(pieces(source)))
    body, ended = parser.nodes(0)
    if ended is not None:
        raise TemplateFault(f"unexpected {{{{{ended[0].text}}}}}", ended[0].line)
    return Tree(body, parser.defined)


class _Parser:
    def __init__(self, source: list[Piece]) -> None:
        self._pieces = source
        self._at = 0
        self.defined: dict[str, tuple[Node, ...]] = {}

    def nodes(self, depth: int) -> tuple[tuple[Node, ...], tuple[Token, ...] | None]:
        """Nodes up to an {{end}} or {{else}}, and its tokens; None at the end of the text."""
        if depth > MAX_DEPTH:
            raise TemplateFault(f"nested more than {MAX_DEPTH} levels deep", self._pieces[self._at - 1].line)
        found: list[Node] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if piece.tokens is None:
                found.append(Text(piece.text))
                continue
            tokens = piece.tokens
            if not tokens:
                raise TemplateFault("an action is empty", piece.line)
            word = tokens[0].text if tokens[0].kind == "name" else ""
            if word in ("end", "else"):
                return tuple(found), tokens
            found += self._node(word, tokens, depth)
        return tuple(found), None

    def _node(self, word: str, tokens: tuple[Token, ...], depth: int) -> list[Node]:
        line = tokens[0].line
        match word:
            case "if" | "with" | "range":
                return [self._branch(word, tokens, depth)]
            case "define" | "block":
                name = _quoted(tokens, 1)
                body, ended = self.nodes(depth + 1)
                _must_end(ended, line, word)
                self.defined[name] = body
                if word == "define":
                    return []
                return [Call(name, _pipeline(tokens[2:], line), line)]
            case "template":
                rest = tokens[2:]
                return [Call(_quoted(tokens, 1), _pipeline(rest, line) if rest else None, line)]
            case "break":
                return [Leave("break")]
            case "continue":
                return [Leave("continue")]
        return [Action(_pipeline(tokens, line))]

    def _branch(self, word: Literal["if", "with", "range"], tokens: tuple[Token, ...], depth: int) -> Branch:
        line = tokens[0].line
        pipeline = _pipeline(tokens[1:], line, ranged=word == "range")
        body, ended = self.nodes(depth + 1)
        otherwise: tuple[Node, ...] = ()
        if ended is not None and ended[0].text == "else":
            if len(ended) > 1:  # {{else if x}} is {{else}}{{if x}}, with one {{end}} for both
                inner = ended[1].text
                if inner not in ("if", "with"):
                    raise TemplateFault(f"unexpected {inner!r} after else", ended[1].line)
                return Branch(word, pipeline, body, (self._branch(inner, ended[1:], depth + 1),))  # type: ignore[arg-type]
            otherwise, ended = self.nodes(depth + 1)
        _must_end(ended, line, word)
        return Branch(word, pipeline, body, otherwise)


def _must_end(ended: tuple[Token, ...] | None, line: int, word: str) -> None:
    if ended is None or ended[0].text != "end" or len(ended) > 1:
        raise TemplateFault(f"{{{{{word}}}}} without its {{{{end}}}}", line)


def _quoted(tokens: Sequence[Token], index: int) -> str:
    if len(tokens) <= index or tokens[index].kind != "string":
        raise TemplateFault(f"{tokens[0].text} takes a name in quotes", tokens[0].line)
    return str(tokens[index].value)


def _pipeline(tokens: Sequence[Token], line: int, *, ranged: bool = False) -> Pipeline:
    reader = _Reader(tokens, line)
    declared, assigns = reader.declarations(ranged)
    made = reader.pipeline()
    if reader.left:
        raise TemplateFault(f"unexpected {reader.left[0].text!r}", line)
    return Pipeline(made.commands, line, declared, assigns)


class _Reader:
    """The tokens of one action."""

    def __init__(self, tokens: Sequence[Token], line: int) -> None:
        self.left = list(tokens)
        self._line = line
        self._depth = 0

    def declarations(self, ranged: bool) -> tuple[tuple[str, ...], bool]:
        signs = [index for index, one in enumerate(self.left) if one.text in (":=", "=") and one.kind == "sign"]
        if not signs:
            return (), False
        head = self.left[: signs[0]]
        names = [one.text for one in head if one.kind == "variable"]
        commas = [one for one in head if one.text == ","]
        most = 2 if ranged else 1
        if len(names) + len(commas) != len(head) or not 1 <= len(names) <= most or len(commas) != len(names) - 1:
            raise TemplateFault(f"{self.left[signs[0]].text} takes a variable before it", self._line)
        assigns = self.left[signs[0]].text == "="
        del self.left[: signs[0] + 1]
        return tuple(names), assigns

    def pipeline(self) -> Pipeline:
        commands = [self._command()]
        while self.left and self.left[0].text == "|":
            self.left.pop(0)
            commands.append(self._command())
        return Pipeline(tuple(commands), self._line)

    def _command(self) -> tuple[Operand, ...]:
        found: list[Operand] = []
        while self.left and not (self.left[0].kind == "sign" and self.left[0].text in ("|", ")")):
            found.append(self._operand())
        if not found:
            raise TemplateFault("a value or a function is missing", self._line)
        if len(found) > 1 and isinstance(found[0], Literal_):
            raise TemplateFault("a literal cannot be called", self._line)
        return tuple(found)

    def _operand(self) -> Operand:
        token = self.left.pop(0)
        made: Operand
        match token.kind:
            case "string" | "number" | "bool" | "nil":
                return Literal_(token.value)
            case "name":
                return Name(token.text)
            case "variable":
                made = Variable(token.text)
            case "dot":
                return Field(None, ())
            case "field":
                return Field(None, (str(token.value), *self._names()))
            case _ if token.text == "(":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    raise TemplateFault(f"nested more than {MAX_DEPTH} levels deep", self._line)
                made = self.pipeline()
                self._depth -= 1
                if not self.left or self.left.pop(0).text != ")":
                    raise TemplateFault("'(' without ')'", self._line)
            case _:
                raise TemplateFault(f"unexpected {token.text!r}", self._line)
        names = self._names()
        return Field(made, names) if names else made

    def _names(self) -> tuple[str, ...]:
        found = []
        while self.left and self.left[0].kind == "field" and self.left[0].glued:
            found.append(str(self.left.pop(0).value))
        return tuple(found)
