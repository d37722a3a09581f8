"""The flags of `headgate load`: their names and help for click, and their values as one typed object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

FORMATS = ("text", "json", "csv", "html", "junit", "markdown")
DEFAULT_PAGE = "127.0.0.1:8089"

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Flags:
    """As given; None where not."""

    url: str | None
    rate: float | None
    schedule: str | None
    trace: Path | None
    users: int | None
    think: str | None
    max_: bool
    poisson: bool
    seed: int
    duration: str | None
    requests: int | None
    warmup: str | None
    grace: str
    connections: int | None
    max_in_flight: int
    on_limit: Literal["queue", "drop"]
    new_connections: bool
    timeout: str
    connect_timeout: str
    headers: tuple[str, ...]
    method: str | None
    data: str | None
    data_file: Path | None
    data_url: str | None
    template: str | None
    feed: Path | None
    feed_order: Literal["cycle", "random"]
    sticky_users: int | None
    sticky_header: str
    grpc: str | None
    proto: tuple[Path, ...]
    proto_path: tuple[Path, ...]
    protoset: Path | None
    grpc_client: Literal["own", "grpcio"]
    stream_count: int | None
    stream_interval: str | None
    max_message: str
    model: str | None
    model_version: str | None
    shapes: tuple[str, ...]
    tensor_size: int | None
    http2: bool
    stream: bool
    dialect: Literal["openai", "plain"] | None
    error_status: tuple[str, ...]
    insecure: bool
    cacert: Path | None
    cert: Path | None
    key: Path | None
    server_name: str | None
    version: str | None
    version_from: tuple[str, ...]
    slo: tuple[str, ...]
    goodput: tuple[str, ...]
    confidence: float | None
    inconclusive: Literal["exit", "pass", "fail"]
    max_lag: str
    processes: str
    workers: int
    master: str | None
    worker: str | None
    ui: str | None
    name: str
    report: tuple[Path, ...]
    form: str


def _amount() -> list[Any]:
    return [
        click.option("--rate", type=float, metavar="N", help="Requests per second, whatever the answers do."),
        click.option("--schedule", metavar="TEXT", help="Rates over time: 'ramp 50->200 over 30s, hold 200 for 5m'."),
        click.option("--trace", type=_FILE, metavar="FILE", help="Start requests at the times in this file."),
        click.option("--users", type=click.IntRange(1), metavar="N", help="N users that wait for each answer."),
        click.option("--think", metavar="TIME", help="With --users: how long a user waits before the next request."),
        click.option("--max", "max_", is_flag=True, help="As fast as it goes, one request on each connection."),
        click.option("--poisson", is_flag=True, help="Random gaps between arrivals instead of even ones."),
        click.option("--seed", type=int, default=1, show_default=True, help="Of all that is random."),
        click.option("--duration", metavar="TIME", help="How long it is recorded; 30s if nothing else ends it."),
        click.option("--requests", type=click.IntRange(1), metavar="N", help="End after so many."),
        click.option("--warmup", metavar="TIME|N", help="Send for so long, or so many, before it is recorded."),
        click.option("--grace", default="30s", show_default=True, metavar="TIME", help="Wait for answers at the end."),
        click.option("--connections", type=click.IntRange(0), metavar="N", help="At most, 16 by default; 0: no limit."),
        click.option("--max-in-flight", type=click.IntRange(1), default=20_000, show_default=True, metavar="N"),
        click.option(
            "--on-limit",
            type=click.Choice(["queue", "drop"]),
            default="queue",
            show_default=True,
            help="What happens to requests beyond that.",
        ),
        click.option("--new-connections", is_flag=True, help="A new connection for each request."),
        click.option("--timeout", default="20s", show_default=True, metavar="TIME", help="Of a request."),
        click.option("--connect-timeout", default="10s", show_default=True, metavar="TIME"),
    ]


def _request() -> list[Any]:
    return [
        click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Repeatable."),
        click.option("-X", "--method", metavar="METHOD", help="GET, or POST where there is a payload."),
        click.option("--data", metavar="TEXT", help="The payload."),
        click.option("--data-file", type=_FILE, metavar="FILE", help="The payload is in this file."),
        click.option("--data-url", metavar="URL", help="The payload is fetched from there, once."),
        click.option("--template", metavar="TEXT|@FILE", help="The payload, with {{ seq }}, {{ user }}, ..."),
        click.option("--feed", type=_FILE, metavar="FILE", help="CSV or JSONL: its columns are names in the template."),
        click.option(
            "--feed-order",
            type=click.Choice(["cycle", "random"]),
            default="cycle",
            show_default=True,
            help="How its rows are taken.",
        ),
        click.option("--sticky-users", type=click.IntRange(1), metavar="N", help="Send N users' keys in turn."),
        click.option("--sticky-header", default="x-user", show_default=True, help="The header that carries the key."),
        click.option("--grpc", metavar="pkg.Service/Method", help="Call this method; the payload is JSON."),
        click.option("--proto", type=_FILE, multiple=True, metavar="FILE", help="Where the method is declared."),
        click.option("--proto-path", type=_FILE, multiple=True, metavar="DIR", help="Where imports are looked for."),
        click.option("--protoset", type=_FILE, metavar="FILE", help="A compiled descriptor set, instead of --proto."),
        click.option(
            "--grpc-client",
            type=click.Choice(["own", "grpcio"]),
            default="own",
            show_default=True,
            help="Who calls it.",
        ),
        click.option(
            "--stream-count", type=click.IntRange(1), metavar="N", help="How many messages a client's stream sends."
        ),
        click.option("--stream-interval", metavar="TIME", help="Between two of them."),
        click.option(
            "--max-message",
            default="64MiB",
            show_default=True,
            metavar="SIZE",
            help="Of a message in an answer; greater ones are failures.",
        ),
        click.option("--model", metavar="NAME", help="Infer with this KServe V2 model, with tensors that fit it."),
        click.option("--model-version", metavar="V", help="Of that model."),
        click.option(
            "--shape",
            "shapes",
            multiple=True,
            metavar="INPUT=DIMS",
            help="Of an input of the model: 'image=1x3x224x224'. Repeatable.",
        ),
        click.option(
            "--tensor-size", type=click.IntRange(1), metavar="N", help="Of dimensions of any size; 1 by default."
        ),
        click.option("--http2", is_flag=True, help="HTTP/2 instead of HTTP/1.1."),
        click.option("--stream", is_flag=True, help="The answer is a stream of events (OpenAI chat): time its tokens."),
        click.option(
            "--dialect",
            type=click.Choice(["openai", "plain"]),
            help="What such a stream speaks: openai by default; plain: each event is a token.",
        ),
        click.option(
            "--error-status",
            multiple=True,
            metavar="RANGE",
            help="HTTP statuses that are errors: '500-599', '400-,!404'. Repeatable; 400- by default.",
        ),
        click.option("--insecure", is_flag=True, help="Take any certificate."),
        click.option("--cacert", type=_FILE, metavar="FILE", help="Trust the certificates that these have signed."),
        click.option("--cert", type=_FILE, metavar="FILE", help="Our certificate."),
        click.option("--key", type=_FILE, metavar="FILE", help="Its key."),
        click.option("--server-name", metavar="NAME", help="What the certificate is to be for, if not the URL's host."),
        click.option("--version", metavar="V", help="All answers are of this version."),
        click.option(
            "--version-from",
            multiple=True,
            metavar="RULE",
            help="Where answers name it: header:NAME or body:model_version. [default: header:app-version, then body]",
        ),
    ]


def _result() -> list[Any]:
    return [
        click.option("--slo", multiple=True, metavar="EXPR", help="Such as 'latency-p99<=200ms'. Repeatable."),
        click.option("--goodput", multiple=True, metavar="METRIC<=TIME", help="What a good request stays within."),
        click.option("--confidence", type=float, metavar="C", help="Pass and fail only when as sure as this: 0.95."),
        click.option(
            "--inconclusive",
            type=click.Choice(["exit", "pass", "fail"]),
            default="exit",
            show_default=True,
            help="What an SLO without enough samples does to the exit code.",
        ),
        click.option("--max-lag", default="10ms", show_default=True, help="The generator's own lag (p99) allowed."),
        click.option("--processes", default="1", show_default=True, metavar="N|auto", help="That share the load."),
        click.option("--workers", type=click.IntRange(0), default=0, metavar="N", help="With --master: so many come."),
        click.option("--master", metavar="[HOST:]PORT", help="Lead workers on other machines, which connect here."),
        click.option("--worker", metavar="HOST:PORT", help="Be a worker of the --master there. Takes no URL."),
        click.option(
            "--ui",
            is_flag=False,
            flag_value=DEFAULT_PAGE,
            metavar="[HOST:PORT]",
            help=f"Open locust's own page, on {DEFAULT_PAGE} unless said otherwise.",
        ),
        click.option("--name", default="load", show_default=True, help="Of the run, in reports."),
        click.option(
            "--report", type=_FILE, multiple=True, metavar="FILE", help="Write it too: .html, .json, .csv, .xml or .md."
        ),
        click.option(
            "-o",
            "--output",
            "form",
            type=click.Choice(FORMATS),
            default="text",
            show_default=True,
            help="How to print it.",
        ),
    ]


def flags(function: _Function) -> _Function:
    """Put all of them on a command; their values come as the keywords of `Flags`."""
    for option in reversed([*_amount(), *_request(), *_result()]):
        function = option(function)
    return function
