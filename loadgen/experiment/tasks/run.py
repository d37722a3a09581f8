"""Task `run`: a script of bash. Its output is shown as it comes and kept; an exit code other than 0 fails the task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile

from loadgen.experiment.context import Context, Done, TaskFailure
from loadgen.experiment.tasks.settings import RunSettings

_REST = 5.0
"""Seconds for what a script that has ended wrote last."""

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
    ours, theirs = os.pipe()  # asyncio's own would have us wait for whoever inherits it
    output = _Output(context, ours)
    try:
        process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "-c",
            script,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            cwd=experiment.folder,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        os.close(ours)
        raise TaskFailure(f"the script cannot be started: {error}") from None
    finally:
        os.close(theirs)
    reading: asyncio.Future[None] | None = None
    try:
        async with asyncio.timeout(settings.timeout):
            reading = asyncio.ensure_future(output.read())
            code = await process.wait()
            # What it left behind may hold the output open for ever.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait({reading}, timeout=_REST)
    except TimeoutError:
        what = f"the script took longer than {settings.timeout:g} s"
        raise TaskFailure(what, "give it more with: {timeout: 2h}", output=output.text) from None
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code:
        why = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        last = "".join(one if one.isprintable() else " " for one in output.text.strip().rpartition("\n")[2][-200:])
        raise TaskFailure(f"the script ended {why}" + (f": {last}" if last else ""), output=output.text)
    return Done("the script ended well", output=output.text)


class _Output:
    def __init__(self, context: Context, pipe: int) -> None:
        self._say = context.say
        self._pipe = pipe
        self.text = ""

    async def read(self) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(self._pipe, "rb"))
        try:
            await self._lines(reader)
        finally:
            transport.close()

    async def _lines(self, reader: asyncio.StreamReader) -> None:
        line = ""
        while raw := await reader.read(65_536):
            part = raw.decode(errors="replace")
            self.text = (self.text + part)[-KEPT:]
            *whole, line = (line + part).split("\n")
            if whole:
                self._say("\n".join(f"  {each}" for each in whole))
            line = line[-KEPT:]
        if line:
            self._say(f"  {line}")
