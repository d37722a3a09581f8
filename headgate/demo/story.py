"""`headgate demo`: plays the acts with a real Envoy and real traffic, and holds each to what the answers show."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import sys

from aiohttp import ClientError

from headgate.demo.acts import ACTS, AFTERWARDS, V1, V2, Act
from headgate.demo.figures import Figures, plausible
from headgate.demo.manifest import HOST, MODEL
from headgate.demo.screen import Row, Screen
from headgate.demo.sidecar import PLUGIN, in_front_of, stamps, total
from headgate.demo.stage import (
    GRPC_PER_SECOND,
    HTTP_PER_SECOND,
    TESTERS,
    TESTERS_PER_SECOND,
    USERS,
    Stage,
    breath,
    now,
)
from headgate.demo.traffic import until
from headgate.demo.v2_messages import protoset
from headgate.envoy import EnvoyError
from headgate.serve import CannotListen

ACT_SECONDS = 5.0
DEVIATIONS = 4.9
"""How far a share may be off: by chance alone less than once in a million, or the demo would fail on unlucky days."""
INTERRUPTED = 130

REST = '{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.9, 3.0, 5.1, 1.8]}]}\n'
GRPC = (
    '{"model_name": "iris", "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], '
    '"contents": {"fp32_contents": [5.9, 3.0, 5.1, 1.8]}}]}\n'
)


class Untrue(Exception):
    """An act did not come true; the message says in what."""


def run(
    *, keep: bool = False, act_seconds: float = ACT_SECONDS, screen: Screen | None = None, acts: tuple[Act, ...] = ACTS
) -> int:
    """Play the story. 0 when every act came true and no request failed, 130 on ctrl-C, otherwise 1."""
    screen = screen or Screen()
    try:
        return asyncio.run(_play(screen, acts, keep=keep, act_seconds=act_seconds))
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.close()
        screen.say("\nstopped")
        return INTERRUPTED
    except (EnvoyError, CannotListen, OSError) as error:
        screen.close()
        screen.say(f"error: {error}", "bold red")
        return 1


async def _play(screen: Screen, acts: tuple[Act, ...], *, keep: bool, act_seconds: float) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # asyncio.run sees to ctrl-C
    started = now()
    screen.say("headgate demo: a control plane, one real Envoy, two versions of a model, and steady traffic.", "bold")
    stage = Stage()
    untrue: list[str] = []
    try:
        async with stage:
            screen.say(
                f"Envoy listens on 127.0.0.1:{stage.port}. Users send {HTTP_PER_SECOND} HTTP and {GRPC_PER_SECOND} "
                f"gRPC requests a second, testers {TESTERS_PER_SECOND}; every one is counted."
            )
            for number, act in enumerate(acts, start=1):
                try:
                    await _perform(stage, screen, act, (number, len(acts)), act_seconds, ends=not keep)
                except Untrue as found:
                    untrue.append(f"act {number}: {found}")
                    screen.say(f"  NOT TRUE: {found}", "bold red")
                except TimeoutError as error:
                    untrue.append(f"act {number}: {error}")
                    screen.close()
                    screen.say(f"  NOT TRUE, and the story ends here: {error}", "bold red")
                    break
            if V2 in stage.servers and not untrue:
                await _plugin(stage, screen)
            if keep and not untrue and not stage.ledger.failed:
                _conclude(stage, screen, now() - started, untrue)
                await _keep(stage, screen)
                return 0  # what somebody tries out afterwards, such as an error rate, is not the story's failure
            await stage.end_traffic()
            stage.keep_folder = bool(untrue or stage.ledger.failed)
            counted = await _counted(stage)
    except asyncio.CancelledError:
        screen.close()
        _conclude(stage, screen, now() - started, untrue)
        raise
    screen.say(f"\n{counted}")
    _conclude(stage, screen, now() - started, untrue)
    return 1 if untrue or stage.ledger.failed else 0


async def _perform(
    stage: Stage, screen: Screen, act: Act, place: tuple[int, int], seconds: float, *, ends: bool
) -> None:
    number, of = place
    failed = stage.ledger.failed
    changed: list[str] = []
    if act.starts is not None:
        await stage.serve(act.starts, ready=number == 1)
    if act.before is not None:
        changed = stage.write(act.before)
        await stage.routed({V1: (5000, 0.0, False), V2: (5000, 0.0, False)})
        await stage.answers_from(V2, since=now())
    begun = now()
    if act.ready is not None:
        await stage.servers[V2].behave(ready=act.ready)
        told = now()
        if act.edition is not None:
            await until(lambda: stage.versions()[V2].ready, within=10, what="v2 ready")
    if act.edition is not None:
        begun = told = now()
        changed = stage.write(act.edition)
    screen.act(number, of, act.title, act.words, changed)
    await stage.routed(act.routes())
    took = now() - begun
    if number == 1:
        await stage.send_traffic()
    # Envoy's workers have the routes a moment after its ACK; requests on their way until then are not this act's.
    since = now() + 0.1
    await until(lambda: now() > since and not stage.ledger.pending(since), within=10, what="answers to older requests")
    seen = await _seen(stage, act)
    while now() < since + seconds:
        await breath(0.25)
        screen.figures(_rows(stage, act, since, now(), []))
    end = now()
    copies = await _copies(stage, act, seen) if act.copies else []
    rows = _rows(stage, act, since, end, copies)
    screen.done(rows)
    _judge(stage, act, since, end, failed)
    await _untouched(stage, act, seen)
    screen.say(f"  true: {_told(stage, act, number, told, took)}", "green")
    for sentence in stage.why():
        screen.say(f"  headgate says: {sentence}")
    if act.ends is not None and ends:
        await stage.servers[act.ends].stop()


async def _seen(stage: Stage, act: Act) -> dict[str, int]:
    """What the servers that matter to this act have counted so far, and how much was sent by then."""
    counted: dict[str, int] = {}
    if act.copies:
        counted = {**dict(stage.ledger.protocols), **await stage.servers[V2].counts()}
    if act.untouched is not None:
        counts = await stage.servers[act.untouched].counts()
        counted["untouched"] = counts["requests"] + counts["shadows"]
    return counted


async def _copies(stage: Stage, act: Act, seen: dict[str, int]) -> list[Row]:
    """What v2 has counted of both protocols: Envoy copies them by different ways."""
    counts = await stage.servers[V2].counts()
    grpc = counts["grpc_shadows"] - seen["grpc_shadows"]
    http = counts["shadows"] - seen["shadows"] - grpc
    rows = []
    for protocol, copies in (("http", http), ("grpc", grpc)):
        answered = stage.ledger.protocols[protocol] - seen[protocol]
        share = copies / max(answered, 1)
        rows.append(Row(f"copies to v2, {protocol}", share, act.copies, copies, math.nan, math.nan, None))
        if not plausible(copies, answered, act.copies, deviations=DEVIATIONS):
            raise Untrue(f"v2 got {copies} copies of {answered} {protocol} requests, not {act.copies:.0%}")
    return rows


async def _untouched(stage: Stage, act: Act, seen: dict[str, int]) -> None:
    if act.untouched is None:
        return
    counts = await stage.servers[act.untouched].counts()
    got = counts["requests"] + counts["shadows"] - seen["untouched"]
    if got:
        raise Untrue(f"{act.untouched} should have seen no request, and counted {got}")


def _rows(stage: Stage, act: Act, since: float, until: float, copies: list[Row]) -> list[Row]:
    group = USERS if act.testers else None  # testers are users like all others until they are pinned
    found = stage.ledger.figures(since, until, group=group)
    rows = [_row(version, found.get(version), act.shares.get(version, 0.0)) for version in sorted(act.known)]
    rows += [_row(version or "(none)", found[version], None) for version in found if version not in act.known]
    if act.testers is not None:
        pinned = stage.ledger.figures(since, until, group=TESTERS)
        rows += [_row(f"testers on {version or '(none)'}", pinned[version], None) for version in pinned]
    return [*rows, *copies, *_of_the_sidecar(stage)]


def _of_the_sidecar(stage: Stage) -> list[Row]:
    """What Envoy counted, in the sidecar's words: all users, testers too."""
    return [
        Row(
            f"{version}: sidecar, last 10 s",
            None,
            None,
            one["requests"],
            math.nan if one["p50"] is None else one["p50"],
            math.nan if one["p99"] is None else one["p99"],
            one["errors"],
        )
        for version, one in stage.live().items()
        if one["requests"]
    ]


