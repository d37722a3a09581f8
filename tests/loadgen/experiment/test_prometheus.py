"""Task `custommetrics` on a real Prometheus, with a template shaped as those that Iter8 ships."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

from experiment_bench import Bench, go, served
from scraping import needs_prometheus, prometheus

from loadgen.experiment.metric import read

TEMPLATE = """\
{{- define "labels"}}
{{- range $key, $val := .labels }}
{{- if or (eq (kindOf $val) "slice") (eq (kindOf $val) "map")}}
{{- fail (printf "labels should be a primitive types but received: %s :%s" $key $val) }}
{{- end }}
        {{ $key }}="{{ $val }}",
{{- end }}
{{- end}}
url: {{ .promURL | default "http://prometheus.istio-system:9090/api/v1/query" }}
provider: istio-prom
method: GET
metrics:
- name: request-count
  type: counter
  description: |
    Number of requests
  params:
  - name: query
    value: |
      sum(last_over_time(istio_requests_total{
        {{- template "labels" . }}
      }[{{ .elapsedTimeSeconds }}s])) or on() vector(0)
  jqExpression: .data.result[0].value[1] | tonumber
- name: error-rate
  type: gauge
  description: |
    Fraction of unsuccessful requests
  params:
  - name: query
    value: |
      (sum(last_over_time(istio_requests_total{
        response_code=~'5..',
        {{- template "labels" . }}
      }[{{ .elapsedTimeSeconds }}s])) or on() vector(0))/(sum(last_over_time(istio_requests_total{
        {{- template "labels" . }}
      }[{{ .elapsedTimeSeconds }}s])) or on() vector(0))
  jqExpression: .data.result.[0].value.[1] | tonumber
{{- range $i, $p := .latencyPercentiles }}
- name: latency-p{{ $p }}
  type: gauge
  description: |
    {{ $p }} percentile latency
  params:
  - name: query
    value: |
      histogram_quantile(0.{{ $p }}, sum(last_over_time(istio_request_duration_milliseconds_bucket{
        {{- template "labels" $ }}
      }[{{ $.elapsedTimeSeconds }}s])) by (le))
  jqExpression: .data.result[0].value[1] | tonumber
{{- end }}
"""
SERIES = """\
istio_requests_total{app="wisdom",version="v1",response_code="200"} 99
istio_requests_total{app="wisdom",version="v1",response_code="503"} 1
istio_requests_total{app="wisdom",version="v2",response_code="200"} 30
istio_requests_total{app="wisdom",version="v2",response_code="500"} 10
istio_requests_total{app="other",version="v1",response_code="500"} 1000
istio_request_duration_milliseconds_bucket{app="wisdom",version="v1",le="10"} 100
istio_request_duration_milliseconds_bucket{app="wisdom",version="v1",le="+Inf"} 100
istio_request_duration_milliseconds_bucket{app="wisdom",version="v2",le="10"} 0
istio_request_duration_milliseconds_bucket{app="wisdom",version="v2",le="100"} 40
istio_request_duration_milliseconds_bucket{app="wisdom",version="v2",le="+Inf"} 40
"""


@needs_prometheus
def test_versions_are_assessed_by_what_prometheus_knows(bench: Bench, tmp_path: Path) -> None:
    async def body() -> None:
        async with served() as exporter:
            exporter.answer = lambda asked: SERIES
            target = exporter.url.removeprefix("http://")
            async with prometheus(tmp_path, {"mesh": [target]}) as there:
                async with asyncio.timeout(60):
                    for _ in itertools.count():
                        if len(await there.ask("istio_request_duration_milliseconds_bucket")) == 5:
                            break
                        await asyncio.sleep(0.05)
                (tmp_path / "istio-prom.tpl").write_text(TEMPLATE)
                result = await bench.run(
                    f"""
spec:
- task: custommetrics
  with:
    templates: {{istio-prom: istio-prom.tpl}}
    values: {{labels: {{app: wisdom}}, latencyPercentiles: [50, 90], promURL: "{there.url}/api/v1/query",
             startingTime: "2020-01-01T00:00:00Z"}}
    versionValues: [{{labels: {{version: v1}}}}, {{labels: {{version: v2}}}}]
    versions: [v1, v2]
- task: assess
  with:
    SLOs: {{upper: [{{metric: istio-prom/error-rate, limit: 0.05}}, {{metric: istio-prom/latency-p90, limit: 50}}]}}
    rewards: {{min: [istio-prom/latency-p50], max: [istio-prom/request-count]}}
""",
                    now=time.time,
                )
        assert result.completed(), bench.lines

        def values(name: str) -> list[float | None]:
            return [read(f"istio-prom/{name}", known).value for known in result.insights.observed]

        assert values("request-count") == [100, 40]
        assert values("error-rate") == [0.01, 0.25]
        assert values("latency-p50") == [5, 55]
        assert values("latency-p90") == [9, 91]
        verdicts = [tuple(one.state for one in slo.verdicts) for slo in result.insights.slos]
        assert verdicts == [("pass", "fail"), ("pass", "fail")]
        assert [one.winner for one in result.insights.rewards] == [0, 0]

    go(body())
