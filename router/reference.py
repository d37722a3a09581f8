"""docs/reference.md, the page of every field, made from schema.py: `python -m router.reference` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from router.crd import openapi

_HEAD = """\
<!-- Made from router/schema.py by `python -m router.reference`; a test keeps them equal. -->

# ModelRollout reference

A `ModelRollout` says under which hosts a model is reached and how its versions share the traffic. In a folder it is a
YAML file (several documents per file are fine, documents of other kinds are passed over); in Kubernetes it is a custom
resource (`kubectl get mr`), defined in `deploy/crds/modelrollouts.headgate.dev.yaml`.

```yaml
apiVersion: headgate.dev/v1alpha1
kind: ModelRollout
metadata:
  name: iris
spec:
  hosts: [iris.example.com]
  strategy: blue-green
  sticky: {header: x-user-id}
  versions:
  - name: v1
    weight: 90
    backend: {endpoints: ["10.0.0.1:8080", "10.0.0.2:8080"]}
    readiness:
      http: {path: /v2/health/ready}
  - name: v2
    weight: 10
    backend: {service: {name: iris-v2, port: 8080}}
    match:
    - headers: [{name: traffic, exact: test}]
```

## How the traffic is shared

`strategy` says what a version gets that gives no `weight`, `match` or `mirror` itself. The primary is the first
version, or the one that `spec.primary` names; the others are candidates.

| strategy | the primary | a candidate |
|---|---|---|
| `none` | everything | nothing |
| `blue-green` | weight 1 | weight 1: equal shares (also with a `match` of its own) |
| `canary` | everything else | requests with the header `traffic: test` |
| `mirror` | everything | a copy of every request; its answers are thrown away |

Any version may give its own `weight` and `match`, and any candidate a `mirror`, in any combination. A version with a
`mirror` has weight 0 unless it gives one. Where one version gives a weight, give the primary one too: otherwise it
counts as 1.

1. Header routes come first, in the order of the versions. They overrule weights and are not mirrored.
2. Everything else is split by weight. Weights are relative and are scaled to 10,000 parts, so 1 and 3 is the same as 25
   and 75. With `sticky`, a user stays on one version, and growing a candidate moves users only towards it.
3. Mirrors copy what the weighted split receives. Copies carry `x-shadow: true`.

A version that is not ready gets nothing: no weight, no header route, no mirror. Its share goes to the primary, or, when
that is not ready either, to the heaviest ready version. When no version with a weight is ready, the primary or else the
first ready version serves everything. When none is ready at all, the primary keeps its route and all its endpoints are
tried. Answers carry the name of their version in the response header `app-version`.

`sticky` with up to two candidates moves nobody from one candidate to the other. From the third on, growing one may
push users of its neighbour along. Promote a candidate (make it `spec.primary`) when it has all the weight: then nobody
moves.

`plugins` names [plugins](plugins.md) of the gateway. Those that run for all models need not be named, except to give
them settings or to switch them off; for one that the gateway runs `always`, a model can do neither. When the gateway
has no plugin of that name, the model is served without it and has a problem; with `required: true` its traffic stays
as it was instead.

## Fields

| field | type | default | meaning |
|---|---|---|---|
"""

_TAIL = """
## What only the control plane checks

The CRD refuses wrong types, ranges, names and combinations when you apply an object. Some things it cannot tell;
you find them in `headgate validate` and in the object's status: whether a regular expression is valid RE2, whether a
header may be matched or set (`host`, `:` headers, `x-shadow` and those that frame a message may not) or is given twice
in different capitals, whether an IP address or port inside an endpoint is in range, whether a plugin's settings are at
most 4096 characters as JSON, whether the gateway has the plugin, and whether another rollout already has the host.
Unknown fields are refused where the client asks for it, as kubectl does; otherwise they are dropped.

Envoy rejects a regular expression whose compiled size is above 100 (its runtime key
`re2.max_program_size.error_level`). As that limit is yours to raise, such an expression is only warned of; an Envoy
that rejects it keeps the model's last good routes, and the status carries Envoy's words.
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows(openapi(), "")) + _TAIL


def _rows(node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    required = node.get("required", ())
    for name, child in node["properties"].items():
        here = f"{path}.{name}" if path else name
        meaning = child["description"].replace("|", "\\|").replace("<", "&lt;")
        yield f"`{here}`", _kind(child), _default(child, name in required), meaning
        inner, suffix = (child["items"], "[]") if child["type"] == "array" else (child, "")
        if "properties" in inner:
            yield from _rows(inner, here + suffix)


def _kind(node: dict[str, Any]) -> str:
    kind = node["type"]
    if "enum" in node:
        return ", ".join(f"`{str(one).lower() if isinstance(one, bool) else one}`" for one in node["enum"])
    if kind == "array":
        inner = node["items"]
        return "list of " + ("mappings" if "properties" in inner else _kind(inner))
    if kind == "object":
        free = "x-kubernetes-preserve-unknown-fields" in node
        return "mapping" if free or "properties" in node else "mapping of text to text"
    if kind in ("integer", "number"):
        word = "whole number" if kind == "integer" else "number"
        above = "more than " if node.get("exclusiveMinimum") else ""
        if "maximum" in node:
            return f"{word}, {above}{node['minimum']} to {node['maximum']}"
        return word
    if kind == "string":
        return "duration" if "(ms|s|m|h)" in node.get("pattern", "") else "text"
    return {"boolean": "true or false"}[kind]


def _default(node: dict[str, Any], required: bool) -> str:
    if required:
        return "**required**"
    default = node.get("default")
    if default in (None, "", {}):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    print(page(), end="")
