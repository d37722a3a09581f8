import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.experiment.gotemplate import Template, TemplateFault

ISTIO_SHAPED = """\
# labels    map    optional
{{- define "labels"}}
{{- range $key, $val := .labels }}
{{- if or (eq (kindOf $val) "slice") (eq (kindOf $val) "map")}}
{{- fail (printf "labels should be primitive, not %s: %s" $key $val) }}
{{- end }}
        {{ $key }}="{{ $val }}",
{{- end }}
{{- end}}
url: {{ .promURL | default "http://prometheus.istio-system:9090/api/v1/query" }}
provider: istio-prom
metrics:
- name: request-count
  type: counter
  params:
  - name: query
    value: |
      sum(last_over_time(istio_requests_total{
        {{- template "labels" . }}
      }[{{ .elapsedTimeSeconds }}s])) or on() vector(0)
{{- range $i, $p := .latencyPercentiles }}
- name: latency-p{{ $p }}
  type: gauge
  params:
  - name: query
    value: |
      histogram_quantile(0.{{ $p }}, sum(rate(x{
        {{- template "labels" $ }}
      }[{{ $.elapsedTimeSeconds }}s])) by (le))
{{- end }}
"""


def rendered(source: str, data: object = None) -> str:
    return Template(source).render(data if data is not None else {})


def test_a_provider_shaped_as_those_of_iter8_becomes_yaml() -> None:
    values = {"labels": {"app": "x", "version": 2}, "elapsedTimeSeconds": 30, "latencyPercentiles": [50, 99]}
    made = yaml.safe_load(rendered(ISTIO_SHAPED, values))
    assert made["url"] == "http://prometheus.istio-system:9090/api/v1/query"
    assert [one["name"] for one in made["metrics"]] == ["request-count", "latency-p50", "latency-p99"]
    assert made["metrics"][0]["params"][0]["value"].split() == [
        "sum(last_over_time(istio_requests_total{",
        'app="x",',
        'version="2",',
        "}[30s]))",
        "or",
        "on()",
        "vector(0)",
    ]
    assert "histogram_quantile(0.99, " in made["metrics"][2]["params"][0]["value"]


def test_a_template_can_refuse() -> None:
    with pytest.raises(TemplateFault, match="labels should be primitive, not a: map"):
        rendered(ISTIO_SHAPED, {"labels": {"a": {"b": 1}}, "elapsedTimeSeconds": 1})


def test_what_has_no_value_is_a_fault_that_names_it_and_its_line() -> None:
    with pytest.raises(TemplateFault, match=r"line 3: \.a\.b has no value"):
        rendered("x\ny\n{{ .a.b }}")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a {{- 1 -}} b", "a1b"),
        ("a {{/* no\n */}} b", "a  b"),
        ("{{ if .no }}x{{ else if .yes }}y{{ else }}z{{ end }}", "y"),
        ("{{ with .map }}{{ .k }}{{ end }}", "v"),
        ("{{ with .no }}x{{ else }}none{{ end }}", "none"),
        ("{{ range .list }}{{ . }},{{ end }}", "3,4,"),
        ("{{ range $i, $e := .list }}{{ $i }}{{ $e }}{{ end }}", "0314"),
        ("{{ range .no }}x{{ else }}empty{{ end }}", "empty"),
        ("{{ range .list }}{{ break }}{{ . }}{{ end }}", ""),
        ("{{ range $k, $v := .map }}{{ $k }}={{ $v }}{{ end }}", "k=v"),
        ("{{ $x := 1 }}{{ range .list }}{{ $x = add $x . }}{{ end }}{{ $x }}", "8"),
        ("{{ index .list 1 }}{{ len .list }}{{ (index .deep 0).name }}", "42n"),
        ('{{ printf "%05.2f|%-4s|%q|%d|%v" 3.14159 "a" "b" 7 .list }}', '03.14|a   |"b"|7|[3 4]'),
        ('{{ "a\\tb" }}{{ `raw\\n` }}', "a\tbraw\\n"),
        ("{{ .map | toJson }}{{ .list | toYaml | nindent 2 }}", '{"k":"v"}\n  - 3\n  - 4'),
        ('{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .yes }}{{ include "t" 1 | upper }}', "<true><1>"),
        ('{{ regexReplaceAll "(a)(b)" "abab" "${2}$1" }}', "baba"),
        ('{{ and 1 0 }}{{ or 0 "x" }}{{ not 0 }}{{ eq 1 2 1 }}{{ ge 2 1 }}', "0xtruetruetrue"),
        ('{{ default "d" .no }}{{ ternary 1 2 true }}{{ coalesce .no "c" }}', "d1c"),
        ('{{ "x" | quote }}{{ trimSuffix ".a" "b.a" }}{{ splitList "," "a,b" | last }}', '"x"bb'),
        ("{{ 1000000.0 }} {{ 0.1 }} {{ 1e21 }} {{ 2.5e-7 }}", "1000000 0.1 1e+21 2.5e-07"),
        ('{{ dict "a" 1 "b" (list 1 2) | toJson }}', '{"a":1,"b":[1,2]}'),
        ("{{ div 7 2 }}{{ mod 7 2 }}{{ round 2.345 2 }}{{ max 1 3 2 }}", "312.353"),
        ('{{ b64enc "a" }}{{ "YQ==" | b64dec }}{{ date "2006-01-02" 0 }}', "YQ==a1970-01-01"),
    ],
)
def test_the_words_of_go_and_sprig(source: str, expected: str) -> None:
    data = {"yes": True, "map": {"k": "v"}, "list": [3, 4], "deep": [{"name": "n"}]}
    assert rendered(source, data) == expected


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("{{ if 1 }}x", "{{if}} without its {{end}}"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ nosuch 1 }}", "function 'nosuch' is not known"),
        ("{{ .a", "'{{' without '}}'"),
        ("{{ }}", "an action is empty"),
        ('{{ template "x" }}', "no template 'x' is defined"),
        ("{{ $x }}", "variable $x is not declared"),
        ("{{ div 1 0 }}", "div: division by zero"),
        ('{{ define "t" }}{{ template "t" }}{{ end }}{{ template "t" }}', "calls itself without end"),
        ('{{ repeat 100000000 "x" }}', "more than 1,000,000 characters"),
        ('{{ range untilStep 0 900000 1 }}{{ repeat 1000 "x" }}{{ end }}', "more than 4,194,304 characters"),
        ('{{ printf "%999999999d" 1 }}', "999999999 is too much"),
        ('{{ "x" | indent 999999999 }}', "is too much"),
        ("{{ seq 1 999999999 }}", "more than 1,000,000 numbers"),
        ("{{ until 999999999 }}", "more than 1,000,000 numbers"),
        ("{{ 1 2 }}", "a literal cannot be called"),
        ('{{ fail "no" }}', "line 1: no"),
        ("{{ __class__ }}", "is not known"),
    ],
)
def test_faults_say_what_and_where(source: str, what: str) -> None:
    with pytest.raises(TemplateFault) as fault:
        rendered(source)
    assert what in str(fault.value)


@given(st.text(alphabet='{}-. $|"`()abe0ndifrange:=/*\n', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_rendered_or_refused(source: str) -> None:
    with contextlib.suppress(TemplateFault):
        rendered(source, {"a": 1})


@given(st.text().filter(lambda text: "{{" not in text))
@settings(max_examples=100, deadline=None)
def test_text_without_actions_stays(source: str) -> None:
    assert rendered(source) == source
