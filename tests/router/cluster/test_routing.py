"""What Iter8's routing templates are for, read from their text without rendering them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cluster.routing import routing
from router.schema import Strategy

VERSIONS = ("wisdom-0", "wisdom-1")

# Shaped as the charts leave them in the ConfigMap: Helm's part is done, the controller's part is not.
MESH_BLUE_GREEN = """\
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: wisdom}
spec:
  gateways: [mm-gateway, mesh]
  hosts:
  - wisdom.modelmesh-serving
  - wisdom.modelmesh-serving.svc
  http:
  - route:
    - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local, port: {number: 8033}}
      {{- if gt (index .Weights 1) 0 }}
      weight: {{ index .Weights 0 }}
      {{- end }}
      headers: {request: {set: {mm-vmodel-id: "wisdom-0"}}}
    {{- if gt (index .Weights 1) 0 }}
    - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local, port: {number: 8033}}
      weight: {{ index .Weights 1 }}
      headers: {request: {set: {mm-vmodel-id: "wisdom-1"}}}
    {{- end }}
"""
MESH_MIRROR = """\
kind: VirtualService
spec:
  hosts: [wisdom.modelmesh-serving]
  http:
  - route:
    - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local}
      headers:
        request:
          set: {mm-vmodel-id: "wisdom-0"}
    {{- if gt (index .Weights  1 ) 0 }}
    mirror:
      host: modelmesh-serving.modelmesh-serving.svc.cluster.local
    mirrorPercentage:
      value: {{ index .Weights  1 }}
    headers:
        request:
          set:
            mm-vmodel-id: "wisdom-1"
    {{- end }}
"""
MESH_CANARY = """\
kind: VirtualService
spec:
  hosts: [wisdom.modelmesh-serving]
  http:
  {{- if gt (index .Weights 1) 0 }}
  - match:
    - headers:
        traffic: {exact: test}
      uri: {prefix: /v2/}
    route:
    - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local}
      headers: {request: {set: {mm-vmodel-id: "wisdom-1"}}}
  {{- end }}
  - route:
    - destination: {host: modelmesh-serving.modelmesh-serving.svc.cluster.local}
      headers: {request: {set: {mm-vmodel-id: "wisdom-0"}}}
"""
KSERVE_BLUE_GREEN = """\
kind: VirtualService
spec:
  hosts: [wisdom.default]
  http:
  - name: wisdom-0
    match: [{headers: {branch: {exact: wisdom-0}}}]
    rewrite: {uri: /v2/models/wisdom-0/infer}
    route:
    - destination: {host: knative-local-gateway.istio-system.svc.cluster.local}
      headers: {request: {set: {Host: wisdom-0-predictor.default.svc.cluster.local}, remove: [branch]}}
  {{- if gt (index .Weights 1) 0 }}
  - name: wisdom-1
    match: [{headers: {branch: {exact: wisdom-1}}}]
    rewrite: {uri: /v2/models/wisdom-1/infer}
    route:
    - destination: {host: knative-local-gateway.istio-system.svc.cluster.local}
      headers: {request: {set: {Host: wisdom-1-predictor.default.svc.cluster.local}, remove: [branch]}}
  {{- end }}
  - name: split
    route:
    - destination: {host: knative-local-gateway.istio-system.svc.cluster.local}
      {{- if gt (index .Weights 1) 0 }}
      weight: {{ index .Weights 0 }}
      {{- end }}
      headers: {request: {set: {branch: wisdom-0, host: wisdom.default}}}
    {{- if gt (index .Weights 1) 0 }}
    - destination: {host: knative-local-gateway.istio-system.svc.cluster.local}
      weight: {{ index .Weights 1 }}
      headers: {request: {set: {branch: wisdom-1, host: wisdom.default}}}
    {{- end }}
"""
GATEWAY_BLUE_GREEN = """\
kind: HTTPRoute
spec:
  hostnames: [wisdom, wisdom.default]
  rules:
  - backendRefs:
    - name: wisdom-0
      port: 80
      {{- if gt (index .Weights 1) 0 }}
      weight: {{ index .Weights 0 }}
      {{- end }}
    - name: wisdom-1
      port: 80
      {{- if gt (index .Weights 1) 0 }}
      weight: {{ index .Weights 1 }}
      {{- end }}
"""
GATEWAY_CANARY = """\
kind: HTTPRoute
spec:
  hostnames: [wisdom.default]
  rules:
  - matches:
    - headers: [{name: traffic, value: test}]
    backendRefs: [{name: wisdom-1, port: 80}]
  - backendRefs: [{name: wisdom-0, port: 80}]
"""
DEPLOYMENT_MIRROR = """\
kind: VirtualService
spec:
  hosts: [wisdom.default]
  http:
  - name: wisdom
    route:
    - destination: {host: wisdom-0.default.svc.cluster.local, port: {number: 80}}
      {{- if gt (index .Weights 1) 0 }}
      weight: {{ index .Weights 0 }}
      {{- end }}
    {{- if gt (index .Weights 1) 0 }}
    mirror: {host: wisdom-1.default.svc.cluster.local}
    mirrorPercentage: {value: {{ index .Weights 1 }}}
    {{- end }}
