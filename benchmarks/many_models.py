"""Ten thousand models as a user would write them: one manifest each, two versions, a header route for testers."""

from __future__ import annotations

from pathlib import Path

MANIFEST = """\
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata:
  name: model-{n:05d}
spec:
  hosts: [model-{n:05d}.example]
  strategy: canary
  versions:
  - name: v1
    weight: {rest}
    backend: {{endpoints: ["127.0.0.1:{v1}"]}}
  - name: v2
    weight: {share}
    backend: {{endpoints: ["127.0.0.1:{v2}"]}}
    match: [{{headers: [{{name: x-tester, exact: "yes"}}]}}]
"""


def manifest(n: int, ports: dict[str, int], share: int = 10) -> str:
    return MANIFEST.format(n=n, share=share, rest=100 - share, **ports)


def name(n: int) -> str:
    return f"default/model-{n:05d}"


def host(n: int) -> str:
    return f"model-{n:05d}.example"


def write(folder: Path, count: int, ports: dict[str, int]) -> None:
    for n in range(count):
        (folder / f"model-{n:05d}.yaml").write_text(manifest(n, ports))
