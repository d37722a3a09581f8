"""Task `run`: a script of bash. Its output is shown as it comes and kept; an exit code other than 0 fails the task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.tasks.settings import RunSettings

KEPT = 16_384
"""Characters of the output that are kept, the last ones."""


async def perform(script: str, settings: RunSettings, context: Context) -> Done:
    """TEMP_DIR is the folder for temporary files, as in Iter8. Ended or cancelled, nothing of the script goes on."""
    experiment = context.experiment
    environment = {
        **os.environ,
        "TEMP_DIR": tempfile.gettempdir(),
        "HEADGATE_EXPERIMENT": experiment.name,
        "HEADGATE_NAMESPACE": experiment.namespace,
        **settings.environment,
    }
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "-c",
            script,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            cwd=experiment.folder,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise TaskFailure(f"the script cannot be started: {error}") from None
    output = _Output(context)
    try:
        async with asyncio.timeout(settings.timeout):
            await output.read(process)
            code = await process.wait()
    except TimeoutError:
        what = f"the script took longer than {settings.timeout:g} s"
        raise TaskFailure(what, "give it more with: {timeout: 2h}", output=output.text) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code:
        why = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        last = output.text.strip().rpartition("\n")[2][-200:]
        raise TaskFailure(f"the script ended {why}" + (f": {last}" if last else ""), output=output.text)
    return Done("the script ended well", output=output.text)


class _Output:
    def __init__(self, context: Context) -> None:
        self._say = context.say
        self.text = ""

    async def read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        line = ""
        while raw := await process.stdout.read(65_536):
            part = raw.decode(errors="replace")
            self.text = (self.text + part)[-KEPT:]
            *whole, line = (line + part).split("\n")
            for each in whole:
                self._say(f"  {each}")
            line = line[-KEPT:]
        if line:
            self._say(f"  {line}")
