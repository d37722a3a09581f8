"""The CustomResourceDefinition of ModelRollout, made from schema.py: `python -m router.crd` prints it.

Kubernetes wants a "structural" schema: no references, no null types, OpenAPI 3.0's spelling of exclusive bounds.
Rules between fields become CEL. What neither can say (is this regex valid, may this header be set) only the parser
checks; the control plane then shows the problem in the object's status.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from router import schema
from router.schema import GROUP, KIND, ModelRollout
from router.status_schema import COLUMNS, STATUS

NAME = f"modelrollouts.{GROUP}"
_KEPT = (
    "description", "type", "default", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength",
    "pattern", "minItems", "maxItems", "maxProperties", "required", "properties", "items", "additionalProperties",
    "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip

_COMPARISONS = ("exact", "prefix", "suffix", "contains", "regex", "present")
ONE_OF: dict[type[BaseModel], tuple[str, ...]] = {
    schema.PathMatch: ("prefix", "exact", "regex"),
    schema.HeaderMatch: _COMPARISONS,
    schema.QueryMatch: _COMPARISONS,
    schema.Service: ("name", "host"),
    schema.SharedServer: ("endpoints", "service"),
    schema.Backend: ("endpoints", "service", "shared"),
    schema.Readiness: ("http", "grpc", "tcp"),
}
"""Of which fields a part has exactly one."""

_MIRRORED_PRIMARY = "the primary answers requests itself: give the mirror to a candidate"
# CEL reserves the word namespace: Kubernetes has such fields written with underscores around.
_RULES: dict[type[BaseModel], tuple[tuple[str, str], ...]] = {
    schema.Service: (("!(has(self.host) && has(self.__namespace__))", "namespace goes with name, not with host"),),
    schema.Match: (
        (
            "has(self.path) || has(self.method) || (has(self.headers) && size(self.headers) > 0)"
            " || (has(self.query) && size(self.query) > 0)",
            "give at least one of path, method, headers, query",
        ),
    ),
    schema.Version: (
        ("has(self.backend) || has(self.resources)", "give a backend, resources or both"),
        ("has(self.backend) || !has(self.readiness)", "readiness probes the backend: give one"),
    ),
    schema.Rewrite: (("has(self.host) || has(self.path)", "give host, path or both"),),
    schema.Spec: (
        (
            "!has(self.primary) || self.versions.exists(v, v.name == self.primary)",
            "primary must be the name of a version",
        ),
        ("has(self.primary) || !has(self.versions[0].mirror)", _MIRRORED_PRIMARY),
        (
            "!has(self.primary) || !self.versions.exists(v, v.name == self.primary && has(v.mirror))",
            _MIRRORED_PRIMARY,
        ),
    ),
}
_SETS = ("hosts", "endpoints", "resources")


def crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition as plain values."""
    body = openapi()
    name = body["properties"]["metadata"]["properties"]["name"]
    body["properties"] |= {
        "apiVersion": {"type": "string", "description": body["properties"]["apiVersion"]["description"]},
        "kind": {"type": "string", "description": body["properties"]["kind"]["description"]},
        "metadata": {"type": "object", "properties": {"name": {k: v for k, v in name.items() if k != "description"}}},
        "status": STATUS,
    }
    body["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": "modelrollouts",
                "singular": "modelrollout",
                "shortNames": ["mr"],
            },
            "versions": [
                {
                    "name": schema.API_VERSION.split("/")[1],
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {"openAPIV3Schema": body},
                }
            ],
        },
    }


def openapi() -> dict[str, Any]:
    """The schema of a rollout, structural and with every reference written out."""
    raw = ModelRollout.model_json_schema(by_alias=True)
    return _structural(raw, raw.get("$defs", {}), ModelRollout.__name__, "")


def _structural(node: dict[str, Any], defs: dict[str, Any], title: str, field: str) -> dict[str, Any]:
    if "$ref" in node:
        title = node["$ref"].rsplit("/", 1)[1]
        node = {**defs[title], **{key: value for key, value in node.items() if key != "$ref"}}
        return _structural(node, defs, title, field)
    if "anyOf" in node:
        (inner,) = [one for one in node["anyOf"] if one.get("type") != "null"]
        return _structural({**inner, **{k: v for k, v in node.items() if k != "anyOf"}}, defs, title, field)
    out = {key: node[key] for key in _KEPT if key in node}
    if out.get("additionalProperties") is False:  # forbidden beside properties: Kubernetes prunes or warns instead
        del out["additionalProperties"]
    if "const" in node:
        out["enum"] = [node["const"]]
    if out.get("default", 0) in (None, [], ()):
        del out["default"]
    if out.get("type") == "number":
        out = {key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in out.items()}
    if "exclusiveMinimum" in out:
        out["minimum"] = out["exclusiveMinimum"]
        out["exclusiveMinimum"] = True
    if isinstance(out.get("default"), dict):
        out["default"] = {}  # the inner defaults fill it
    if "items" in out:
        out["items"] = _structural(out["items"], defs, "", "")
        if field in _SETS:
            out["x-kubernetes-list-type"] = "set"
        if field in ("versions", "plugins"):
            out |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    if "properties" in out:
        out["properties"] = {name: _structural(one, defs, "", name) for name, one in out["properties"].items()}
        if rules := _rules(getattr(schema, title, None)):
            out["x-kubernetes-validations"] = rules
    return out


def _rules(part: Any) -> list[dict[str, str]]:
    rules = [{"rule": rule, "message": message} for rule, message in _RULES.get(part, ())]
    if names := ONE_OF.get(part):
        rule = " + ".join(f"(has(self.{name}) ? 1 : 0)" for name in names) + " == 1"
        rules.insert(0, {"rule": rule, "message": f"give exactly one of {', '.join(names)}"})
    return rules


def page() -> str:
    """The CRD as the YAML file in deploy/crds."""
    head = "# Made from router/schema.py by `python -m router.crd`; a test keeps them equal.\n"
    return head + yaml.dump(crd(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


if __name__ == "__main__":
    print(page(), end="")