def _row(name: str, found: Figures | None, asked: float | None) -> Row:
    if found is None:
        return Row(name, 0.0, asked, 0, math.nan, math.nan, 0)
    return Row(name, found.share, asked, found.count, found.p50, found.p99, found.errors)


def _judge(stage: Stage, act: Act, since: float, until: float, failed: int) -> None:
    """Untrue if a request failed, or if a share is further off than chance explains."""
    if stage.ledger.failed > failed:
        texts = "; ".join(f"{number} x {text}" for text, number in stage.ledger.errors.most_common(3))
        raise Untrue(f"{stage.ledger.failed - failed} requests failed: {texts}")
    found = stage.ledger.figures(since, until, group=USERS if act.testers else None)
    total = sum(one.count for one in found.values())
    if not total:
        raise Untrue("nobody got an answer")
    for version in act.known | set(found):
        asked, count = act.shares.get(version, 0.0), found[version].count if version in found else 0
        if not plausible(count, total, asked, deviations=DEVIATIONS):
            raise Untrue(f"{version} got {count} of {total} answers, which {asked:.0%} does not explain")
    if act.testers is not None:
        pinned = set(stage.ledger.figures(since, until, group=TESTERS))
        if pinned != {act.testers}:
            raise Untrue(f"testers were answered by {', '.join(sorted(pinned)) or 'nobody'}, not {act.testers} alone")


