"""TLS settings of a target -> the context that its connections share."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadgen.plan import Tls


def tls_context(tls: Tls, protocols: Sequence[str]) -> ssl.SSLContext:
    """Certificates are PEM text, or files that hold it; `protocols` are offered by ALPN, the best first.

    Raises ValueError: what is wrong with which part of the settings.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(list(protocols))
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    elif tls.ca is None:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(made, tls.ca)
    if tls.certificate is not None:
        _present(made, tls.certificate, tls.key)
    elif tls.key is not None:
        raise ValueError("tls: there is a key without a certificate")
    return made


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        if _is_text(ca):
            context.load_verify_locations(cadata=ca)
        else:
            context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"tls: the CA's certificates cannot be read{_where(ca)}: {_reason(error)}") from error


def _present(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:  # OpenSSL wants files; ours are readable by us alone and go at once

        def file(name: str, value: str | None) -> str | None:
            if value is None or not _is_text(value):
                return value
            path = Path(folder) / name
            path.write_text(value)
            return str(path)

        try:
            context.load_cert_chain(file("certificate", certificate) or "", file("key", key), password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ValueError(
                f"tls: the client certificate or its key cannot be used{_where(certificate)}: {_reason(error)}"
            ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def _is_text(value: str) -> bool:
    return "-----BEGIN" in value


def _where(value: str) -> str:
    return "" if _is_text(value) else f" ({value})"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
