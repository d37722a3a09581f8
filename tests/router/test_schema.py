# ruff: noqa: E501 (the table reads best with one case per line)
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from router.manifests import read
from router.schema import ModelRollout
from xds.ir import Endpoint

GOOD = {
    "apiVersion": "headgate.dev/v1alpha1",
    "kind": "ModelRollout",
    "metadata": {"name": "iris", "namespace": "ml"},
    "spec": {
        "hosts": ["iris.local"],
        "sticky": {"header": "x-user"},
        "timeouts": {"request": "30s"},
        "versions": [
            {
                "name": "v1",
                "backend": {"endpoints": ["127.0.0.1:8001"]},
                "readiness": {"http": {"path": "/ready"}, "interval": "500ms"},
                "weight": 1,
            },
            {
                "name": "v2",
                "backend": {"endpoints": ["127.0.0.1:8002"]},
                "match": [
                    {
                        "path": {"prefix": "/v2"},
                        "headers": [{"name": "traffic", "exact": "test"}],
                        "query": [{"name": "debug", "present": True}],
                    }
                ],
                "mirror": {"percent": 20},
                "requestHeaders": {"x-model": "v2"},
            },
        ],
    },
}
V1, V2 = ("spec", "versions", 0), ("spec", "versions", 1)
HEADER = (*V2, "match", 0, "headers", 0)
GONE = object()


def changed(*changes: tuple[tuple[str | int, ...], object]) -> dict:
    """GOOD with some places set to another value, or removed."""
    raw = copy.deepcopy(GOOD)
    for place, value in changes:
        here = raw
        for part in place[:-1]:
            here = here[part]
        if value is GONE:
            del here[place[-1]]
        else:
            here[place[-1]] = value
    return raw


def complaints(raw: object) -> list[str]:
    got = read(raw, "a.yaml")
    return [] if isinstance(got, ModelRollout) else [str(problem).removeprefix("a.yaml: ") for problem in got]


def test_a_good_rollout_is_read_with_its_defaults():
    rollout = ModelRollout.model_validate(GOOD)
    assert rollout.key == "ml/iris"
    assert rollout.primary.name == "v1"
    assert [one.name for one in rollout.candidates] == ["v2"]
    assert rollout.spec.gateway == "default"
    assert rollout.spec.timeouts.request == 30.0
    assert rollout.spec.timeouts.idle == 300.0
    assert rollout.primary.readiness.interval == 0.5
    assert rollout.primary.backend.servers("ml") == (Endpoint("127.0.0.1", 8001),)


def test_equal_objects_are_equal_hashable_and_frozen():
    one, other = ModelRollout.model_validate(GOOD), ModelRollout.model_validate(copy.deepcopy(GOOD))
    assert one == other
    assert hash(one) == hash(other)
    assert one != ModelRollout.model_validate(changed(((*V1, "weight"), 2)))
    with pytest.raises(ValidationError):
        one.spec.gateway = "other"


def test_resources_stand_in_for_a_backend():
    raw = changed(((*V2, "backend"), GONE), ((*V2, "resources"), ["isvc/other/iris-v2", "sdep/iris#main"]))
    raw["spec"]["versions"][1].pop("readiness", None)
    rollout = ModelRollout.model_validate(raw)
    assert rollout.spec.versions[1].backend.servers("ml") == ()
    written = rollout.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert ModelRollout.model_validate(written) == rollout


def test_what_is_read_can_be_written_and_read_again():
    one = ModelRollout.model_validate(GOOD)
    written = json.loads(one.model_dump_json(by_alias=True, exclude_none=True))
    assert ModelRollout.model_validate(written) == one


def test_what_kubernetes_adds_is_accepted():
    raw = changed((("status",), {"anything": 1}), (("metadata", "uid"), "1"), (("metadata", "managedFields"), [{}]))
    assert ModelRollout.model_validate(raw) == ModelRollout.model_validate(GOOD)


NAME_HINT = "use lower-case letters, digits and '-', with a letter or digit at both ends"
ADDRESS_HINT = "write IP:port, such as 127.0.0.1:8001 or [::1]:8001"
DURATION_HINT = "write a number and a unit (ms, s, m, h), such as 500ms or 30s"
ENDPOINT = (*V1, "backend", "endpoints", 0)

