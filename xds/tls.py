"""mTLS for the xDS port: certificates read again when their files change, and who a client's certificate says it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files. With `client_ca` clients must show a certificate; `check_node` holds node.id against its names."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    check_node: bool = False

    def __post_init__(self) -> None:
        if self.check_node and self.client_ca is None:
            raise ValueError("check_node needs client_ca: without it clients show no certificate")

    def files(self) -> tuple[Path, ...]:
        return (self.certificate, self.key) + ((self.client_ca,) if self.client_ca else ())


def server_credentials(tls: ServerTls) -> Any:
    """Credentials that follow the files: checked at each handshake, kept as they were while a new set is unreadable.

    Raises OSError when the files cannot be read at the start.
    """
    source = _Files(tls)
    return grpc.dynamic_ssl_server_credentials(
        source.load(), source.newer, require_client_authentication=tls.client_ca is not None
    )


class _Files:
    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen: tuple[tuple[int, int], ...] = ()

    def load(self) -> Any:
        self._seen = self._stamp()
        tls = self._tls
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        roots = tls.client_ca.read_bytes() if tls.client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def newer(self) -> Any:
        """Called by gRPC at each handshake, in a thread of its own; None keeps what is in use."""
        try:
            if self._stamp() == self._seen:
                return None
            made = self.load()
        except OSError as error:
            log.warning("xDS certificates unreadable, going on with the old ones: %s", error)
            return None
        log.info("xDS certificates reloaded from %s", self._tls.certificate)
        return made

    def _stamp(self) -> tuple[tuple[int, int], ...]:
        return tuple((s.st_mtime_ns, s.st_ino) for s in (path.stat() for path in self._tls.files()))


def identities(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """The common name and the alternative names of the client's certificate."""
    names = (*auth_context.get("x509_common_name", ()), *auth_context.get("x509_subject_alternative_name", ()))
    return frozenset(name.decode("utf-8", "replace") for name in names if name)
