"""One generator that reads streams of tokens, for benchmarks/tokens.py: `headgate` or `locust`, in its own process.

Opens `streams` streams, evenly over `spread` seconds, and tells when it saw each token, by the id in each request's
body, and how much CPU that took.
"""

from __future__ import annotations

import json
import resource
import sys
import time

Seen = tuple[dict[str, list[float]], float]  # stamps by id, CPU seconds without those of imports


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def headgate(url: str, streams: int, spread: float) -> Seen:
    import gevent
    from gevent.event import Event

    from loadgen.plan import Load, Scenario, Target
    from loadgen.wire.call import Call
    from loadgen.wire.clients import open_client

    before = cpu()
    seen: dict[str, list[float]] = {}
    over = Event()

    def done(call: Call) -> None:
        assert call.failure is None, call.message
        seen[str(call.seq)] = call.tokens or []
        if len(seen) == streams:
            over.set()

    target = Target(f"{url}/v1/chat/completions", method="POST", stream=True)
    client = open_client(Scenario("tokens", target, Load("max", requests=streams, connections=0)), done)
    for number in range(streams):
        client.send(Call(seq=number), b"%d" % number)
        gevent.sleep(spread / streams)
    over.wait(60)
    client.close()
    return seen, cpu() - before


def locust(url: str, streams: int, spread: float) -> Seen:
    """FastHttpUser as its documentation streams: a user per stream, iter_lines, the time at which a line comes out."""
    import gevent
    from locust import FastHttpUser
    from locust.env import Environment

    class User(FastHttpUser):
        host = url

    before = cpu()
    environment = Environment(user_classes=[User])
    seen: dict[str, list[float]] = {}

    def read(number: int) -> None:
        stamps = seen[str(number)] = []
        lines = User(environment).client.iter_lines("/v1/chat/completions", method="POST", data=str(number))
        stamps.extend(time.perf_counter() for line in lines if '"content"' in line)

    readers = []
    for number in range(streams):
        readers.append(gevent.spawn(read, number))
        gevent.sleep(spread / streams)
    gevent.joinall(readers, timeout=60, raise_error=True)
    return seen, cpu() - before


if __name__ == "__main__":
    kind, address, streams, spread = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    if kind == "locust":
        import locust as _patches_first  # noqa: F401
    stamps, used = (headgate if kind == "headgate" else locust)(address, streams, spread)
    print(json.dumps({"event": "seen", "stamps": stamps, "cpu": used}), flush=True)
