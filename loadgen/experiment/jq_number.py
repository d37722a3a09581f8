"""The number that a jq expression finds in an answer. It is looked for in a process of its own, which can be ended.

jq holds up every thread while it computes, and some expressions have no end.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys


async def found_within(limit: float, raw: bytes, expression: str) -> float | str:
    """As `number`, or that it took longer than `limit` seconds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadgen.experiment.jq_number",
        expression,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(limit):
            told, _ = await process.communicate(raw)
    except TimeoutError:
        return f"{expression} takes longer than {limit:g} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        found = json.loads(told)
    except ValueError:
        return f"{expression} ended jq with exit code {process.returncode}"
    return found if isinstance(found, float | str) else f"{expression} is {found}, not a number"


def number(raw: bytes, expression: str) -> float | str:
    """The first value of the jq expression as a number, or why it is none."""
    import jq

    try:
        found = next(iter(jq.compile(go_spelling(expression)).input_text(raw.decode())), None)
    except StopIteration:
        return f"{expression} finds nothing"
    except (ValueError, UnicodeDecodeError) as error:
        if str(error).endswith("null (null) cannot be parsed as a number"):
            return f"{expression} finds nothing"
        return f"{expression}: {' '.join(str(error).split())[:200]}"
    if isinstance(found, bool) or not isinstance(found, int | float):
        return f"{expression} is {json.dumps(found)[:60]}, not a number"
    return float(found) if abs(found) < sys.float_info.max else f"{expression} is {found}, not a number"


def go_spelling(expression: str) -> str:
    """gojq, which Iter8 uses, takes .a.[0] for .a[0]; older versions of jq do not."""
    return re.sub(r"(?<=[\w\])\"])\.\[", "[", expression)


if __name__ == "__main__":
    print(json.dumps(number(sys.stdin.buffer.read(), sys.argv[1])))
