"""The built-in types' fields, from Kubernetes 1.36's published OpenAPI (types.json: kept are types, keys, list kinds).

Regenerate from the definitions of `kubernetes-validate` when the version moves: drop all but the keys seen here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
DEFINITIONS: dict[str, Schema] = json.loads(Path(__file__).with_name("types.json").read_text())
OBJECT_META: Schema = {"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
BUILT_IN: dict[tuple[str, str, str], Schema] = {
    (gvk["group"], gvk["version"], gvk["kind"]): schema
    for schema in DEFINITIONS.values()
    for gvk in schema.get("x-kubernetes-group-version-kind", ())
}
_ANYTHING = ("RawExtension", ".JSON", "FieldsV1", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrArray")


def resolve(schema: Schema) -> Schema:
    """Follow a reference; extensions written beside it stay."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    if reference.endswith(_ANYTHING) or reference.endswith("JSONSchemaPropsOrStringArray"):
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {**DEFINITIONS[reference], **{key: value for key, value in schema.items() if key != "$ref"}}