BAD = [
    # names
    (("metadata", "name"), "Iris", f"metadata.name: 'Iris' is not a valid name ({NAME_HINT})"),
    (("metadata", "name"), "a" * 64, f"metadata.name: '{'a' * 56}... has 64 characters (use at most 63)"),
    (("metadata", "name"), GONE, "metadata.name: is missing (it is required)"),
    (("metadata", "namspace"), "x", "metadata.namspace: unknown field 'namspace' (did you mean 'namespace'?)"),
    ((*V2, "name"), "v1", "spec.versions[1].name: version 'v1' is already the name of spec.versions[0] (give every version its own name)"),
    ((*V2, "name"), "v2\n", f"spec.versions[1].name: 'v2\\n' is not a valid name ({NAME_HINT})"),
    ((*V2, "name"), 2, "spec.versions[1].name: must be text, not 2 (put it in quotes: \"2\")"),
    # what a version consists of
    ((*V1, "resources"), ["isvc"], "spec.versions[0].resources[0]: 'isvc' is not a reference (write TYPE/NAME or TYPE/NAMESPACE/NAME, such as isvc/iris-v2)"),
    ((*V1, "resources"), ["svc/a", "svc/a"], "spec.versions[0].resources[1]: resource 'svc/a' is listed twice (keep one of them)"),
    ((*V1, "rewrite"), {}, "spec.versions[0].rewrite: is empty (give host, path or both)"),
    ((*V1, "backend"), GONE, "spec.versions[0].backend: is missing (it is required; in Kubernetes resources will do)"),
    # shape
    (("spec", "versions"), [], "spec.versions: is an empty list (give at least one)"),
    (("spec", "versions"), {"v1": {}}, "spec.versions: must be a list, not a mapping (start each entry on its own line with '- ')"),
    (("spec", "versions", 1), "v2", "spec.versions[1]: must be a mapping, not 'v2' (write its fields as name: value)"),
    (("spec",), GONE, "spec: is missing (it is required)"),
    ((*V2, "weigth"), 1, "spec.versions[1].weigth: unknown field 'weigth' (did you mean 'weight'?)"),
    ((*HEADER, "exakt"), "x", "spec.versions[1].match[0].headers[0].exakt: unknown field 'exakt' (did you mean 'exact'?)"),
    (("spec", "zzz"), 1, "spec.zzz: unknown field 'zzz' (known here: hosts, gateway, protocol, strategy, primary, versions, sticky, plugins, timeouts, paused)"),
    (("spec", "plugins"), [{"name": "a"}, {"name": "a"}], "spec.plugins[1].name: plugin 'a' is already spec.plugins[0] (keep one of them)"),
    (("spec", "plugins"), [{"name": "a", "config": "x"}], "spec.plugins[0].config: must be a mapping, not 'x' (write name: value)"),
    (("spec", "plugins"), [{"name": "a", "config": {"x": "y" * 5_000}}], "spec.plugins[0].config: 5,008 characters of settings are too many (use at most 4,096, written as JSON)"),
    (("spec", "plugins"), [{"name": "a", "on": True}], "spec.plugins[0].on: unknown field 'on' (known here: name, enabled, config, required)"),
    (("spec", "strategy"), "bluegreen", "spec.strategy: 'bluegreen' is not one of none, blue-green, canary, mirror (did you mean 'blue-green'?)"),
    (("spec", "strategy"), "random", "spec.strategy: 'random' is not one of none, blue-green, canary, mirror (use one of these)"),
    (("spec", "protocol"), 2, "spec.protocol: 2 is not one of http1, h2c, auto (use one of these)"),
    (("spec", "protocol"), "HTTP2", "spec.protocol: 'HTTP2' is not one of http1, h2c, auto (did you mean 'h2c'?)"),
    (("spec", "protocol"), "http", "spec.protocol: 'http' is not one of http1, h2c, auto (did you mean 'http1'?)"),
    (("spec", "primary"), "v3", "spec.primary: no version is called 'v3' (name one of v1, v2)"),
    ((*V1, "mirror"), {}, "spec.versions[0].mirror: 'v1' is the primary and answers requests itself (give the mirror to a candidate)"),
    (("spec", "primary"), "v11", "spec.primary: no version is called 'v11' (did you mean 'v1'?)"),
    # weights
    ((*V1, "weight"), -1, "spec.versions[0].weight: must be at least 0, not -1 (give a larger number)"),
    ((*V1, "weight"), 0.5, "spec.versions[0].weight: must be a whole number, not 0.5 (weights are relative: 1 and 3 give a quarter and three quarters)"),
    ((*V1, "weight"), 2.0, "spec.versions[0].weight: must be a whole number, not 2.0 (weights are relative: 1 and 3 give a quarter and three quarters)"),
    ((*V1, "weight"), 1_000_001, "spec.versions[0].weight: must be at most 1000000, not 1000001 (give a smaller number)"),
    ((*V1, "weight"), 10**30, "spec.versions[0].weight: must be at most 1000000, not 1000000000000000000000000000000 (give a smaller number)"),
    ((*V1, "weight"), True, "spec.versions[0].weight: must be a whole number, not true (write digits only)"),
    ((*V1, "weight"), "50", "spec.versions[0].weight: must be a whole number, not '50' (write the number without quotes)"),
    ((*V1, "weight"), [1], "spec.versions[0].weight: must be a whole number, not a list (write digits only)"),
    ((*V2, "mirror", "percent"), 0, "spec.versions[1].mirror.percent: must be greater than 0, not 0 (give a larger number)"),
    ((*V2, "mirror", "percent"), 101, "spec.versions[1].mirror.percent: must be at most 100, not 101 (give a smaller number)"),
    ((*V2, "mirror", "percent"), float("nan"), "spec.versions[1].mirror.percent: must be a number, not nan (write digits, such as 12.5)"),
    ((*V2, "mirror", "percent"), True, "spec.versions[1].mirror.percent: must be a number, not true (write digits, such as 12.5)"),
    # hosts
    (("spec", "hosts"), [], "spec.hosts: is an empty list (give at least one)"),
    (("spec", "hosts"), ["a", "a"], "spec.hosts[1]: host 'a' is listed twice (keep one of them)"),
    (("spec", "hosts", 0), "*.local", "spec.hosts[0]: wildcard host '*.local' is not supported (list each host by its full name)"),
    (("spec", "hosts", 0), "iris.local:80", "spec.hosts[0]: host 'iris.local:80' names a port (leave the port out: a host is served on every listener)"),
    (("spec", "hosts", 0), "Iris.local", "spec.hosts[0]: host 'Iris.local' has capital letters (write 'iris.local')"),
    (("spec", "hosts", 0), "iris.local.", "spec.hosts[0]: host 'iris.local.' ends with a dot (write 'iris.local')"),
    (("spec", "hosts", 0), "ïris.local", "spec.hosts[0]: 'ïris.local' is not a host name (write it in its ASCII form, which begins with xn--)"),
    (("spec", "hosts", 0), "http://iris", "spec.hosts[0]: 'http://iris' is not a host name (leave out the scheme and the path)"),
    (("spec", "hosts", 0), "::1", "spec.hosts[0]: IPv6 host '::1' is not supported (use a DNS name or an IPv4 address)"),
    # backends
    (ENDPOINT, "127.0.0.1", "spec.versions[0].backend.endpoints[0]: '127.0.0.1' has no port (write '127.0.0.1:8080')"),
    (ENDPOINT, "::1", "spec.versions[0].backend.endpoints[0]: '::1' has no port (write '[::1]:8080')"),
    (ENDPOINT, "::1:80", "spec.versions[0].backend.endpoints[0]: '::1:80' has no port (write '[::1]:80')"),
    (ENDPOINT, "127.0.0.1:0", "spec.versions[0].backend.endpoints[0]: port 0 is out of range (ports are 1 to 65535)"),
    (ENDPOINT, "127.0.0.1:65536", "spec.versions[0].backend.endpoints[0]: port 65536 is out of range (ports are 1 to 65535)"),
    (ENDPOINT, "256.0.0.1:80", "spec.versions[0].backend.endpoints[0]: '256.0.0.1' is not an IP address (each part is 0 to 255, without leading zeros)"),
    (ENDPOINT, "iris.local:80", "spec.versions[0].backend.endpoints[0]: 'iris.local' is not an IP address (endpoints take IP addresses; for a DNS name use service: {host: ..., port: ...})"),
    (ENDPOINT, "nonsense", f"spec.versions[0].backend.endpoints[0]: 'nonsense' is not an address ({ADDRESS_HINT})"),
    (ENDPOINT, 8001, "spec.versions[0].backend.endpoints[0]: must be text, not 8001 (write IP:port, such as 127.0.0.1:8001)"),
    ((*V1, "backend", "endpoints"), ["10.0.0.1:1"] * 2, "spec.versions[0].backend.endpoints[1]: endpoint '10.0.0.1:1' is listed twice (keep one of them)"),
    ((*V1, "backend"), {}, "spec.versions[0].backend: has none of endpoints, service, shared (give exactly one of endpoints, service, shared)"),
    ((*V1, "backend", "service"), {"name": "x", "port": 1}, "spec.versions[0].backend: has endpoints and service (give exactly one of endpoints, service, shared)"),
    ((*V1, "backend"), {"service": {"host": "x", "namespace": "y", "port": 1}}, "spec.versions[0].backend.service.namespace: goes with name, not with host (leave it out)"),
    ((*V1, "backend"), {"service": {"name": "x", "port": 70_000}}, "spec.versions[0].backend.service.port: must be at most 65535, not 70000 (give a smaller number)"),
    ((*V1, "backend"), {"shared": {}}, "spec.versions[0].backend.shared: has none of endpoints, service (give exactly one of endpoints, service)"),
    # probes and durations
    ((*V1, "readiness"), {}, "spec.versions[0].readiness: has none of http, grpc, tcp (give exactly one of http, grpc, tcp)"),
    ((*V1, "readiness", "interval"), 5, "spec.versions[0].readiness.interval: 5 has no unit (write '5s' for seconds or '5ms' for milliseconds)"),
    ((*V1, "readiness", "interval"), "0s", "spec.versions[0].readiness.interval: must be longer than zero, not '0s' (write for example 5s)"),
    ((*V1, "readiness", "interval"), "0.000s", "spec.versions[0].readiness.interval: must be longer than zero, not '0.000s' (write for example 5s)"),
    (("spec", "timeouts", "request"), "soon", f"spec.timeouts.request: 'soon' is not a duration ({DURATION_HINT})"),
    (("spec", "timeouts", "request"), "-1s", f"spec.timeouts.request: '-1s' is not a duration ({DURATION_HINT})"),
    ((*V1, "readiness", "failureThreshold"), 0, "spec.versions[0].readiness.failureThreshold: must be at least 1, not 0 (give a larger number)"),
    ((*V1, "readiness", "http", "path"), "ready", "spec.versions[0].readiness.http.path: 'ready' does not start with '/' (write '/ready')"),
    # matches
    ((*V2, "match"), [], "spec.versions[1].match: is an empty list (give at least one)"),
    ((*V2, "match", 0), {}, "spec.versions[1].match[0]: is empty and would take every request (give at least one of path, method, headers, query)"),
    ((*HEADER, "prefix"), "t", "spec.versions[1].match[0].headers[0]: has exact and prefix (give exactly one of exact, prefix, suffix, contains, regex, present)"),
    (HEADER, {"name": "a"}, "spec.versions[1].match[0].headers[0]: has none of exact, prefix, suffix, contains, regex, present (give exactly one of exact, prefix, suffix, contains, regex, present)"),
    (HEADER, {"name": "a", "present": False}, "spec.versions[1].match[0].headers[0].present: must be true, not false (write true)"),
    (HEADER, {"name": "a", "exact": True}, "spec.versions[1].match[0].headers[0].exact: must be text, not true (put it in quotes: YAML takes yes, no, on and off for true and false)"),
    (HEADER, {"name": "a", "prefix": ""}, "spec.versions[1].match[0].headers[0].prefix: is empty (to match any value, use present: true)"),
    (HEADER, {"name": "a b", "exact": "x"}, "spec.versions[1].match[0].headers[0].name: 'a b' is not a header name (use letters, digits and any of !#$%&'*+-.^_`|~)"),
    (HEADER, {"name": ":path", "exact": "x"}, "spec.versions[1].match[0].headers[0].name: ':path' is no ordinary header (use path)"),
    (HEADER, {"name": "Host", "exact": "x"}, "spec.versions[1].match[0].headers[0].name: the host header cannot be matched here (use spec.hosts)"),
    (HEADER, {"name": "a", "exact": "x\ny"}, "spec.versions[1].match[0].headers[0].exact: 'x\\ny' contains a control character (remove line breaks and other control characters)"),
    (HEADER, {"name": "a", "regex": "(?=x)"}, "spec.versions[1].match[0].headers[0].regex: regular expression '(?=x)' is not valid: invalid perl operator: (?= (RE2 syntax is spoken here: no look-around, no back-references)"),
    ((*V2, "match", 0, "path"), {"prefix": "/a?b=c"}, "spec.versions[1].match[0].path.prefix: '/a?b=c' contains a '?' or '#' (match query parameters with query)"),
    ((*V2, "match", 0, "method"), "post", "spec.versions[1].match[0].method: 'post' is not a request method (use capitals, such as GET or POST)"),
    # headers to set
    ((*V2, "requestHeaders"), {"Host": "x"}, "spec.versions[1].requestHeaders.Host: header 'Host' cannot be changed (Envoy keeps host and the ':' headers as they are)"),
    ((*V2, "requestHeaders"), {":path": "x"}, "spec.versions[1].requestHeaders.:path: header ':path' cannot be changed (Envoy keeps host and the ':' headers as they are)"),
    ((*V2, "requestHeaders"), {"Content-Length": "1"}, "spec.versions[1].requestHeaders.Content-Length: header 'Content-Length' cannot be set (it belongs to Envoy)"),
    ((*V2, "requestHeaders"), {"x-shadow": "1"}, "spec.versions[1].requestHeaders.x-shadow: header 'x-shadow' cannot be set (it marks mirrored copies)"),
    ((*V2, "requestHeaders"), {"a": 1}, "spec.versions[1].requestHeaders.a: the value of a must be text, not 1 (put it in quotes: \"1\")"),
    ((*V2, "requestHeaders"), {"a": "1", "A": "2"}, "spec.versions[1].requestHeaders.A: header 'A' is given twice (header names ignore capitals: keep one of them)"),
    ((*V2, "requestHeaders"), ["a"], "spec.versions[1].requestHeaders: must be a mapping of header names to values, not a list (write name: value)"),
    (("spec", "sticky", "header"), "", "spec.sticky.header: '' is not a header name (use letters, digits and any of !#$%&'*+-.^_`|~)"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "expected"), BAD, ids=[expected[:70] for _, _, expected in BAD])
