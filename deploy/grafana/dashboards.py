"""The dashboards as Grafana takes them: `python deploy/grafana/dashboards.py` writes the *.json beside it.

Every panel asks what the sidecars and the control plane tell, so that none of them needs the recording rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'namespace=~"$namespace", model=~"$model"'
LIVE = f'{CHOSEN}, shadow="false"'
COPIES = f'{CHOSEN}, shadow="true"'
PLANE = 'job=~"$job"'
WINDOW = "[$__rate_interval]"

GREEN, YELLOW, RED = "green", "yellow", "red"
FEW_ERRORS = ((None, GREEN), (0.01, YELLOW), (0.05, RED))
FAST = ((None, GREEN), (1, YELLOW), (10, RED))
NONE_WANTED = ((None, GREEN), (1, RED))
ALL_WANTED = ((None, RED), (1, GREEN))
PLAIN = ((None, GREEN),)
Steps = tuple[tuple[float | None, str], ...]


@dataclass(frozen=True)
class Panel:
    """One question, or several of the same unit; `asked` is legend and PromQL."""

    title: str
    description: str
    asked: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    steps: Steps = PLAIN
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    name: str
    label: str
    query: str
    many: bool = False


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


def per_second(name: str, chosen: str, by: str = "", window: str = WINDOW) -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({name}{{{chosen}}}{window}))"


def requests(chosen: str, by: str = "") -> str:
    return per_second("headgate_requests_total", chosen, by)


def error_ratio(chosen: str, by: str = "") -> str:
    """What docs/sidecar.md calls an error, of all requests; 0 where nothing failed."""
    kinds = ('code=~"5.."', 'grpc_status=~"2|4|12|13|14|15"', 'flags=~"(.*,)?(UC|UR|UPE|UT|LR|SI|UMSDR)(,.*)?"')
    failed = " or ".join(f"rate(headgate_requests_total{{{chosen}, {kind}}}{WINDOW})" for kind in kinds)
    total = requests(chosen, by)
    of = f" by ({by})" if by else ""
    return f"(sum{of} ({failed}) or 0 * {total}) / ({total} > 0)"


def quantile(share: float, name: str, chosen: str, by: str = "") -> str:
    return f"histogram_quantile({share}, {per_second(f'{name}_bucket', chosen, f'{by}, le' if by else 'le')})"


def mean(name: str, chosen: str, by: str) -> str:
    return f"{per_second(name, chosen, by)} / ({requests(chosen, by)} > 0)"


DURATION, FIRST_BYTE = "headgate_request_duration_seconds", "headgate_time_to_first_byte_seconds"
VERSION = "{{version}}"
SHARE = f"{requests(LIVE, 'version')} / ignoring(version) group_left () ({requests(LIVE)} > 0)"

MODEL = (
    Variable("namespace", "Namespace", 'label_values(headgate_requests_total{model!=""}, namespace)'),
    Variable("model", "Model", 'label_values(headgate_requests_total{namespace=~"$namespace", model!=""}, model)'),
)

ROLLOUT = Dashboard(
    "headgate-rollout",
    "headgate: rollout of a model",
    "Who answers a model's users now, and how a rollout goes.",
    MODEL,
    (
        Row(
            "Now",
            (
                Panel(
                    "Requests",
                    "Requests a second, of all versions; mirrored copies are not among them.",
                    (("", requests(LIVE)),),
                    "reqps",
                    "stat",
                    6,
                ),
                Panel(
                    "Errors",
                    "Share of requests that failed: 5xx, the gRPC statuses that mean the same, broken answers.",
                    (("", error_ratio(LIVE)),),
                    "percentunit",
                    "stat",
                    6,
                    FEW_ERRORS,
                ),
                Panel(
                    "p99",
                    "Of 100 requests, 99 are done within this time.",
                    (("", quantile(0.99, DURATION, LIVE)),),
                    "s",
                    "stat",
                    6,
                    FAST,
                ),
                Panel(
                    "Versions with traffic",
                    "Versions that answered users within the last minutes. More than one: a rollout is under way.",
                    (("", f"count({requests(LIVE, 'version')} > 0)"),),
                    "none",
                    "stat",
                    6,
                ),
            ),
        ),
        Row(
            "The rollout",
            (
                Panel(
                    "Share of requests by version",
                    "What users really got, to be compared with the weights of the rollout.",
                    ((VERSION, SHARE),),
                    "percentunit",
                    stacked=True,
                ),
                Panel(
                    "Requests by version and route",
                    "primary: answers by default; candidate: by its weight; header: pinned by a header.",
                    (("{{version}} ({{route}})", requests(LIVE, "version, route")),),
                    "reqps",
                ),
                Panel(
                    "Errors by version",
                    "Share of each version's requests that failed.",
                    ((VERSION, error_ratio(LIVE, "version")),),
                    "percentunit",
                    steps=FEW_ERRORS,
                ),
                Panel(
                    "p99 by version",
                    "From a request's first byte to its answer's last.",
                    ((VERSION, quantile(0.99, DURATION, LIVE, "version")),),
                    "s",
                    steps=FAST,
                ),
                Panel(
                    "Answers by code",
                    "What users got; code 0 is a client that left before the answer.",
                    (("{{code}}", requests(LIVE, "code")),),
                    "reqps",
                    stacked=True,
                ),
                Panel(
                    "Requests that ended badly, by Envoy's flags",
                    "DC the client left, UC the server's connection ended, UT too slow, UH no server ready. "
                    "Empty when all is well.",
                    (("{{version}} {{flags}}", requests(f'{LIVE}, flags!=""', "version, flags")),),
                    "reqps",
                    steps=NONE_WANTED,
                ),
            ),
        ),
        Row(
            "Mirrored copies (their answers are thrown away)",
            (
                Panel(
                    "Copies by version",
                    "Copies that were answered.",
                    ((VERSION, requests(COPIES, "version")),),
                    "reqps",
                    width=8,
                ),
                Panel(
                    "Errors of copies",
                    "Share of copies that failed. Users do not notice.",
                    ((VERSION, error_ratio(COPIES, "version")),),
                    "percentunit",
                    width=8,
                    steps=FEW_ERRORS,
                ),
                Panel(
                    "p99 of copies",
                    "What users would wait if this version answered them.",
                    ((VERSION, quantile(0.99, DURATION, COPIES, "version")),),
                    "s",
                    width=8,
                    steps=FAST,
                ),
            ),
        ),
    ),
)

PINNED = f'{LIVE}, version=~"$version"'


def difference(figure: str) -> str:
    """Of the candidates' figure to the primary's."""
    return " - ".join(figure.replace("ROUTE", route) for route in ("candidate", "primary"))


ROUTE = f'{LIVE}, route="ROUTE"'
VERSIONS = Dashboard(
    "headgate-versions",
    "headgate: versions compared",
    "The versions of a model beside each other: is the new one as good?",
    (
        *MODEL,
        Variable(
            "version",
            "Versions",
            'label_values(headgate_requests_total{namespace=~"$namespace", model=~"$model"}, version)',
            many=True,
        ),
    ),
    (
        Row(
            "Candidate against primary",
            (
                Panel(
                    "More errors with candidates",
                    "Candidates' share of failed requests less the primary's. Above zero they are worse.",
                    (("", difference(f"({error_ratio(ROUTE)})")),),
                    "percentunit",
                    "stat",
                    8,
                    FEW_ERRORS,
                ),
                Panel(
                    "Slower at p50",
                    "Candidates' median less the primary's.",
                    (("", difference(quantile(0.5, DURATION, ROUTE))),),
                    "s",
                    "stat",
                    8,
                    FAST,
                ),
                Panel(
                    "Slower at p99",
                    "Candidates' p99 less the primary's.",
                    (("", difference(quantile(0.99, DURATION, ROUTE))),),
                    "s",
                    "stat",
                    8,
                    FAST,
                ),
            ),
        ),
        Row(
            "Every version",
            (
                Panel("Requests", "Requests a second.", ((VERSION, requests(PINNED, "version")),), "reqps"),
                Panel(
                    "Errors",
                    "Share of requests that failed.",
                    ((VERSION, error_ratio(PINNED, "version")),),
                    "percentunit",
                    steps=FEW_ERRORS,
                ),
                *(
                    Panel(
                        f"Duration, {name}",
                        "From a request's first byte to its answer's last.",
                        ((VERSION, quantile(share, DURATION, PINNED, "version")),),
                        "s",
                        width=8,
                        steps=FAST,
                    )
                    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
                ),
                *(
                    Panel(
                        f"Time to first byte, {name}",
                        "For streams, the time to the first token.",
                        ((VERSION, quantile(share, FIRST_BYTE, PINNED, "version")),),
                        "s",
                        steps=FAST,
                    )
                    for name, share in (("p50", 0.5), ("p99", 0.99))
                ),
                Panel(
                    "Size of a request",
                    "Mean size of requests' bodies.",
                    ((VERSION, mean("headgate_request_bytes_total", PINNED, "version")),),
                    "bytes",
                ),
                Panel(
                    "Size of an answer",
                    "Mean size of answers' bodies. A version whose answers shrink may answer with less.",
                    ((VERSION, mean("headgate_response_bytes_total", PINNED, "version")),),
                    "bytes",
                ),
                Panel(
                    "Answers by code",
                    "Each version's answers by HTTP's code.",
                    (("{{version}} {{code}}", requests(PINNED, "version, code")),),
                    "reqps",
                ),
                Panel(
                    "gRPC calls by status",
                    "0 is OK. Empty for models that are asked over HTTP only.",
                    (("{{version}} {{grpc_status}}", requests(f'{PINNED}, protocol="grpc"', "version, grpc_status")),),
                    "reqps",
                ),
            ),
        ),
    ),
)

KUBERNETES = "headgate_kubernetes_"
CONTROL_PLANE = Dashboard(
    "headgate-control-plane",
    "headgate: control plane",
    "Whether what rollouts want reaches the Envoys, and how replicas get on with the cluster.",
    (Variable("job", "Job", "label_values(headgate_build_info, job)", many=True),),
    (
        Row(
            "Now",
            (
                Panel(
                    "Envoys connected",
                    "Open xDS streams, on all replicas.",
                    (("", f"sum(headgate_xds_connected_envoys{{{PLANE}}})"),),
                    "none",
                    "stat",
                    6,
                    ALL_WANTED,
                ),
                Panel(
                    "Models rejected",
                    "An Envoy would not take them and keeps the last good routes.",
                    (("", f'max(headgate_models{{{PLANE}, state="Rejected"}})'),),
                    "none",
                    "stat",
                    6,
                    NONE_WANTED,
                ),
                Panel(
                    "Problems",
                    "Problems of severity error: somebody has to mend something.",
                    (("", f'max(headgate_problems{{{PLANE}, severity="error"}})'),),
                    "none",
                    "stat",
                    6,
                    NONE_WANTED,
                ),
                Panel(
                    "Envoys whose figures are read",
                    "Sidecars that can read their Envoy.",
                    (("", "sum(headgate_sidecar_envoy_up)"),),
                    "none",
                    "stat",
                    6,
                    ALL_WANTED,
                ),
            ),
        ),
        Row(
            "Models and Envoys",
            (
                Panel(
                    "Models by state",
                    "Programmed: every connected Envoy has what is wanted.",
                    (("{{gateway}} {{state}}", f"max by (gateway, state) (headgate_models{{{PLANE}}})"),),
                    "none",
                    stacked=True,
                ),
                Panel(
                    "Envoys by replica",
                    "They spread over the replicas as connections do.",
                    (
                        (
                            "{{gateway}} at {{instance}}",
                            f"sum by (gateway, instance) (headgate_xds_connected_envoys{{{PLANE}}})",
                        ),
                    ),
                    "none",
                    stacked=True,
                ),
                Panel(
                    "Time until an Envoy has confirmed",
                    "From sending a response to its ACK.",
                    tuple(
                        (name, quantile(share, "headgate_xds_ack_seconds", PLANE))
                        for name, share in (("p50", 0.5), ("p99", 0.99))
                    ),
                    "s",
                    steps=((None, GREEN), (1, RED)),
                ),
                Panel(
                    "Responses sent",
                    "By type of resource.",
                    (("{{type}}", per_second("headgate_xds_pushes_total", PLANE, "type")),),
                    "ops",
                ),
                Panel(
                    "Bytes sent",
                    "By type of resource.",
                    (("{{type}}", per_second("headgate_xds_push_bytes_total", PLANE, "type")),),
                    "Bps",
                ),
                Panel(
                    "Rejections and refused streams",
                    "Resources that Envoys would not take, and Envoys that were turned away. Empty when all is well.",
                    (
                        ("rejected {{type}}", per_second("headgate_xds_rejections_total", PLANE, "type")),
                        ("refused: {{reason}}", per_second("headgate_xds_refused_streams_total", PLANE, "reason")),
                    ),
                    "ops",
                    steps=NONE_WANTED,
                ),
                Panel(
                    "Load reports",
                    "What drains are decided by: Envoys tell their requests in progress.",
                    (
                        ("reports", per_second("headgate_xds_load_reports_total", PLANE)),
                        ("reporters", f"sum(headgate_xds_load_reporters{{{PLANE}}})"),
                    ),
                ),
                Panel(
                    "Problems by severity",
                    "Warnings are worth a look, errors have to be mended.",
                    (("{{severity}}", f"max by (severity) (headgate_problems{{{PLANE}}})"),),
                    "none",
                ),
            ),
        ),
        Row(
            "Kubernetes",
            (
                Panel(
                    "API server followed",
                    "1 while a replica hears of changes. At 0 it goes on serving what it saw last.",
                    (("{{instance}}", f"{KUBERNETES}followed{{{PLANE}}}"),),
                    "bool",
                    width=8,
                    steps=ALL_WANTED,
                ),
                Panel(
                    "Leader",
                    "1 for the replica that writes statuses and releases deleted resources. There should be one.",
                    (("{{instance}}", f"{KUBERNETES}leads{{{PLANE}}}"),),
                    "none",
                    width=8,
                ),
                Panel(
                    "Replicas, as each one sees them",
                    "Live replicas, itself included. Lines apart: replicas do not see each other.",
                    (("{{instance}}", f"{KUBERNETES}replicas{{{PLANE}}}"),),
                    "none",
                    width=8,
                ),
                Panel(
                    "Time since the API server last said anything",
                    "At most kubernetes.watchTimeout and some seconds; more is a watch that is silent.",
                    (("{{resource}}", f"max by (resource) ({KUBERNETES}heard_age_seconds{{{PLANE}}})"),),
                    "s",
                    steps=((None, GREEN), (90, YELLOW), (300, RED)),
                ),
                Panel(
                    "Objects known",
                    "What memory grows with.",
                    (("{{resource}}", f"max by (resource) ({KUBERNETES}objects{{{PLANE}}})"),),
                    "none",
                ),
                Panel(
                    "Deletions that wait",
                    "Resources that are kept until their last request has ended; on the leader.",
                    (("draining", f"max({KUBERNETES}draining{{{PLANE}}})"),),
                    "none",
                    width=8,
                ),
                Panel(
                    "Statuses that wait",
                    "Rollouts whose status is to be looked at.",
                    (("{{instance}}", f"{KUBERNETES}status_queue{{{PLANE}}}"),),
                    "none",
                    width=8,
                    steps=((None, GREEN), (100, RED)),
                ),
                Panel(
                    "Status writes",
                    "Conflicts are made again by themselves; failures are rights that are missing, or the API server.",
                    tuple(
                        (name, per_second(f"{KUBERNETES}status_{name}_total", PLANE))
                        for name in ("writes", "conflicts", "failures")
                    ),
                    "ops",
                    width=8,
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "CPU of the control plane",
                    "Cores, by replica.",
                    (("{{instance}}", f"rate(process_cpu_seconds_total{{{PLANE}}}{WINDOW})"),),
                    "none",
                    width=8,
                ),
                Panel(
                    "Memory of the control plane",
                    "By replica. The chart's limit is 512 MiB.",
                    (("{{instance}}", f"process_resident_memory_bytes{{{PLANE}}}"),),
                    "bytes",
                    width=8,
                ),
                Panel(
                    "Sidecars: time of a reading",
                    "How long reading Envoy's figures takes.",
                    (("{{instance}}", "headgate_sidecar_read_seconds"),),
                    "s",
                    width=8,
                ),
                Panel(
                    "Sidecars: age of the figures",
                    "More than some seconds: the Envoy cannot be read.",
                    (("{{instance}}", "headgate_sidecar_age_seconds"),),
                    "s",
                    width=8,
                    steps=((None, GREEN), (10, YELLOW), (30, RED)),
                ),
                Panel(
                    "Sidecars: failed readings",
                    "While an Envoy starts some are usual.",
                    (("{{instance}}", f"rate(headgate_sidecar_read_failures_total{WINDOW})"),),
                    "ops",
                    width=8,
                ),
                Panel(
                    "Sidecars: stats",
                    "Stats that are followed, and those that there was no room for.",
                    (
                        ("{{instance}}", "headgate_sidecar_stats"),
                        ("{{instance}} refused", "headgate_sidecar_refused_stats"),
                    ),
                    "none",
                    width=8,
                ),
            ),
        ),
    ),
)

DASHBOARDS = {"rollout": ROLLOUT, "versions": VERSIONS, "control-plane": CONTROL_PLANE}


def document(board: Dashboard) -> dict[str, Any]:
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["headgate"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), *map(_variable, board.variables)]},
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "tags": ["headgate"],
                "title": "headgate",
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": list(_panels(board.rows)),
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _variable(one: Variable) -> dict[str, Any]:
    return {
        "name": one.name,
        "label": one.label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": one.query,
        "query": {"query": one.query, "refId": one.name},
        "refresh": 2,
        "sort": 1,
        "multi": one.many,
        "includeAll": one.many,
        "allValue": ".*" if one.many else None,
        "current": {"text": "All", "value": "$__all"} if one.many else {},
    }


def _panels(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Side by side as long as a line of 24 has room."""
    ids, y = count(1), 0
    for row in rows:
        yield {
            "id": next(ids),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            "panels": [],
        }
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            yield _panel(panel, next(ids), {"x": x, "y": y, "w": panel.width, "h": height})
            x += panel.width
        y += height


def _panel(one: Panel, number: int, where: dict[str, int]) -> dict[str, Any]:
    stat = one.kind == "stat"
    lines: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 30 if one.stacked else 10, "showPoints": "never"}
    lines |= {"stacking": {"mode": "normal" if one.stacked else "none"}}
    lines |= {"thresholdsStyle": {"mode": "dashed" if one.steps != PLAIN else "off"}}
    return {
        "id": number,
        "type": one.kind,
        "title": one.title,
        "description": one.description,
        "datasource": DATASOURCE,
        "gridPos": where,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": stat,
                "range": not stat,
            }
            for index, (legend, expression) in enumerate(one.asked)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": one.unit,
                "color": {"mode": "thresholds" if stat else "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": [{"value": at, "color": color} for at, color in one.steps]},
                "custom": {} if stat else lines,
            },
            "overrides": [],
        },
        "options": (
            {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "none"}
            if stat
            else {
                "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        ),
    }


def files() -> dict[str, str]:
    return {f"{name}.json": json.dumps(document(board), indent=1) + "\n" for name, board in DASHBOARDS.items()}


if __name__ == "__main__":
    for file, text in files().items():
        (HERE / file).write_text(text)
