"""One connection before the load: what cannot be reached is told in one line and not in a million failures."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadgen.plan import Target
from loadgen.security import tls_context


@dataclass(frozen=True, slots=True)
class Trouble:
    what: str
    hint: str = "is it running, and is the URL right?"


async def trouble(target: Target) -> Trouble | None:
    """Why the target cannot be reached; None where a connection, with TLS if it has any, could be made."""
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        protocols = ("http/1.1",) if target.protocol == "http1" else ("h2",)
        context = tls_context(target.tls, protocols) if parts.scheme == "https" else None
        opening = asyncio.open_connection(
            host, port, ssl=context, server_hostname=(target.tls.server_name or host) if context else None
        )
        _, writer = await asyncio.wait_for(opening, target.connect_timeout)
    except TimeoutError:
        return Trouble(f"{where} does not answer within {target.connect_timeout:g} s")
    except ssl.SSLCertVerificationError as error:
        hint = "trust its issuer with --cacert FILE, name it with --server-name, or take any with --insecure"
        return Trouble(f"{where}: its certificate is not trusted: {error.verify_message}", hint)
    except ssl.SSLError as error:
        hint = "does it speak TLS there? otherwise write http://"
        return Trouble(f"{where}: TLS fails: {error.reason or error}", hint)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            return Trouble(f"the name {host!r} cannot be resolved: {error.strerror}")
        return Trouble(f"{where}: {_reason(error)}")
    writer.transport.abort()
    return None


def _reason(error: OSError) -> str:
    """asyncio puts the address into the text; several addresses make a text of texts."""
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "connection refused"
    return (error.strerror or str(error)).lower()
