"""Which model version answered: from the answer's headers or metadata, or from its body, or pinned by the target."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from loadgen.plan import Target
from xds.varint import read_varint

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PROTOBUF_FIELDS = {"model_name": 1, "model_version": 2}  # of KServe's inference.ModelInferResponse
_INFER = "inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Rule:
    """`name`: of a header or metadata (lower case), or of a field at the top of the body."""

    source: Literal["header", "body"]
    name: str


@dataclass(frozen=True, slots=True)
class Attribution:
    """`rules` are tried in turn; a pinned version needs none and holds for requests without an answer, too."""

    rules: tuple[Rule, ...]
    pinned: str | None = None

    @classmethod
    def of(cls, target: Target) -> Attribution:
        """Raises ValueError, naming every rule that is none. In gRPC only the answers of ModelInfer can be read."""
        if target.version is not None:
            return cls((), target.version)
        rules = [_rule(text) for text in target.attribution]
        wrong = [text for text, rule in zip(target.attribution, rules, strict=True) if rule is None]
        if wrong:
            raise ValueError(
                f"attribution: {', '.join(map(repr, wrong))}: what tells a version is header:NAME, or body:FIELD "
                "such as body:model_version"
            )
        other = target.grpc is not None and target.grpc.method.lstrip("/") != _INFER
        return cls(tuple(rule for rule in rules if rule and not (other and rule.source == "body")))

    @property
    def headers(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.rules if rule.source == "header")

    @property
    def leading_headers(self) -> tuple[str, ...]:
        """Those tried before any body: where one of them is there, nothing else needs to be looked at."""
        first = next((at for at, rule in enumerate(self.rules) if rule.source == "body"), len(self.rules))
        return tuple(rule.name for rule in self.rules[:first])

    @property
    def reads_body(self) -> bool:
        return any(rule.source == "body" for rule in self.rules)

    def version(self, headers: Mapping[str, str], body: bytes = b"", protobuf: bool = False) -> str | None:
        """`headers`: at least those of `headers`, by names in lower case; `body`: as much of it as there is."""
        for rule in self.rules:
            if rule.source == "header":
                found = headers.get(rule.name)
            elif not body:
                continue
            else:
                found = protobuf_field(body, rule.name) if protobuf else json_field(body, rule.name)
            if found:
                return found
        return self.pinned


def json_field(body: bytes, name: str) -> str | None:
    """A string or number at the top of a JSON object, without reading all of it where its first bytes tell.

    A field before any nested object or escape is surely at the top; otherwise the whole body is parsed. `body` may be
    the beginning of one; then only the first way can succeed.
    """
    quoted = b'"' + name.encode() + b'"'
    at = body.find(quoted)
    if at < 0:
        return None  # names with escapes in them are nobody's
    before = body[:at]
    if (
        before[:64].lstrip()[:1] == b"{"
        and before.count(b"{") == 1
        and b"\\" not in before
        and before.count(b'"') % 2 == 0
    ):
        match = _VALUE.match(body, at + len(quoted))
        if match:
            return match[1].decode(errors="replace")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    value = parsed.get(name) if isinstance(parsed, dict) else None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


_VALUE = re.compile(rb'\s*:\s*"([^"\\]*)"')


def protobuf_field(message: bytes, name: str) -> str | None:
    """A string of a serialized ModelInferResponse; None where it is not there, and where this is no such message."""
    wanted = _PROTOBUF_FIELDS.get(name)
    at, size = 0, len(message)
    try:
        while wanted is not None and at < size:
            tag, at = read_varint(message, at)
            kind = tag & 7
            if kind == 2:
                length, at = read_varint(message, at)
                if at + length > size:
                    return None
                if tag >> 3 == wanted:
                    return message[at : at + length].decode()
                at += length
            elif kind == 0:
                _, at = read_varint(message, at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            else:
                return None
    except (IndexError, UnicodeDecodeError):
        return None
    return None


def _rule(text: str) -> Rule | None:
    source, _, name = text.partition(":")
    if source == "header" and _NAME.fullmatch(name):
        return Rule("header", name.lower())
    if source == "body" and re.fullmatch(r"\w+", name):
        return Rule("body", name)
    return None
