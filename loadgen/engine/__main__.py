"""`python -m loadgen.engine PLAN RESULT`: run a plan, tell progress on stdout, leave the outcome in RESULT.

RESULT.partial holds what has been measured while it runs. Exit codes: 0 there is an outcome; 1 there is none, and a
last line {"error": ...} on stdout says why.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from pydantic import ValidationError  # noqa: E402

from loadgen.engine import alone, worker  # noqa: E402
from loadgen.engine.console import Commands, Console, Lines, fail  # noqa: E402
from loadgen.engine.leader import ARRIVAL, Leader  # noqa: E402
from loadgen.plan import Plan  # noqa: E402


def main() -> int:
    given = _arguments()
    del sys.argv[1:]  # locust's page would read them as locust's own
    lines = Lines()
    commands = Commands(given.attached)
    try:
        if given.worker:
            host, port = given.worker
            return worker.run(host, port, given.name, commands)
        plan = Plan.from_json(given.plan.read_bytes())
        console = Console(plan, given.result, lines)
        if plan.processes == 1 and not plan.workers and given.master is None:
            return alone.run(plan, console, commands, given.ui)
        bind = given.master or ("127.0.0.1", 0)
        return Leader(plan, console, commands, bind, given.ui, given.arrival).run()
    except ValidationError as error:
        return fail(lines, f"the plan cannot be read: {error}")
    except (ValueError, OSError) as error:
        return fail(lines, str(error))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m loadgen.engine")
    parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN")
    parser.add_argument("result", type=Path, nargs="?", metavar="RESULT")
    parser.add_argument("--ui", type=_address, help="[HOST:]PORT of locust's web page")
    parser.add_argument("--master", type=_address, help="[HOST:]PORT to listen on for workers")
    parser.add_argument("--worker", type=_address, help="HOST:PORT of the leading process; takes no PLAN")
    parser.add_argument("--name", default=f"{socket.gethostname()} {os.getpid()}", help="of this worker")
    parser.add_argument("--arrival", type=float, default=ARRIVAL, help="seconds in which the next worker has to come")
    parser.add_argument("--attached", action="store_true", help="stop as stdin says so, or ends")
    given = parser.parse_args()
    if (given.worker is None) != (given.plan is not None and given.result is not None):
        parser.error("give PLAN and RESULT, or --worker")
    return given


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "*", int(port)


if __name__ == "__main__":
    sys.exit(main())