def _told(stage: Stage, act: Act, number: int, told: float, took: float) -> str:
    """One sentence on what was seen, for people."""
    answers = stage.ledger.answers(told)
    if act.ready is False:
        last = max((answer.sent for answer in answers if answer.version == V2), default=told)
        return (
            f"the last request that went to v2 was sent {(last - told) * 1000:.0f} ms after v2 stopped being ready, "
            "and none failed"
        )
    if number == 1:
        return "every answer came from v1"
    if act.ready and act.edition is None:
        first = min((answer.sent for answer in answers if answer.version == V2), default=math.nan)
        return (
            f"v2's first request was sent {(first - told) * 1000:.0f} ms after v2 became ready; "
            "the shares are within what chance allows"
        )
    facts = [f"Envoy confirmed the new routes {took * 1000:.0f} ms after the edit"]
    if act.untouched is not None:
        facts.append(f"{act.untouched} counted no request")
    if act.testers is not None:
        facts.append(f"every tester got {act.testers}")
    if len(act.shares) > 1 or act.copies:
        facts.append("the shares are within what chance allows")
    return "; ".join(facts)


async def _plugin(stage: Stage, screen: Screen) -> None:
    """A plugin is no part of the rollout: whatever happens here fails nothing."""
    server = stage.servers[V2].rest_port
    screen.say()
    screen.say(f"And a plugin: {PLUGIN}", "bold")
    screen.say("Python on the path of requests, for once without Envoy: in the sidecar's proxy before v2's server.")
    try:
        async with in_front_of(server, V2) as port:
            before, after = await stamps(server), await stamps(port)
    except Exception as error:
        screen.say(f"  it could not be shown: {error!r}", "yellow")
        return
    screen.say(f"  an answer of the server itself says {_listed(before)}; through the plugin it says {_listed(after)}")


