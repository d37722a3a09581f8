"""locust as it is used without us, and our client inside a locust User: what accuracy.py and rate.py hold ours against.

Started by them: `locust -f load_locust.py KIND`, with LOAD_TARGET, LOAD_RESULT (a file for figures) and LOAD_RATE.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from locust import FastHttpUser, HttpUser, constant_throughput, events, task

from loadgen.caller import Caller
from loadgen.plan import Target

URL = os.environ["LOAD_TARGET"]
BODY = b'{"id":"0","inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[5.1,3.5,1.4,0.2]}]}'
JSON = {"content-type": "application/json"}
USERS = int(os.environ.get("LOAD_USERS", "10"))


class Plain(FastHttpUser):
    """Closed loop."""

    host = URL

    @task
    def send(self) -> None:
        self.client.post("/", data=BODY, headers=JSON)


class Paced(FastHttpUser):
    """locust's way to a rate: each user at most so often."""

    host = URL
    wait_time = constant_throughput(float(os.environ.get("LOAD_RATE", "500")) / USERS)

    @task
    def send(self) -> None:
        self.client.post("/", data=BODY, headers=JSON)


class Requests(HttpUser):
    host = URL

    @task
    def send(self) -> None:
        self.client.post("/", data=BODY, headers=JSON)


class Ours(Caller):
    """Our client, locust's users and events."""

    target = Target(f"{URL}/", method="POST", headers=tuple(JSON.items()))

    @task
    def send(self) -> None:
        self.call(BODY)


_begun = [0.0, 0.0]


@events.spawning_complete.add_listener
def _begin(**_: object) -> None:
    _begun[:] = [time.process_time(), time.perf_counter()]


@events.quitting.add_listener
def _end(environment, **_: object) -> None:
    total = environment.stats.total
    Path(os.environ["LOAD_RESULT"]).write_text(
        json.dumps(
            {
                "requests": total.num_requests,
                "failures": total.num_failures,
                "cpu": time.process_time() - _begun[0],
                "seconds": time.perf_counter() - _begun[1],
                "percentiles": {
                    str(percent): total.get_response_time_percentile(percent / 100) / 1000
                    for percent in (50, 90, 95, 99, 99.9)
                },
            }
        )
    )
