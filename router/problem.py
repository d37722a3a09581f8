"""Something the user should know and can mend: where it is, what is wrong, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """`where` is what the user can open (a file with its line, an object); `field` a path: spec.versions[1].weight."""

    where: str
    field: str
    what: str
    hint: str = ""
    severity: Severity = "error"

    def __str__(self) -> str:
        at = f"{self.where}: {self.field}" if self.field else self.where
        return f"{at}: {self.what}" + (f" ({self.hint})" if self.hint else "")
