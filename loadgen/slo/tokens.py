"""The words of an SLO: text in, tokens with their places out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from loadgen.slo.figures import Dimension

Kind = Literal["number", "word", "quoted", "compare", "sign", "end"]

# unit: (what it measures, how many of our base units it is). Base units are seconds, shares, 1/s and counts.
UNITS: dict[str, tuple[Dimension, float]] = {
    "us": ("time", 1e-6),
    "µs": ("time", 1e-6),
    "μs": ("time", 1e-6),
    "ms": ("time", 1e-3),
    "s": ("time", 1.0),
    "m": ("time", 60.0),
    "min": ("time", 60.0),
    "h": ("time", 3600.0),
    "%": ("share", 0.01),
    "/s": ("per second", 1.0),
    "req/s": ("per second", 1.0),
    "rps": ("per second", 1.0),
    "tok/s": ("per second", 1.0),
    "tokens/s": ("per second", 1.0),
}
# A run of these is a number with its unit where it can be read as one, and otherwise a name: v1.2-rc1, 2024-01.
_SCAN = re.compile(
    r"""(?P<blank>\s+)
      | (?P<compare><=|>=|≤|≥|<|>|==?|!=)
      | (?P<quoted>`[^`]*`|"[^"]*"|'[^']*')
      | (?P<run>[\w%/][\w%/.@-]*)
      | (?P<sign>&&|\|\||[-+*:.()])""",
    re.VERBOSE,
)
NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(\D*)")


@dataclass(frozen=True, slots=True)
class Token:
    """`at` counts characters from 0. A number has its `value` and its `unit` as written, maybe empty."""

    kind: Kind
    text: str
    at: int
    value: float = 0.0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Mistake(Exception):
    """What is wrong with the text at a place, and what to do."""

    at: int
    what: str
    hint: str = ""


def tokens(text: str) -> list[Token]:
    """All tokens and an "end". Raises Mistake where there is something that no SLO holds."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _SCAN.match(text, at)
        if match is None:
            if text[at] in "`\"'":
                raise Mistake(at, f"the quote {text[at]} is never closed", f"end the name with {text[at]}")
            raise Mistake(at, f"{text[at]!r} means nothing here", "quote names that hold unusual characters")
        word = match[0]
        match match.lastgroup:
            case "compare":
                found.append(Token("compare", {"≤": "<=", "≥": ">="}.get(word, word), at))
            case "quoted":
                found.append(Token("quoted", word[1:-1], at))
            case "sign":
                found.append(Token("sign", word, at))
            case "run":
                found.append(_run(word, at, found))
                if found[-1].kind == "word" and len(found) > 1 and _is_unit_of(found[-1], found[-2]):
                    unit, number = found.pop(), found.pop()
                    found.append(Token("number", number.text, number.at, number.value, unit.text))
        at = match.end()
    return [*found, Token("end", "", len(text))]


def _run(word: str, at: int, before: list[Token]) -> Token:
    written = NUMBER.fullmatch(word)
    after_name = bool(before) and before[-1].text in (".", ":")
    if written and not after_name and (not written[2] or written[2] in UNITS):
        return Token("number", word, at, float(written[1]), written[2])
    return Token("word", word, at)


def _is_unit_of(word: Token, before: Token) -> bool:
    """In `200 ms` the unit stands apart."""
    return before.kind == "number" and not before.unit and word.text in UNITS
