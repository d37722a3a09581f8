"""The language of SLOs: text in, `Slo` or problems out. docs/slo.md describes it for users.

    slos       := comparison ("&&" comparison)*
    comparison := sum ("<=" | "<" | ">=" | ">") sum
    sum        := term (("+" | "-") term)*
    term       := number [unit] | [number "*"] figure | figure "*" number
    figure     := [scenario ":"] [version "."] name

A version's unquoted name is whatever stands before the figure's own name, so v1.2-rc1.latency-p99 needs no quotes; a
`-` between blanks subtracts, inside a name it belongs to it. Both sides become subject OP factor * other + constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from loadgen.slo.figures import DURATIONS, SINGLE, Dimension, Unknown, figure
from loadgen.slo.objective import ALL, Operator, Reference, Slo
from loadgen.slo.tokens import NUMBER, UNITS, Mistake, Token, tokens
from router.problem import Problem

_FLIPPED: dict[Operator, Operator] = {"<=": ">=", "<": ">", ">=": "<=", ">": "<"}
_METRICS = "|".join(
    sorted({*DURATIONS, *SINGLE, "errors", "error", "timeouts", "timeout", "requests", "request", "e2e"}, key=len)[::-1]
)
_SCOPED = re.compile(rf"(?:(?P<scope>.+?)\.)?(?P<name>(?:{_METRICS})(?:[-./].*)?)")
_ITER8 = re.compile(r"(?:(?P<scope>.+?)\.)?(?:http|grpc)(?:-(?P<id>[^/]+))?/(?P<name>.+)")
_EXAMPLE = "such as latency-p99<=200ms, error-rate<=1%, v2.latency-p95<=1.2*v1.latency-p95"
_UNITS_OF: dict[Dimension, str] = {
    "time": "us, ms, s",
    "share": "%, or a share such as 0.01",
    "per second": "/s",
    "count": "none",
}
_A: dict[Dimension, str] = {"time": "a time", "share": "a share", "per second": "a rate", "count": "a count"}


def parse(text: str, where: str = "--slo") -> Slo | tuple[Problem, ...]:
    """One SLO, or all that is wrong with it. Of several joined by && the first; use parse_all for those."""
    slos, problems = parse_all((text,), where)
    return problems or slos[0]


def parse_all(texts: Iterable[str], where: str = "--slo") -> tuple[tuple[Slo, ...], tuple[Problem, ...]]:
    """All SLOs, and all problems of all texts."""
    slos: list[Slo] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            reader = _Reader(text, tokens(text))
            slos += reader.comparisons()
            mistakes = reader.mistakes
        except Mistake as mistake:
            mistakes = [mistake]
        problems += [Problem(where, f"{text!r} at {each.at + 1}", each.what, each.hint) for each in mistakes]
    return tuple(slos), tuple(problems)


@dataclass(frozen=True, slots=True)
class _Term:
    """`number` * `reference`, or the number alone, in `unit`'s base units."""

    number: float
    at: int
    reference: Reference | None = None
    iter8: bool = False
    dimension: Dimension | None = None  # of a number with a unit
    broken: bool = False  # the figure's name is wrong, which has been said

    def times(self, factor: float) -> _Term:
        return replace(self, number=self.number * factor)


