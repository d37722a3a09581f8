"""The gateways' TLS certificates: files in, SDS secrets out, again whenever the files change.

A certificate and its key are replaced one after the other, so for a moment they do not belong together. What does not
fit, or has expired, is not published: Envoys keep the last good pair, and a Problem says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from headgate.config import Gateway, Tls, certificate_name, client_ca_name
from headgate.expiry import ends
from router.problem import Problem
from xds.resources import Resource
from xds.translate import secret, validation_context

log = logging.getLogger("headgate.certificates")

Publish = Callable[[str, Mapping[str, Resource]], None]
Report = Callable[[Iterable[Problem]], object]


class Certificates:
    """Publishes each gateway's secrets, by gateway name, and reports which files do not fit."""

    def __init__(
        self,
        gateways: Iterable[Gateway],
        publish: Publish,
        report: Report,
        *,
        every: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gateways = tuple(gateway for gateway in gateways if any(one.tls for one in gateway.listeners))
        self._publish = publish
        self._report = report
        self._every = every
        self._clock = clock
        self._next_end = math.inf
        self._told: tuple[Problem, ...] = ()
        self._seen: tuple[tuple[int, int, int] | None, ...] = ()
        self._good: dict[str, dict[str, Resource]] = {gateway.name: {} for gateway in self._gateways}

    def files(self) -> tuple[Path, ...]:
        """Every file that matters."""
        pairs = [one.tls for gateway in self._gateways for one in gateway.listeners if one.tls is not None]
        return tuple(path for tls in pairs for path in (tls.certificate, tls.key, tls.client_ca) if path is not None)

    def load(self) -> None:
        """Read all files, publish what fits, report what does not."""
        problems: list[Problem] = []
        self._next_end = math.inf
        for gateway in self._gateways:
            secrets = dict(self._good[gateway.name])
            for listener in gateway.listeners:
                if listener.tls is None:
                    continue
                where = f"gateway {gateway.name}, listener {listener.name}"
                try:
                    found = _secrets(gateway.name, listener.name, listener.tls)
                    expired = self._expired(where, listener.tls.certificate)
                except (ValidationError, OSError) as error:
                    problems += (Problem(where, "tls", what, hint) for what, hint in _complaints(error))
                    continue
                problems += expired
                if expired and (name := certificate_name(gateway.name, listener.name)) in secrets:
                    del found[name]  # the first is published even so: without any Envoy would not open the listener
                secrets |= found
            if secrets != self._good[gateway.name]:
                if self._good[gateway.name]:
                    log.info("gateway %s: certificates changed", gateway.name)
                self._good[gateway.name] = secrets
                self._publish(gateway.name, secrets)
        for problem in problems:
            if problem not in self._told:
                log.warning("%s", problem)
        self._told = tuple(problems)
        self._report(problems)

    def _expired(self, where: str, certificate: Path) -> tuple[Problem, ...]:
        end = ends(certificate.read_bytes())
        if end is None:
            return ()
        if end.timestamp() > self._clock():
            self._next_end = min(self._next_end, end.timestamp())
            return ()
        what = f"certificate {certificate} expired at {end:%Y-%m-%d %H:%M:%S} UTC"
        return (Problem(where, "tls", what, "put a new certificate and its key in place"),)

    async def run(self) -> None:
        """Load whenever a file changes or a certificate ends.

        A look at a few files each second costs next to nothing, and unlike a watch it sees through the links of a
        mounted Kubernetes Secret and on network file systems.
        """
        files = self.files()
        while files:
            seen = tuple(map(_stamp, files))
            if seen != self._seen or self._clock() >= self._next_end:
                self.load()
                self._seen = seen  # taken before loading: what changes meanwhile is seen next time
            await asyncio.sleep(self._every)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _secrets(gateway: str, listener: str, files: Tls) -> dict[str, Resource]:
    tls = Tls.model_validate(files.model_dump())  # the files may have changed since: check them again
    name = certificate_name(gateway, listener)
    found = {name: secret(name, tls.certificate.read_bytes(), tls.key.read_bytes())}
    if tls.client_ca is not None:
        name = client_ca_name(gateway, listener)
        found[name] = validation_context(name, tls.client_ca.read_bytes())
    return found


def _complaints(error: ValidationError | OSError) -> list[tuple[str, str]]:
    if isinstance(error, OSError):
        return [(f"cannot read {error.filename}: {error.strerror}", "check the path and its rights")]
    return [(str(one["ctx"]["what"]), str(one["ctx"]["hint"])) for one in error.errors()]
