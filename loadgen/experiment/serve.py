"""Results over HTTP: Iter8's addresses, methods, parameters and complaints; its dashboards need no change.

PUT /testResult?namespace=&test=          take a result that another runner made
GET /httpDashboard?namespace=&test=       of the last run
GET /grpcDashboard?namespace=&test=
GET /experiments                          all runs
GET /experiments/NAMESPACE/NAME           the last run as a whole, or ?revision=N
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from aiohttp import web

from loadgen.experiment import summary
from loadgen.experiment.result import Result
from loadgen.experiment.store import Store, StoreFault
from loadgen.outcome import Outcome
from loadgen.report.dashboard import grpc_dashboard, http_dashboard

MAX_RESULT = 16 * 1024 * 1024
_STORE = web.AppKey("store", Store)
_TAKEN = web.AppKey("taken", dict)
MOST_TAKEN = 1000


def application(store: Store) -> web.Application:
    """Results that were PUT are kept in memory: they have no distributions, only what Iter8's runner sent."""
    app = web.Application(middlewares=[_complaints], client_max_size=MAX_RESULT)
    app[_STORE] = store
    app[_TAKEN] = {}
    app.router.add_route("*", "/testResult", _take)
    app.router.add_route("*", "/httpDashboard", lambda request: _dashboard(request, "http", http_dashboard))
    app.router.add_route("*", "/grpcDashboard", lambda request: _dashboard(request, "grpc", grpc_dashboard))
    app.router.add_get("/experiments", _list)
    app.router.add_get("/experiments/{namespace}/{name}", _one)
    app.router.add_get("/healthz", _healthy)
    return app


@web.middleware
async def _complaints(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        found: web.StreamResponse = await handler(request)
        return found
    except StoreFault as fault:
        return web.Response(status=500, text=f"{fault}\n")


async def _healthy(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _asked(request: web.Request, method: str) -> tuple[str, str]:
    """Namespace and test. Raises what Iter8 answers."""
    if request.method != method:
        raise web.HTTPMethodNotAllowed(request.method, [method], text=f"expected {method}\n")
    for name in ("namespace", "test"):
        if not request.query.get(name):
            raise web.HTTPBadRequest(text=f"no {name} specified\n")
    return request.query["namespace"], request.query["test"]


async def _take(request: web.Request) -> web.Response:
    """`?experiment=` is what Iter8 0.16 called `test`."""
    key = _asked(request, "PUT")
    try:
        said = json.loads(await request.read())
        if not isinstance(said, dict):
            raise ValueError("it is not an object")
        if (began := said.get("startTime")) is not None:
            datetime.fromisoformat(str(began))
    except ValueError as error:
        return web.Response(status=400, text=f"cannot unmarshal body into ExperimentResult: {error}\n")
    taken = request.app[_TAKEN]
    if key not in taken and len(taken) >= MOST_TAKEN:
        taken.pop(next(iter(taken)))
    taken[key] = {**said, "insights": said.get("insights") or {}}
    return web.Response(status=200)


async def _dashboard(
    request: web.Request, task: str, shown: Callable[[Mapping[str, Outcome], Mapping[str, Any]], Mapping[str, Any]]
) -> web.Response:
    namespace, test = _asked(request, "GET")
    result = await request.app[_STORE].get(namespace, test)
    taken = request.app[_TAKEN].get((namespace, test))
    if result is None and taken is None:
        text = f"cannot get experiment result with namespace {namespace}, test {test}\n"
        return web.Response(status=400, text=text)
    if result is None:
        return _json(shown({}, taken or {}))
    return _json(shown(outcomes(result, task), {**summary.outcome(result), "insights": None}))


def outcomes(result: Result, task: str) -> dict[str, Outcome]:
    """What was measured of each endpoint, the last time: by its id, or by its address where there is only one."""
    found: dict[str, Outcome] = {}
    for load in result.insights.loads:
        if load.task != task:
            continue
        for scenario, endpoint in load.endpoints.items():
            outcome = load.outcome
            found[endpoint or load.targets[scenario]] = replace(
                outcome,
                series=tuple(one for one in outcome.series if one.scenario == scenario),
                accounts=tuple(one for one in outcome.accounts if one.scenario == scenario),
            )
    return found


async def _list(request: web.Request) -> web.Response:
    return _json([asdict(one) for one in await request.app[_STORE].rows()])


async def _one(request: web.Request) -> web.Response:
    revision = request.query.get("revision", "")
    if revision and not revision.isdecimal():
        return web.Response(status=400, text="revision is a number\n")
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    result = await request.app[_STORE].get(namespace, name, int(revision) if revision else None)
    if result is None:
        return web.Response(status=404, text=f"no results of {namespace}/{name}\n")
    return web.Response(body=result.to_json(), content_type="application/json")


def _json(said: Any) -> web.Response:
    return web.json_response(said, dumps=lambda value: json.dumps(value, indent=3))