def _listed(headers: dict[str, str]) -> str:
    return " and ".join(f"{name}: {value}" for name, value in headers.items()) or "neither version nor request id"


async def _counted(stage: Stage) -> str:
    """Whether Envoy and its sidecar counted what was sent: told, not judged, for no user would notice."""
    counted = -1

    async def all_of_them() -> bool:
        nonlocal counted
        counted = await total(stage.figures_port, MODEL)
        return counted >= stage.ledger.sent

    with contextlib.suppress(TimeoutError, OSError, ClientError, ValueError, KeyError):
        await until(all_of_them, within=3, what="the sidecar's count")
    if counted < 0:
        return "The sidecar could not be asked."
    return f"The sidecar has counted {counted:,} of {stage.ledger.sent:,} requests."


def _conclude(stage: Stage, screen: Screen, seconds: float, untrue: list[str]) -> None:
    ledger = stage.ledger
    screen.say()
    for text, number in ledger.errors.most_common(5):
        screen.say(f"{number} x {text}", "red")
    for found in untrue:
        screen.say(found, "red")
    if stage.keep_folder:
        screen.say(f"logs are in {stage.folder}")
    good = not untrue and not ledger.failed
    screen.say(
        f"{ledger.sent:,} requests, {ledger.failed:,} failed  "
        f"({ledger.protocols['http']:,} HTTP, {ledger.protocols['grpc']:,} gRPC, {seconds:.0f} s)",
        "bold green" if good else "bold red",
    )


async def _keep(stage: Stage, screen: Screen) -> None:
    """Leave it running, with both versions and lines to try, until ctrl-C."""
    stage.write(AFTERWARDS)
    await stage.routed({V1: (8000, 0.0, False), V2: (2000, 0.0, True)})
    (stage.folder / "inference.protoset").write_bytes(protoset())
    (stage.folder / "rest.json").write_text(REST, "utf-8")
    (stage.folder / "grpc.json").write_text(GRPC, "utf-8")
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    screen.lines(_lines_to_try(stage))
    try:
        await stopped.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    screen.say("\nstopped")


def _lines_to_try(stage: Stage) -> str:
    envoy, plane = f"127.0.0.1:{stage.port}", f"http://127.0.0.1:{stage.plane.http_port}"
    infer = f"curl -si http://{envoy}/v2/models/iris/infer -H 'host: {HOST}' -d @{stage.folder}/rest.json"
    ask = f"{sys.executable} -m headgate.demo.ask --port {stage.port}"
    v2 = f"curl -s -X PUT http://127.0.0.1:{stage.servers[V2].rest_port}/control -d"
    return f"""
All of it keeps running until ctrl-C, the traffic too. v1 is back with 80 %, v2 has 20 % and the testers.

One prediction over HTTP, app-version tells who answered; then as a tester:
  {infer}
  {infer} -H 'traffic: test'
Over gRPC with grpcurl, and many at once without it:
  grpcurl -plaintext -authority {HOST} -protoset {stage.folder}/inference.protoset -d @ {envoy} \\
    inference.GRPCInferenceService/ModelInfer < {stage.folder}/grpc.json
  {ask} --number 1000 --grpc
  {ask} --number 1000 --header 'traffic: test'
Edit the weights and save, or make v2 unready, slow and faulty:
  {stage.manifest}
  {v2} '{{"ready": false}}'
  {v2} '{{"ready": true, "latency_ms": 50, "error_rate": 0.1}}'
What the control plane and Envoy say:
  {sys.executable} -m headgate status -w --url {plane}
  curl -s {plane}/models/{MODEL}
  curl -s http://127.0.0.1:{stage.envoy.admin_port}/clusters
What users get, by the sidecar: requests, errors and quantiles of 10 s, 1 min and 5 min, and all of it for Prometheus:
  curl -s 'http://127.0.0.1:{stage.figures_port}/versions?model={MODEL}'
  curl -s http://127.0.0.1:{stage.figures_port}/metrics
"""
