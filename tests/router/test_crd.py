"""The parser, the CRD and the reference page say the same, because all three are made from schema.py."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from router import crd, reference
from router.manifests import read
from router.schema import ModelRollout

ROOT = Path(__file__).parents[2]
CRD_FILE = ROOT / "deploy/crds/modelrollouts.headgate.dev.yaml"
SCHEMA = crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_the_crd_file_is_what_the_schema_gives():
    assert CRD_FILE.read_text() == crd.page(), "run: python -m router.crd > deploy/crds/modelrollouts.headgate.dev.yaml"
    assert yaml.safe_load(CRD_FILE.read_text()) == crd.crd()


def test_the_reference_page_is_what_the_schema_gives():
    assert (ROOT / "docs/reference.md").read_text() == reference.page(), (
        "run: python -m router.reference > docs/reference.md"
    )


def test_the_example_on_the_page_is_a_good_rollout():
    (example,) = re.findall(r"```yaml\n(.*?)```", reference.page(), re.DOTALL)
    assert isinstance(read(yaml.safe_load(example), "page"), ModelRollout)


def fields(model, path=""):
    """Every field path of the typed schema, found by walking the models, not the generated JSON."""
    from router.words import _model_in

    for name, field in model.model_fields.items():
        here = f"{path}.{field.alias or name}".lstrip(".")
        yield here, field
        if inner := _model_in(field.annotation):
            yield from fields(inner, here)


def crd_fields(node, path=""):
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here
        yield from crd_fields(child.get("items", child), here)


def test_every_field_is_in_the_crd_and_on_the_page():
    all_fields = {path for path, _ in fields(ModelRollout)}
    on_page = {path.replace("[]", "") for path in re.findall(r"^\| `([^`]+)` \|", reference.page(), re.MULTILINE)}
    assert len(all_fields) > 70
    assert on_page - {"none", "blue-green", "canary", "mirror"} == all_fields
    kubernetes_own = {path for path in all_fields if path.startswith("metadata.")} - {"metadata.name"}
    wanted = {path for path in crd_fields(SCHEMA) if not path.startswith("status.")}
    assert wanted == (all_fields - kubernetes_own) | {"status"}


def test_every_field_is_described():
    assert [path for path, field in fields(ModelRollout) if not (field.description or "").strip().endswith(".")] == []


def nodes(node):
    yield node
    for child in (*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])):
        yield from nodes(child)


def test_the_crd_schema_is_structural():
    allowed = {*crd._KEPT, "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
               "x-kubernetes-preserve-unknown-fields"}  # fmt: skip
    for node in nodes(SCHEMA):
        assert set(node) <= allowed
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}
        assert ("items" in node) == (node["type"] == "array")
        assert "default" not in node or node["default"] is not None
        assert not isinstance(node.get("exclusiveMinimum", True), float)  # OpenAPI 3.0: a flag beside minimum
        if "pattern" in node:
            re.compile(node["pattern"])


def test_defaults_in_the_crd_are_those_of_the_parser():
    small = {"name": "v1", "backend": {"endpoints": ["10.0.0.1:80"]}, "readiness": {"tcp": {}}}
    raw = rollout(versions=[small, {**small, "name": "v2", "mirror": {}}])
    filled = copy.deepcopy(raw)
    fill(SCHEMA, filled)
    assert filled["spec"]["timeouts"] == {"request": "0s", "idle": "300s", "connect": "1s", "drain": "300s"}
    assert filled["spec"]["versions"][1]["mirror"]["percent"] == 100
    assert read(filled, "") == read(raw, "")
    assert set(filled["spec"]) == {"hosts", "gateway", "protocol", "strategy", "versions", "timeouts", "paused"}


def fill(schema, value):
    """What Kubernetes does with defaults."""
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
            if name in value:
                fill(child, value[name])
    if isinstance(value, list):
        for item in value:
            fill(schema["items"], item)


def rollout(**spec):
    return {
        "apiVersion": "headgate.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "iris"},
        "spec": {"hosts": ["iris.local"], "versions": [version()], **spec},
    }


def version(**parts):
    return {"name": "v1", "backend": {"endpoints": ["10.0.0.1:80"]}, **parts}


def header(**parts):
    return rollout(versions=[version(match=[{"headers": [{"name": "a", **parts}]}])])


def probe(**parts):
    return rollout(versions=[version(readiness={"tcp": {}, **parts})])


def backend(**parts):
    return rollout(versions=[version(backend=parts)])


def mirrored(**parts):
    return rollout(versions=[version(), version(name="v2", mirror=parts)])


ACCEPTED = [
    rollout(),
    rollout(hosts=["a", "b.c", "10.0.0.1"]),
    rollout(strategy="canary", protocol="h2c", primary="v1", gateway="edge", sticky={"header": "X-User"}),
    rollout(timeouts={"request": "0s", "idle": "0.5s", "connect": "250ms"}),
    rollout(plugins=[{"name": "a", "config": {"x": [1, {"y": None}]}}, {"name": "b", "enabled": False}]),
    rollout(plugins=[{"name": "a", "enabled": False, "config": {"x": 1}, "required": True}]),
    rollout(versions=[version(weight=0)]),
    rollout(versions=[version(weight=1_000_000)]),
    backend(endpoints=["[::1]:80"]),
    backend(service={"name": "iris", "namespace": "ml", "port": 80}),
    backend(service={"host": "iris.example.com", "port": 80}),
    backend(shared={"endpoints": ["10.0.0.1:80"], "requestHeaders": {"a": "b"}}),
    probe(interval="0.001s", timeout="1m", successThreshold=100),
    rollout(versions=[version(readiness={"http": {"path": "/ready", "port": 1, "host": "x"}})]),
    rollout(versions=[version(readiness={"grpc": {"service": "a.B"}})]),
    rollout(versions=[version(match=[{"path": {"regex": "/v[0-9]+"}, "method": "POST"}])]),
    rollout(versions=[version(match=[{"query": [{"name": "q", "present": True}]}])]),
    header(exact=""),
    header(present=True, invert=True),
    mirrored(),
    mirrored(percent=0.5, requestHeaders={"a": "b"}),
]

REFUSED = [
    rollout(hosts=[]),
    rollout(hosts=["A"]),
    rollout(hosts=["a:80"]),
    rollout(hosts=["*.a"]),
    rollout(hosts=["a", "a"]),
    rollout(hosts="a"),
    rollout(hosts=[f"h{n}" for n in range(65)]),
    rollout(versions=[]),
    rollout(versions=[version(), version()]),
    rollout(versions=[version(name=f"v{n}") for n in range(33)]),
    rollout(versions=[{"name": "v1"}]),
    rollout(versions=[version(name="V1")]),
    rollout(versions=[version(name="v" * 64)]),
    rollout(versions=[version(name=1)]),
    rollout(strategy="bluegreen"),
    rollout(protocol="http3"),
    rollout(primary="v9"),
    rollout(gateway=""),
    rollout(sticky={}),
    rollout(sticky={"header": "a b"}),
    rollout(timeouts={"request": 30}),
    rollout(timeouts={"request": "30"}),
    rollout(timeouts={"connect": "0s"}),
    rollout(colour="red"),
    rollout(versions=[version(weigth=1)]),
    rollout(versions=[version(weight=-1)]),
    rollout(versions=[version(weight=1.5)]),
    rollout(versions=[version(weight="1")]),
    rollout(versions=[version(weight=True)]),
    rollout(versions=[version(weight=1_000_001)]),
    rollout(versions=[version(match=[])]),
    rollout(versions=[version(match=[{}])]),
    rollout(versions=[version(match=[{"headers": []}])]),
    rollout(versions=[version(match=[{"path": {}}])]),
    rollout(versions=[version(match=[{"path": {"prefix": "v2"}}])]),
    rollout(versions=[version(match=[{"path": {"prefix": "/", "exact": "/"}}])]),
    rollout(versions=[version(match=[{"method": "post"}])]),
    rollout(versions=[version(mirror={})]),
    rollout(versions=[version(name="v2", mirror={}), version()], primary="v2"),
    header(),
    header(exact="a", prefix="b"),
    header(prefix=""),
    header(present=False),
    header(exact="a\nb"),
    header(exact=1),
    header(invert="yes", exact="a"),
    probe(http={"path": "/"}),
    probe(interval="0s"),
    probe(interval=5),
    probe(failureThreshold=0),
    rollout(versions=[version(readiness={})]),
    rollout(versions=[version(readiness={"http": {}})]),
    rollout(plugins=[{}]),
    rollout(plugins=[{"name": "Stamp"}]),
    rollout(plugins=[{"name": "a"}, {"name": "a"}]),
    rollout(plugins=[{"name": "a", "config": [1]}]),
    rollout(plugins=[{"name": "a", "enabled": "yes"}]),
    rollout(plugins=[{"name": f"a{number}"} for number in range(17)]),
    backend(),
    backend(endpoints=[]),
    backend(endpoints=["10.0.0.1"]),
    backend(endpoints=["localhost:80"]),
    backend(endpoints=["10.0.0.1:80", "10.0.0.1:80"]),
    backend(service={"name": "a"}),
    backend(service={"port": 80}),
    backend(service={"name": "a", "port": 0}),
    backend(service={"name": "a", "host": "b", "port": 1}),
    backend(service={"host": "b", "namespace": "c", "port": 1}),
    backend(shared={}),
    backend(endpoints=["10.0.0.1:80"], shared={"endpoints": ["10.0.0.1:80"]}),
    mirrored(percent=0),
    mirrored(percent=100.5),
    mirrored(percent="20"),
    {**rollout(), "metadata": {"name": "Iris"}},
    {**rollout(), "spec": None},
]


def as_kubernetes_would(schema, value):
    """Validate as the API server does with strict fields: draft 4 (OpenAPI 3.0), lists as sets, our CEL rules."""
    jsonschema.validate(value, strict(schema), cls=jsonschema.Draft4Validator)
    extensions(schema, value)


def strict(schema):
    out = {key: value for key, value in schema.items() if not key.startswith("x-")}
    if "properties" in schema:
        out["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
        if "metadata" not in schema["properties"] and "x-kubernetes-preserve-unknown-fields" not in schema:
            out["additionalProperties"] = False
    if "items" in schema:
        out["items"] = strict(schema["items"])
    return out


def extensions(schema, value):
    for rule in schema.get("x-kubernetes-validations", ()):
        if not cel(rule["rule"], value):
            raise jsonschema.ValidationError(rule["message"])
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        if "x-kubernetes-list-type" in schema:
            identities = [item[keys[0]] if keys else item for item in value]
            if len(set(identities)) != len(identities):
                raise jsonschema.ValidationError("duplicate")
        for item in value:
            extensions(schema["items"], item)
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                extensions(child, value[name])


def cel(rule, self):
    """The few CEL forms that our rules use, rewritten as Python."""
    text = re.sub(r"has\(([^()]+)\.(\w+)\)", r"('\2' in \1)", rule.replace("__namespace__", "namespace"))
    text = re.sub(r"\((\('\w+' in self\)) \? 1 : 0\)", r"int\1", text)
    text = re.sub(r"self\.versions\.exists\(v, (.*)\)$", r"any(\1 for v in self.versions)", text)
    text = re.sub(r"\b(self|v)\.(\w+)", r"\1['\2']", text)
    text = text.replace("&&", "and").replace("||", "or").replace("size(", "len(")
    text = re.sub(r"!(?!=)", " not ", text).strip()
    return eval(text, {"__builtins__": {"int": int, "any": any, "len": len}, "self": self})


@pytest.mark.parametrize("raw", ACCEPTED, ids=str)
def test_what_the_parser_accepts_the_crd_accepts(raw):
    assert isinstance(read(raw, ""), ModelRollout)
    as_kubernetes_would(SCHEMA, raw)


@pytest.mark.parametrize("raw", REFUSED, ids=str)
def test_what_the_parser_refuses_the_crd_refuses(raw):
    assert not isinstance(read(raw, ""), ModelRollout)
    with pytest.raises(jsonschema.ValidationError):
        as_kubernetes_would(SCHEMA, raw)


@pytest.mark.parametrize(("module", "page"), [("router.crd", crd.page()), ("router.reference", reference.page())])
def test_the_printing_commands_print_the_pages(module, page):
    printed = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout == page


RESERVED = "true false null in as break const continue else for function if import let loop package namespace return"


def test_no_rule_names_a_field_by_a_word_that_cel_reserves():
    """A real API server refuses the whole CRD then: it knows the field `namespace` as `__namespace__` only."""
    rules = [one["rule"] for node in nodes(SCHEMA) for one in node.get("x-kubernetes-validations", ())]
    assert len(rules) > 10
    assert not [rule for rule in rules if re.search(rf"\.({RESERVED.replace(' ', '|')})\b", rule)]


PER_RULE, OF_A_CRD = 10_000_000, 100_000_000  # the API server's limits of estimated cost


def test_the_rules_stay_far_below_what_an_api_server_lets_them_cost():
    """Counted from above: every word of a rule as 10, an exists() once for each item; times the lists around it."""

    def costs(node, times):
        for one in node.get("x-kubernetes-validations", ()):
            loops = 32 if ".exists(" in one["rule"] else 1
            yield times * loops * 10 * len(re.findall(r"\w+|[^\w\s]", one["rule"]))
        for child in node.get("properties", {}).values():
            yield from costs(child, times)
        if "items" in node:
            bounded = any("x-kubernetes-validations" in each for each in nodes(node["items"]))
            assert not bounded or "maxItems" in node
            yield from costs(node["items"], times * node.get("maxItems", 1))

    found = list(costs(SCHEMA, 1))
    assert max(found) < PER_RULE
    assert sum(found) < OF_A_CRD / 2
