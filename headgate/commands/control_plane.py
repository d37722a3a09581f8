"""Asking a running control plane over HTTP: what it knows, or in plain words why there is no answer."""

from __future__ import annotations

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import click

from headgate.commands.output import Failure

DEFAULT_URL = "http://127.0.0.1:18001"

url_option = click.option(
    "--url",
    default=DEFAULT_URL,
    show_default=True,
    envvar="HEADGATE_URL",
    show_envvar=True,
    help="The control plane's HTTP.",
)

maybe_url_option = click.option(
    "--url",
    default=None,
    show_default=DEFAULT_URL,
    envvar="HEADGATE_URL",
    show_envvar=True,
    help="A control plane's HTTP, instead of a cluster.",
)
"""None where the user says nothing, so that a cluster can be tried."""


class NoAnswer(Failure):
    """Nobody answers there: somewhere else may be tried."""


# A control plane is asked directly: environment proxies rarely lead to loopback.
_opener = build_opener(ProxyHandler({}))


def ask(url: str, path: str, timeout: float = 10.0) -> Any:
    """The JSON that the control plane answers with; its own complaint otherwise."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Failure(f"--url {url!r} is not an HTTP address", f"write for example {DEFAULT_URL}", exit_code=2)
    try:
        with _opener.open(url.rstrip("/") + path, timeout=timeout) as answer:
            return json.load(answer)
    except HTTPError as error:
        raise _complaint(url, error) from None
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        why = (getattr(reason, "strerror", None) or str(reason)).lower()
        raise NoAnswer(
            f"no control plane answers at {url}: {why}", "start one with 'headgate serve', or give its --url"
        ) from None
    except json.JSONDecodeError:
        raise Failure(f"{url} answers, but not as a control plane does", "give the control plane's HTTP port") from None


def _complaint(url: str, error: HTTPError) -> Failure:
    try:
        said = json.load(error)
        return Failure(said["error"], said.get("hint", ""), exit_code=2 if error.code < 500 else 1)
    except (ValueError, KeyError, TypeError):
        return Failure(f"{url} answers {error.code} {error.reason}", "give the control plane's HTTP port")
