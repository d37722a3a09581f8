"""The demo's one manifest: a few wishes in, the YAML that a user would write out, and what an edit changed in it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

HOST = "iris.example"
NAMESPACE, NAME = "demo", "iris"
MODEL = f"{NAMESPACE}/{NAME}"
PROBE_EVERY_MS = 100

_HEAD = """\
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata:
  name: {name}
  namespace: {namespace}
spec:
  hosts: [{host}]
"""
_VERSION = """\
    - name: {name}
      backend:
        endpoints: ["127.0.0.1:{port}"]
      readiness:
        http: {{path: /v2/models/{model}/ready}}
        interval: {interval}ms
        failureThreshold: 1
"""


@dataclass(frozen=True, slots=True)
class Arm:
    """One version as the manifest has it; what is None is left out."""

    name: str
    weight: int | None = None
    mirror: float | None = None
    testers: bool = False


@dataclass(frozen=True, slots=True)
class Edition:
    """The whole manifest. `primary` is the first version unless given."""

    arms: tuple[Arm, ...]
    strategy: str | None = None
    primary: str | None = None

    def text(self, ports: Mapping[str, int]) -> str:
        lines = [_HEAD.format(name=NAME, namespace=NAMESPACE, host=HOST)]
        if self.strategy is not None:
            lines.append(f"  strategy: {self.strategy}\n")
        if self.primary is not None:
            lines.append(f"  primary: {self.primary}\n")
        lines.append("  versions:\n")
        for arm in self.arms:
            lines.append(_VERSION.format(name=arm.name, port=ports[arm.name], model=NAME, interval=PROBE_EVERY_MS))
            if arm.weight is not None:
                lines.append(f"      weight: {arm.weight}\n")
            if arm.mirror is not None:
                lines.append(f"      mirror: {{percent: {arm.mirror:g}}}\n")
            if arm.testers:
                lines.append("      match: [{headers: [{name: traffic, exact: test}]}]\n")
        return "".join(lines)


def changes(before: str, after: str) -> list[str]:
    """The lines that an edit took away ("- ") and added ("+ "), in order."""
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[:2] in ("- ", "+ ")]