@dataclass(slots=True)
class _Reader:
    text: str
    tokens: list[Token]
    place: int = 0
    mistakes: list[Mistake] = field(default_factory=list)

    def comparisons(self) -> list[Slo]:
        found = []
        while True:
            start = self._next().at
            slo = self._comparison(start)
            found += [slo] if slo is not None else []
            token = self._next()
            if token.kind == "end":
                return [] if self.mistakes else found
            if token.text == "||":
                raise Mistake(token.at, "SLOs cannot be joined by ||", "all of them have to hold: give one at a time")
            if token.kind == "compare":
                raise Mistake(token.at, "there is a second comparison", "join two by &&: 50ms<=a && a<=200ms")
            if token.text not in ("&&", "and"):
                raise Mistake(token.at, f"{token.text!r} is one word too many", _EXAMPLE)
            self.place += 1

    def _comparison(self, start: int) -> Slo | None:
        left = self._sum()
        token = self._next()
        if token.kind == "sign" and token.text in "().":
            raise Mistake(token.at, f"{token.text!r} cannot stand here", _EXAMPLE)
        if token.kind != "compare":
            raise Mistake(token.at, "a comparison is missing: <=, <, >= or >", _EXAMPLE)
        if token.text not in _FLIPPED:
            raise Mistake(token.at, f"{token.text!r} does not compare", "use <=, <, >= or >")
        self.place += 1
        right = self._sum()
        text = self.text[start : self._next().at].strip()
        terms = [*left, *(each.times(-1.0) for each in right)]
        if any(each.broken for each in terms):
            return None
        try:
            return _slo(text, terms, _operator(token.text), start)
        except Mistake as mistake:
            self.mistakes.append(mistake)
            return None

    def _sum(self) -> list[_Term]:
        sign = 1.0
        if self._next().text == "-" and self._next().kind == "sign":
            self.place += 1
            sign = -1.0
        terms = [self._term().times(sign)]
        while (token := self._next()).kind == "sign" and token.text in "+-":
            self.place += 1
            terms.append(self._term().times(1.0 if token.text == "+" else -1.0))
        return terms

    def _term(self) -> _Term:
        term = self._factor()
        while self._next().text == "*":
            self.place += 1
            factor = self._factor()
            term = self._product(term, factor)
        return term

    def _product(self, one: _Term, other: _Term) -> _Term:
        for figure_, number in ((one, other), (other, one)):
            if number.reference is None and not number.broken and number.dimension in (None, "share"):
                return figure_.times(number.number)
        raise Mistake(other.at, "only a number without a unit multiplies", "such as 1.2 or 120%")

    def _factor(self) -> _Term:
        token = self._next()
        if token.kind == "number":
            self.place += 1
            dimension, size = UNITS[token.unit] if token.unit else (None, 1.0)
            return _Term(token.value * size, token.at, dimension=dimension)
        if token.kind in ("word", "quoted"):
            return self._figure(token)
        if token.kind == "end":
            raise Mistake(token.at, "something is missing at the end", _EXAMPLE)
        raise Mistake(token.at, f"{token.text!r} cannot stand here", _EXAMPLE)

    def _figure(self, first: Token) -> _Term:
        scenario = version = None
        after = self.tokens[self.place + 1]
        if after.text == ":" and after.kind == "sign":
            scenario = first.text
            self.place += 2
            first = self._next()
        if first.kind == "quoted":
            version = first.text
            self.place += 1
            if self._next().text != ".":
                raise Mistake(self._next().at, f"what of {version!r}? A figure is missing", f"{version}.latency-p99")
            self.place += 1
            first = self._next()
        if first.kind != "word":
            raise Mistake(first.at, "the name of a figure is missing", _EXAMPLE)
        self.place += 1
        return self._reference(first, scenario, version)

    def _reference(self, token: Token, scenario: str | None, version: str | None) -> _Term:
        name, iter8 = token.text, _ITER8.fullmatch(token.text)
        if iter8:
            name, version, scenario = iter8["name"], version or iter8["scope"], scenario or iter8["id"]
        elif scoped := _SCOPED.fullmatch(token.text):
            name, version = scoped["name"], version or scoped["scope"]
        elif "." in token.text and version is None:
            version, _, name = token.text.rpartition(".")
        found = figure(name)
        if isinstance(found, Unknown) and (written := NUMBER.fullmatch(token.text)):
            unit = Mistake(
                token.at + len(written[1]), f"there is no unit {written[2]!r}", "there are us, ms, s, % and /s"
            )
            self.mistakes.append(unit)
            return _Term(1.0, token.at, broken=True)
        if isinstance(found, Unknown):
            at = token.at + len(token.text) - len(name)
            self.mistakes.append(Mistake(at, found.what, found.hint))
            return _Term(1.0, token.at, broken=True)
        if found.metric == "dropped" and version not in (None, ALL):
            at = token.at
            self.mistakes.append(
                Mistake(at, "what is dropped was never sent and names no version", "leave the version")
            )
            return _Term(1.0, token.at, broken=True)
        scenario = None if scenario in (ALL, "*") else scenario
        return _Term(1.0, token.at, Reference(found, version, scenario), iter8=bool(iter8))

    def _next(self) -> Token:
        return self.tokens[self.place]


def _slo(text: str, terms: list[_Term], operator: Operator, start: int) -> Slo:
    """Terms that are compared with 0, brought to subject OP factor * other + constant."""
    weights: dict[Reference, float] = {}
    for each in terms:
        if each.reference is not None:
            weights[each.reference] = weights.get(each.reference, 0.0) + each.number
    weights = {reference: weight for reference, weight in weights.items() if weight}
    if not weights:
        raise Mistake(start, "no figure is measured here", _EXAMPLE)
    if len(weights) > 2:
        raise Mistake(start, "three figures or more cannot be compared", "give several SLOs")
    (subject, own), *others = weights.items()
    dimension = subject.figure.dimension
    constant = -sum(_constant(each, terms, dimension) for each in terms if each.reference is None) / own + 0.0
    operator = _FLIPPED[operator] if own < 0 else operator
    if not others:
        _worth_asking(dimension, operator, constant, start)
        return Slo(text, subject, operator, constant)
    ((other, weight),) = others
    if other.figure.dimension != dimension:
        names = (subject.figure.name, _A[dimension], other.figure.name, _A[other.figure.dimension])
        raise Mistake(start, "{} is {}, and {} is {}".format(*names), "compare like with like")
    if (factor := -weight / own) < 0:
        raise Mistake(start, "a sum of two figures cannot be limited", "compare them, or limit each")
    return Slo(text, subject, operator, constant, other, factor)


def _constant(term: _Term, terms: list[_Term], dimension: Dimension) -> float:
    """The term's number in base units of the dimension."""
    if term.dimension == dimension or not term.number:
        return term.number
    if term.dimension is None:
        if dimension != "time":
            return term.number
        if any(each.iter8 for each in terms):
            return term.number / 1000
        number = abs(term.number)
        raise Mistake(term.at, f"{number:g} has no unit", f"{number:g}ms or {number:g}s?")
    if term.dimension == "per second" and any(
        each.reference is not None and each.reference.figure.metric in ("goodput", "errors") for each in terms
    ):
        raise Mistake(term.at, "this figure is a share, not a rate", "goodput-per-second is the rate")
    raise Mistake(
        term.at, f"the figure is {_A[dimension]}, and the limit {_A[term.dimension]}", f"units: {_UNITS_OF[dimension]}"
    )


def _worth_asking(dimension: Dimension, operator: Operator, constant: float, at: int) -> None:
    """Refuse limits that hold, or break, whatever is measured."""
    if constant < 0:
        raise Mistake(at, "no figure is ever below 0", "give a limit of 0 or more")
    if dimension == "share" and (constant > 1 or (constant == 1 and operator == "<=")):
        raise Mistake(
            at, f"a share is never above 1, and this limit is {constant:g}", f"{constant:g}% or {constant / 100:g}?"
        )
    if constant == 0 and operator in (">=", "<"):
        always = "always" if operator == ">=" else "never"
        raise Mistake(at, f"this {always} holds", "give a limit above 0")


def _operator(text: str) -> Operator:
    for each in _FLIPPED:
        if each == text:
            return each
    raise AssertionError(text)
