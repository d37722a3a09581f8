"""A gRPC channel to a target, to ask it something before the load. Not for the load itself, and not under gevent."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc

from loadgen.plan import Tls

_MOST = 64 * 1024 * 1024


def open_channel(url: str, tls: Tls, timeout: float) -> Any:
    """Raises ValueError and OSError: what cannot be used, or not be read."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a gRPC target is http://HOST:PORT, or https://HOST:PORT for TLS")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = f"[{parts.hostname}]:{port}" if ":" in parts.hostname else f"{parts.hostname}:{port}"
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", _MOST)]
    if parts.scheme == "http":
        return grpc.insecure_channel(address, options)
    ca = _pem(tls.ca)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    if not tls.verify:  # grpcio cannot look away: whatever the server shows is what it has to show again
        shown, names = _shown(parts.hostname, port, timeout)
        ca = shown.encode()
        if parts.hostname not in names and not tls.server_name:
            options.append(("grpc.ssl_target_name_override", names[0] if names else parts.hostname))
    credentials = grpc.ssl_channel_credentials(ca, _pem(tls.key), _pem(tls.certificate))
    return grpc.secure_channel(address, credentials, options)


def reason(error: grpc.RpcError) -> str:
    """What a failed call says, in one line."""
    code = getattr(error, "code", lambda: None)()
    details = getattr(error, "details", lambda: "")() or ""
    return f"{code.name if code else 'UNKNOWN'}: {details.splitlines()[0] if details else 'without a reason'}"


def _shown(host: str, port: int, timeout: float) -> tuple[str, list[str]]:
    """The certificate that a server shows, and for which names and addresses it is."""
    pem = ssl.get_server_certificate((host, port), timeout=timeout)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=pem)
    with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain) as secured:
        certificate = secured.getpeercert() or {}
    return pem, [str(each[1]) for each in certificate.get("subjectAltName", ()) if isinstance(each, tuple)]


def _pem(value: str | None) -> bytes | None:
    if value is None:
        return None
    return value.encode() if "-----BEGIN" in value else Path(value).read_bytes()
