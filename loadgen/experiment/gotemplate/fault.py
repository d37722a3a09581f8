"""What a template has to complain of."""

from __future__ import annotations


class TemplateFault(Exception):
    """A template that cannot be read or rendered; `line` counts from 1."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {what}" if line else what)
        self.what = what
        self.line = line