def test_bad_input_is_named_with_its_place_its_value_and_the_remedy(place, value, expected):
    assert complaints(changed((place, value))) == [expected]


def test_everything_wrong_is_said_at_once_fields_and_rules_between_them():
    raw = changed(
        ((*V1, "weight"), -1),
        ((*V2, "name"), "v1"),
        ((*V2, "weigth"), 5),
        (("spec", "hosts"), ["A", "b", "b"]),
        (("spec", "primary"), "v9"),
        ((*V1, "backend", "service"), {"port": 0}),
    )
    assert [line.split(": ")[0] for line in complaints(raw)] == [
        "spec.hosts[0]",
        "spec.versions[0].backend.service.port",
        "spec.versions[0].weight",
        "spec.versions[1].weigth",
        "spec.hosts[2]",
        "spec.versions[1].name",
        "spec.primary",
        "spec.versions[0].backend",
        "spec.versions[0].backend.service",
    ]


def test_every_header_that_cannot_be_set_is_named():
    raw = changed(((*V2, "requestHeaders"), {"host": "a", ":path": "b", "bad name": "c", "x": "d\n", "good": "e"}))
    assert [line.rpartition("requestHeaders.")[2].rpartition(": ")[0].split(": ")[0] for line in complaints(raw)] == [
        "host",
        ":path",
        "bad name",
        "x",
    ]


places = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(
        {"apiVersion", "kind", "metadata", "name", "spec", "hosts", "versions", "backend", "endpoints", "match", "headers",
         "mirror", "readiness", "primary", "weight", "requestHeaders", "service", "shared"})), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip
spots = st.sampled_from(
    [("spec",), ("metadata",), ("spec", "versions"), V1, V2, HEADER, (*V1, "backend"), (*V1, "readiness")]
)


@given(spots, places)
def test_no_input_whatever_makes_the_reader_fail_or_speak_pydantic(spot, value):
    for line in complaints(value) + complaints(changed((spot, value))):
        assert "[type=" not in line
        assert "Input should" not in line
        assert "is not accepted here" not in line
