"""A template's text as pieces: literal text, and actions as rows of tokens, blanks trimmed where {{- -}} ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loadgen.experiment.gotemplate.fault import TemplateFault

Kind = Literal["field", "variable", "dot", "name", "string", "number", "bool", "nil", "sign"]

_TOKEN = re.compile(
    r"""
    (?P<blank>\s+)
    | (?P<raw>`[^`]*`)
    | (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<char>'(?:[^'\\\n]|\\.)+')
    | (?P<variable>\$\w*)
    | (?P<field>\.[^\W\d]\w*)
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))
    | (?P<dot>\.)
    | (?P<name>[^\W\d]\w*)
    | (?P<sign>:=|=|\||\(|\)|,)
    """,
    re.VERBOSE,
)
_ACTION = re.compile(r"\{\{(-(?=\s))?")
_COMMENT = re.compile(r"\s*/\*.*?\*/\s*?(?P<trim>\s-)?\}\}", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


@dataclass(frozen=True, slots=True)
class Token:
    """`value` is what a literal stands for, else the text; `glued`: no blank comes before it."""

    kind: Kind
    text: str
    value: object
    line: int
    glued: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Literal `text`, or an action's `tokens`."""

    line: int
    text: str = ""
    tokens: tuple[Token, ...] | None = None


def pieces(source: str) -> Iterator[Piece]:
    """Raises TemplateFault."""
    at, line, trim = 0, 1, False
    while at < len(source):
        opened = _ACTION.search(source, at)
        text = source[at : opened.start()] if opened else source[at:]
        began = line
        line += text.count("\n")
        kept = text.lstrip() if trim else text
        if opened and opened[1]:
            kept = kept.rstrip()
        if kept:
            yield Piece(began, kept)
        if opened is None:
            return
        if comment := _COMMENT.match(source, opened.end()):
            line += comment[0].count("\n")
            at, trim = comment.end(), bool(comment["trim"])
            continue
        tokens, at, trim, ended = _action(source, opened.end(), line)
        yield Piece(line, tokens=tokens)
        line = ended


def _action(source: str, at: int, line: int) -> tuple[tuple[Token, ...], int, bool, int]:
    """The tokens up to }}, where the text goes on, whether its blanks are trimmed, and the line there."""
    tokens: list[Token] = []
    began, glued = line, False
    while True:
        if source.startswith("}}", at):
            return tuple(tokens), at + 2, False, line
        if source.startswith("-}}", at) and not glued:
            return tuple(tokens), at + 3, True, line
        found = _TOKEN.match(source, at)
        if at >= len(source):
            raise TemplateFault("'{{' without '}}'", began)
        if found is None:
            raise TemplateFault(f"unexpected {source[at : at + 10].splitlines()[0]!r} in an action", line)
        if found.lastgroup != "blank":
            tokens.append(_token(found, line, glued))
        glued = found.lastgroup != "blank"
        line += found[0].count("\n")
        at = found.end()


def _token(found: re.Match[str], line: int, glued: bool) -> Token:
    text, kind = found[0], found.lastgroup
    match kind:
        case "raw":
            return Token("string", text, text[1:-1], line, glued)
        case "string":
            return Token("string", text, _unquoted(text[1:-1]), line, glued)
        case "char":
            return Token("number", text, ord(_unquoted(text[1:-1])), line, glued)
        case "number":
            return Token("number", text, _number(text, line), line, glued)
        case "name" if text in ("true", "false"):
            return Token("bool", text, text == "true", line, glued)
        case "name" if text == "nil":
            return Token("nil", text, None, line, glued)
        case "field":
            return Token("field", text, text[1:], line, glued)
        case "variable":
            return Token("variable", text, text, line, glued)
        case "dot":
            return Token("dot", text, text, line, glued)
        case "name":
            return Token("name", text, text, line, glued)
    return Token("sign", text, text, line, glued)


def _number(text: str, line: int) -> int | float:
    try:
        return int(text, 0) if not re.fullmatch(r"[+-]?0\d+", text) else int(text, 8)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise TemplateFault(f"{text!r} is not a number", line) from None


def _unquoted(text: str) -> str:
    def escaped(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        if code[0] in "01234567":
            return chr(int(code, 8))
        return _ESCAPES.get(code, code)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", escaped, text)
