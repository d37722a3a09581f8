"""Nothing that looks like a person's data gets into logs: the access log, and what other plugins log.

Only the root is needed: its `on_log` sees every line before it is written. If it fails, the line's texts are left out.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from sidecar.plugin import Entry, Plugin

PATTERNS = {
    "email": r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    "token": r"(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}|\b(?:sk|pk|ghp)[-_][A-Za-z0-9_-]{16,}",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
    "card": r"\b\d(?:[ -]?\d){12,18}\b",
    "phone": r"(?<![\w.])\+\d{1,3}(?:[ ()/-]{0,2}\d){6,12}\b",
    "ipv4": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
}


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kinds: tuple[str, ...] = ("email", "token", "iban", "card", "phone")
    patterns: dict[str, str] = {}  # more of them: name to regular expression
    fields: tuple[str, ...] = ("authorization", "cookie", "user")  # fields whose value is left out whatever it is

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            if kind not in PATTERNS:
                raise ValueError(f"there is no kind {kind!r}; there are {', '.join(PATTERNS)}")
        return kinds

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name!r} is no regular expression: {error}") from None
        return patterns


class Redact(Plugin):
    name = "redact"
    properties = ()
    config_model = Config

    def on_configure(self, config: Config) -> None:
        chosen = {kind: PATTERNS[kind] for kind in config.kinds} | config.patterns
        self.patterns = [(f"[{name}]", re.compile(pattern)) for name, pattern in chosen.items()]
        self.fields = frozenset(config.fields)
        self.redacted = self.metrics.counter("redacted", "Places in log lines that were redacted.", ["kind"])

    def on_log(self, entry: Entry) -> None:
        for key, value in entry.items():
            entry[key] = "[left out]" if key in self.fields else self.clean(value)

    def clean(self, value: Any) -> Any:
        """The value without what must not be told."""
        if isinstance(value, str):
            for mark, pattern in self.patterns:
                value, count = pattern.subn(mark, value)
                if count:
                    self.redacted.add(count, kind=mark[1:-1])
        elif isinstance(value, dict):
            return {key: "[left out]" if key in self.fields else self.clean(one) for key, one in value.items()}
        elif isinstance(value, list | tuple):
            return [self.clean(one) for one in value]
        return value