"""


def read(template, versions=VERSIONS):
    return routing("wisdom", template, versions, "ConfigMap default/wisdom", "template")


@pytest.mark.parametrize(
    ("template", "strategy", "hosts"),
    [
        (MESH_BLUE_GREEN, Strategy.BLUE_GREEN, ("wisdom.modelmesh-serving", "wisdom.modelmesh-serving.svc")),
        (MESH_MIRROR, Strategy.MIRROR, ("wisdom.modelmesh-serving",)),
        (MESH_CANARY, Strategy.CANARY, ("wisdom.modelmesh-serving",)),
        (KSERVE_BLUE_GREEN, Strategy.BLUE_GREEN, ("wisdom.default",)),
        (GATEWAY_BLUE_GREEN, Strategy.BLUE_GREEN, ("wisdom", "wisdom.default")),
        (GATEWAY_CANARY, Strategy.CANARY, ("wisdom.default",)),
        (DEPLOYMENT_MIRROR, Strategy.MIRROR, ("wisdom.default",)),
        ("kind: VirtualService\nspec: {http: [{route: [{destination: {host: a}}]}]}", Strategy.NONE, ()),
    ],
)
def test_each_charts_template_is_known_for_what_it_does(template, strategy, hosts):
    found, problems = read(template)
    assert not problems
    assert (found.strategy, found.hosts) == (strategy, hosts)


@pytest.mark.parametrize("template", [MESH_MIRROR, DEPLOYMENT_MIRROR])
def test_a_mirror_by_weight_has_no_percentage_of_its_own(template):
    assert read(template)[0].mirrors == {1: None}


@pytest.mark.parametrize("value", ["20", "12.5"])
def test_a_written_percentage_is_seen(value):
    assert read(MESH_MIRROR.replace("{{ index .Weights  1 }}", value))[0].mirrors == {1: float(value)}


def test_several_copies_are_kept_apart():
    """The chart repeats the keys mirror and mirrorPercentage, of which YAML readers keep only the last."""
    second = "\n    mirror: {host: wisdom-2.default.svc}\n    mirrorPercentage: {value: {{ index .Weights 2 }}}\n"
    found, _ = read(DEPLOYMENT_MIRROR.rstrip() + second, (*VERSIONS, "wisdom-2"))
    assert found.mirrors == {1: None, 2: None}


def test_matches_are_rewritten_for_their_version():
    match = {"headers": [{"name": "traffic", "exact": "test"}], "path": {"prefix": "/v2/"}}
    assert read(MESH_CANARY)[0].matches == {1: [match]}
    assert read(GATEWAY_CANARY)[0].matches == {1: [{"headers": [{"name": "traffic", "exact": "test"}]}]}


def test_a_match_that_we_lack_is_told():
    found, problems = read(MESH_CANARY.replace("uri: {prefix: /v2/}", "sourceLabels: {app: x}"))
    assert found.matches == {1: [{"headers": [{"name": "traffic", "exact": "test"}]}]}
    assert [one.what for one in problems] == ["matching on sourceLabels is not supported"]


def test_the_kserve_charts_second_pass_is_no_canary_and_shows_the_paths():
    found, _ = read(KSERVE_BLUE_GREEN)
    assert found.matches == {}
    assert found.paths == {0: "/v2/models/wisdom-0/infer", 1: "/v2/models/wisdom-1/infer"}


def test_it_says_that_nothing_is_rendered():
    assert read(MESH_MIRROR)[0].told == (
        "routing template 'wisdom' is not rendered, routes are computed: strategy mirror (candidates get copies)"
    )


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("http:\n{{ range .Versions }}\n - mirror: x\n  - y: [", Strategy.MIRROR),
        ("{{ range .Versions }}- weight: 3\n ]", Strategy.BLUE_GREEN),
        ("- match: {{\n", Strategy.CANARY),
        ("{{ oops", Strategy.NONE),
    ],
)
def test_a_template_that_is_no_yaml_without_its_actions_is_searched_for_words(text, strategy):
    assert read(text)[0].strategy is strategy


@pytest.mark.parametrize("hostile", ["{{" * 15_000, "{{}}" * 8_000 + "x", "[" * 20_000, "{" * 20_000])
def test_a_hostile_text_takes_no_time(hostile):
    before = time.process_time()
    read(hostile)
    assert time.process_time() - before < 0.5


pieces = st.sampled_from(
    [*(MESH_CANARY + MESH_MIRROR + GATEWAY_BLUE_GREEN).splitlines(), "&a [*a]", "? - :", "{{", "mirror: 3"]
)


@given(st.lists(pieces, max_size=25))
def test_any_text_gets_an_answer(lines):
    found, _ = read("\n".join(lines))
    assert 0 not in found.mirrors
    assert 0 not in found.matches


def test_a_lone_arm_with_a_weight_is_no_split():
    weighed = GATEWAY_CANARY.replace("port: 80}", "port: 80, weight: 100}")
    assert read(weighed)[0].strategy is Strategy.CANARY


def test_hosts_that_only_rendering_would_tell_are_left_out():
    assert read(MESH_CANARY.replace("[wisdom.modelmesh-serving]", "['{{ .Name }}.ns', a.ns]"))[0].hosts == ("a.ns",)


def test_the_headers_of_an_entry_with_a_mirror_are_the_copys():
    template = """\
spec:
  http:
  - rewrite: {uri: /v2/models/x/infer}
    headers: {request: {set: {mm-vmodel-id: wisdom-1}}}
    mirror: {host: wisdom-1.ns}
    route: [{destination: {host: wisdom-0.ns}}]
"""
    assert read(template)[0].paths == {0: "/v2/models/x/infer"}
    assert read(template)[0].mirrors == {1: 100.0}
