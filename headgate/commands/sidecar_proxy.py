"""The proxy half of `headgate sidecar`: options and a file in, a running proxy out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.commands.output import BAD_INPUT, Failure, error_line, model_key

if TYPE_CHECKING:
    from sidecar.proxy_config import ProxyConfig


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of the proxy; it wins over the file."""

    upstream: str | None
    file: Path | None
    listen: str | None
    model: str | None
    version: str | None
    plugins: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.upstream is not None or self.file is not None

    @property
    def stray(self) -> str | None:
        """An option that says nothing without a proxy."""
        given = {"--proxy-listen": self.listen, "--model": self.model, "--version": self.version}
        found = [name for name, value in given.items() if value is not None]
        return next(iter([*found, *(["--plugin"] if self.plugins else [])]), None)


def configuration(asked: Asked) -> ProxyConfig:
    """The file with the options on top; everything wrong in it is told at once."""
    from pydantic import ValidationError

    from sidecar.proxy_config import ProxyConfig

    raw = _read(asked.file) if asked.file is not None else {}
    if asked.file is not None:
        raw["folder"] = str(asked.file.parent / str(raw.get("folder") or "."))
    if asked.upstream is not None:
        raw["upstream"] = asked.upstream
    if asked.listen is not None:
        raw["listen"] = asked.listen
    if asked.model is not None:
        raw["namespace"], _, raw["model"] = model_key(asked.model).partition("/")
    if asked.version is not None:
        raw["version"] = asked.version
    if asked.plugins:
        listed = raw.get("plugins")
        here = [{"plugin": str(Path(one).absolute()) if _is_file(one) else one} for one in asked.plugins]
        raw["plugins"] = [*(listed if isinstance(listed, list) else []), *here]
    try:
        return ProxyConfig.model_validate(raw)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False):
            where = _place(asked, one["loc"])
            what = one["msg"].removeprefix("Value error, ")
            error_line(f"{where}: {what[:1].lower()}{what[1:]}")
        raise Failure("the proxy is not started", "docs/plugins.md has all keys", BAD_INPUT) from None


def run(config: ProxyConfig, host: str, port: int, interval: float) -> None:
    """Serve until SIGTERM or SIGINT."""
    import asyncio
    import logging

    from sidecar.metrics.process import CannotListen
    from sidecar.proxied import serve
    from sidecar.proxy import CannotStart

    log = logging.getLogger("sidecar")

    def started(pages: int, proxy: tuple[int, ...]) -> None:
        log.info("proxy to %s on %s:%d", config.upstream, config.listen.rpartition(":")[0], proxy[0])
        if config.grpc_listen is not None:
            log.info("gRPC to %s on %s:%d", config.grpc_upstream, config.grpc_listen.rpartition(":")[0], proxy[1])
        if config.plugins:
            log.info("plugins: %s", ", ".join(one.name or one.plugin for one in config.plugins))
        log.info("figures of the proxy on %s:%d", host, pages)

    try:
        asyncio.run(serve(config, host, port, interval=interval, started=started))
    except CannotListen as error:
        raise Failure(str(error), "give another port with --listen") from None
    except CannotStart as error:
        *others, last = str(error).splitlines()
        for line in others:
            error_line(line)
        raise Failure(last) from None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise Failure(f"cannot read {path}: {(error.strerror or str(error)).lower()}", exit_code=BAD_INPUT) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Failure(f"{path} is no YAML: {' '.join(str(error).split())}", exit_code=BAD_INPUT) from None
    if found is not None and not isinstance(found, dict):
        raise Failure(f"{path} is not a mapping", "it has keys such as upstream and plugins", BAD_INPUT)
    return found or {}


def _is_file(name: str) -> bool:
    """Files on the command line are where the user is, not where the configuration is."""
    return name.rpartition(":")[0].endswith(".py") or name.endswith(".py")


def _place(asked: Asked, path: tuple[int | str, ...]) -> str:
    field = ".".join(map(str, path)) or "the proxy"
    options = {"upstream": asked.upstream, "listen": asked.listen}
    if options.get(field) is not None:
        return {"upstream": "--proxy", "listen": "--proxy-listen"}[field]
    return f"{asked.file}: {field}" if asked.file is not None else field
