"""What payloads are read from: files and addresses, with a limit to their size. Problems are values."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from loadgen.plan import Tls
from loadgen.security import tls_context
from router.problem import Problem

LIMIT = 64 * 1024 * 1024  # bytes of a file, of an answer, and of a feed
_SHA256 = re.compile(r"(sha256:)?(?P<hex>[0-9a-fA-F]{64})")


def read_file(path: str | Path, where: str, field: str = "", limit: int = LIMIT) -> bytes | Problem:
    """The content of a file."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        return Problem(where, field, f"{path} cannot be read: {error.strerror}")
    except ValueError as error:  # of a NUL in the path
        return Problem(where, field, f"{str(path)!r} is no path: {error}")
    if len(data) > limit:
        return _too_large(str(path), where, field, limit)
    return data


def fetch(
    url: str,
    where: str,
    field: str = "",
    *,
    sha256: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    tls: Tls | None = None,
    timeout: float = 30.0,
    limit: int = LIMIT,
) -> bytes | Problem:
    """What an address answers to a GET. `sha256`: its checksum in hexadecimal, which it must have."""
    wanted = None if sha256 is None else _SHA256.fullmatch(sha256.strip())
    if sha256 is not None and wanted is None:
        return Problem(where, field, f"{sha256!r} is no SHA-256 checksum", "it has 64 hexadecimal digits")
    try:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            return Problem(where, field, f"{url!r} cannot be fetched: it is not http://... or https://...")
        request = urllib.request.Request(url, headers={"user-agent": "headgate-load", **dict(headers)})
        with _opener(tls or Tls()).open(request, timeout=timeout) as answer:
            data: bytes = answer.read(limit + 1)
            declared = answer.headers.get("content-length", "")
    except urllib.error.HTTPError as error:
        error.close()
        return Problem(where, field, f"{url} answers with status {error.code} {error.reason}".rstrip())
    except urllib.error.URLError as error:
        return Problem(where, field, f"{url} cannot be fetched: {_reason(error.reason)}")
    except (OSError, HTTPException, ValueError) as error:
        return Problem(where, field, f"{url} cannot be fetched: {_reason(error)}")
    if len(data) > limit:
        return _too_large(url, where, field, limit)
    if declared.isdigit() and len(data) < int(declared):  # reading up to a limit does not notice
        return Problem(where, field, f"{url} cannot be fetched: it ended after {len(data)} of {declared} bytes")
    found = hashlib.sha256(data).hexdigest()
    if wanted is not None and found != wanted["hex"].lower():
        return Problem(where, field, f"{url} has the checksum {found} and not {wanted['hex'].lower()}")
    return data


def _too_large(what: str, where: str, field: str, limit: int) -> Problem:
    size = f"{limit // (1024 * 1024)} MiB" if limit >= 1024 * 1024 else f"{limit} bytes"
    return Problem(where, field, f"{what} is larger than {size}, the most that a payload may be")


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _opener(tls: Tls) -> urllib.request.OpenerDirector:
    """HTTP and HTTPS alone: no redirect leads to a file of this machine."""
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.HTTPSHandler(context=tls_context(tls, ("http/1.1",))))
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
