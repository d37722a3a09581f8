"""`headgate tail`: a model's requests as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

from headgate.commands.output import Failure, coloured, examples, model_key, output_option

DEFAULT_URL = "http://127.0.0.1:18002"


@click.command(
    short_help="Print a model's requests as they come.",
    epilog=examples("headgate tail iris", "headgate tail iris --version v2 --errors", "headgate tail iris -o json"),
)
@click.argument("model")
@click.option(
    "--url",
    default=DEFAULT_URL,
    show_default=True,
    envvar="HEADGATE_SIDECAR_URL",
    show_envvar=True,
    help="The pages of the sidecar beside an Envoy.",
)
@click.option("--version", metavar="NAME", help="Only what this version answered.")
@click.option("--code", metavar="CODE", help="Only this status: 503, or 5xx for all of a class.")
@click.option("--errors", is_flag=True, help="Only what failed.")
@click.option(
    "-n", "--last", type=click.IntRange(0, 10_000), default=10, show_default=True, help="Begin with so many kept ones."
)
@output_option("text", "json")
def tail(model: str, url: str, version: str | None, code: str | None, errors: bool, last: int, form: str) -> None:
    """Print the requests of MODEL as they come, until ctrl-C.

    MODEL is NAMESPACE/NAME, or NAME in the namespace default. The sidecar knows of single requests where its gateway
    has streamRequests.
    """
    query = {"model": model_key(model), "version": version, "code": code, "errors": "1" if errors else None}
    asked = {name: value for name, value in {**query, "last": str(last)}.items() if value is not None}
    for line in _lines(url, asked):
        try:
            one = json.loads(line)
            text = line.decode().rstrip("\n") if form == "json" else _row(one)
        except (ValueError, KeyError, TypeError):
            raise Failure(f"{url} answers, but not as a sidecar does", "give the sidecar's port") from None
        click.echo(text)
        sys.stdout.flush()
    raise Failure(f"the sidecar at {url} has ended", "try again")


def _lines(url: str, query: dict[str, str]) -> Iterator[bytes]:
    """Without a time limit: nobody knows when the next request comes."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlencode, urlsplit
    from urllib.request import ProxyHandler, build_opener

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Failure(f"--url {url!r} is not an HTTP address", f"write for example {DEFAULT_URL}", exit_code=2)
    try:
        with build_opener(ProxyHandler({})).open(f"{url.rstrip('/')}/requests/live?{urlencode(query)}") as answer:
            yield from answer
    except HTTPError as error:
        if error.code == 404:
            raise Failure(
                f"the sidecar at {url} takes no stream of requests", "start it with --stream, see docs/sidecar.md"
            ) from None
        raise Failure(f"{url} answers {error.code} {error.reason}", "give the sidecar's port") from None
    except (URLError, HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        why = (getattr(reason, "strerror", None) or str(reason)).lower()
        raise Failure(
            f"no sidecar answers at {url}: {why}", "start one with 'headgate sidecar --stream', or give its --url"
        ) from None


def _row(one: dict[str, Any]) -> str:
    """Time, version, outcome, what was asked, how long it took, and what is odd about it."""
    if "missed" in one:
        return _dim(f"({one['missed']} requests came too fast to be shown)")
    took = one["duration_seconds"]
    parts = [
        _dim(_clock(one["time"])),
        click.style(_plain(one["version"] or "-"), bold=True)
        if coloured(sys.stdout)
        else _plain(one["version"] or "-"),
        _outcome(one),
        _plain(f"{one['method'] or '-'} {one['path'] or '-'}"),
        "no answer" if took is None else f"{1000 * took:.1f} ms",
        one["flags"],
        *(_plain(f"{name}={value}") for name, value in {**one["labels"], **one["metadata"]}.items() if value != ""),
        _dim(f"client {one['client'][:8]}") if one["client"] else "",
    ]
    return " ".join(part for part in parts if part)


def _outcome(one: dict[str, Any]) -> str:
    text = _plain(one["code"]) + (f" grpc {_plain(one['grpc_status'])}" if one["grpc_status"] else "")
    if not coloured(sys.stdout):
        return text
    return click.style(text, fg="red" if one["error"] else "yellow" if one["code"][0] in "04" else "green")


def _dim(text: str) -> str:
    return click.style(text, dim=True) if coloured(sys.stdout) else text


def _plain(text: str) -> str:
    """Nothing that a client sends may steer somebody's terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _clock(at: float | None) -> str:
    from datetime import datetime

    return "-" if at is None else datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3]
