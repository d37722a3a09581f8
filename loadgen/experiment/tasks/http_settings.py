"""Parameters of the task `http`: Iter8's, with its defaults, and a few of ours. Endpoints are laid over the rest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from loadgen.experiment.values import (
    Amount,
    Count,
    Flag,
    HeaderTexts,
    Percentile,
    PlainText,
    Span,
    SpanOrZero,
    WebAddress,
)
from router.schema import Part

Status = Annotated[int, Field(ge=0, le=999)]


class ErrorRange(Part):
    lower: Status | None = Field(default=None, description="The lowest status that is an error.")
    upper: Status | None = Field(default=None, description="The highest status that is an error.")


class TlsSettings(Part):
    insecure_skip_verify: Flag = Field(default=False, description="Do not check the server's certificate.")
    ca_cert: str | None = Field(default=None, description="PEM file of the authority to trust.")
    cert: str | None = Field(default=None, description="PEM file of the client's certificate.")
    key: str | None = Field(default=None, description="PEM file of the client's key.")
    server_name: str | None = Field(default=None, description="Name to expect in the certificate.")


class HttpEndpoint(Part):
    """What one endpoint may say. Nothing here has a default: `HTTP_DEFAULTS` has them."""

    url: WebAddress | None = Field(default=None, description="What is asked.")
    num_requests: Count | None = Field(default=None, description="How many requests. Wins over duration.")
    duration: Span | None = Field(default=None, description="For how long.")
    qps: Annotated[float, Field(ge=-1, le=10_000_000)] | None = Field(
        default=None,
        description="Requests per second of all connections together. 0 or -1: as fast as answers come.",
    )
    connections: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="Connections at a time; requests that find none wait, which counts. By default as many as it "
        "takes, or 4 without a rate.",
    )
    payload_str: PlainText | None = Field(default=None, description="Body of the request; makes it a POST.")
    payload_file: str | None = Field(default=None, description="File with the body; wins over payloadStr.")
    payload_url: WebAddress | None = Field(
        default=None, alias="payloadURL", description="Address of the body; wins over both."
    )
    content_type: str | None = Field(default=None, description="Content-Type of the body.")
    error_ranges: tuple[ErrorRange, ...] | None = Field(
        default=None, description="Statuses that are errors, ends included. A missing end is open."
    )
    percentiles: tuple[Percentile, ...] | None = Field(
        default=None, description="Percentiles of the latency, besides those that are always there."
    )
    headers: HeaderTexts | None = Field(default=None, description="Request headers.")
    allow_initial_errors: Flag | None = Field(
        default=None, description="Go on although the first requests, one for each connection, all failed."
    )
    warmup: Flag | None = Field(default=None, description="Send all this, and record nothing.")
    warmup_num_requests: Count | None = Field(default=None, description="Requests to begin with, not recorded.")
    warmup_duration: Span | None = Field(default=None, description="A time to begin with, not recorded.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] | None = Field(
        default=None, description="Ours. Request method."
    )
    timeout: Span | None = Field(default=None, description="Ours. How long an answer is waited for.")
    http2: Flag | None = Field(default=None, description="Ours. Speak HTTP/2.")
    spacing: Literal["constant", "poisson"] | None = Field(
        default=None, description="Ours. How requests are spread over time."
    )
    version: str | None = Field(default=None, description="Ours. The version that answers here, whatever it says.")
    attribution: tuple[str, ...] | None = Field(
        default=None, description="Ours. Where the version is read: header:NAME, body:model_version."
    )
    tls: TlsSettings | None = Field(default=None, description="Ours. How a server's certificate is checked.")
    users: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None, description="Ours. How many users {{ user }} in headers and bodies goes round."
    )


class HttpSettings(HttpEndpoint):
    endpoints: dict[str, HttpEndpoint] = Field(
        default_factory=dict, description="Several targets at the same time, by a name that metrics carry."
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Ours. Processes of the generator.")
    grace: SpanOrZero = Field(default=30.0, description="Ours. How long the last answers are waited for.")
    max_lag: Span | None = Field(
        default=None, description="Ours. Past this own lag (p99) the run says nothing about the target."
    )
    max_unknown: Amount | None = Field(
        default=None, description="Ours. Share of answers without a version, where others have one, that is accepted."
    )


HTTP_DEFAULTS = {
    "num_requests": 100,
    "qps": 8.0,
    "error_ranges": (ErrorRange(lower=400),),
    "allow_initial_errors": False,
    "warmup": False,
    "spacing": "constant",
    "timeout": 20.0,
    "attribution": ("header:app-version", "body:model_version"),
}
