"""Parameters of the task `grpc`: those of ghz with the defaults that Iter8 has, addresses of files, and some ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from loadgen.experiment.values import (
    Amount,
    Count,
    Flag,
    HeaderTexts,
    Percentile,
    Span,
    SpanOrZero,
    WebAddress,
)
from router.schema import Part

Workers = Annotated[int, Field(ge=1, le=100_000)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class GrpcEndpoint(Part):
    """What one endpoint may say. Nothing here has a default: `GRPC_DEFAULTS` has them."""

    model_config = ConfigDict(alias_generator=_dashed)

    call: str | None = Field(default=None, description="package.Service/Method, or with a dot before the method.")
    host: str | None = Field(default=None, description="HOST:PORT.")
    proto: str | None = Field(default=None, description="The .proto file that tells of the method.")
    proto_url: WebAddress | None = Field(default=None, alias="protoURL", description="The same, from an address.")
    protoset: str | None = Field(default=None, description="A compiled descriptor set instead.")
    import_paths: tuple[str, ...] | None = Field(default=None, description="Where imports of the proto file are.")
    data: Any = Field(default=None, description="The message, as JSON or YAML. A list is a stream of messages.")
    data_file: str | None = Field(default=None, description="The same, from a file.")
    data_url: WebAddress | None = Field(default=None, alias="dataURL", description="The same, from an address.")
    binary_file: str | None = Field(default=None, description="A serialized message, from a file.")
    binary_data_url: WebAddress | None = Field(
        default=None, alias="binaryDataURL", description="The same, from an address."
    )
    metadata: HeaderTexts | None = Field(default=None, description="Metadata of each call.")
    metadata_file: str | None = Field(default=None, description="The same, from a JSON file.")
    metadata_url: WebAddress | None = Field(default=None, alias="metadataURL", description="The same, from an address.")
    reflect_metadata: HeaderTexts | None = Field(default=None, description="Metadata for server reflection.")
    total: Count | None = Field(default=None, description="How many calls.")
    duration: SpanOrZero | None = Field(default=None, description="For how long. Wins over total.")
    max_duration: SpanOrZero | None = Field(default=None, description="No longer than this, whatever total says.")
    duration_stop: Literal["close", "wait", "ignore"] | None = Field(
        default=None,
        description="What becomes of calls in flight when duration ends: close does not wait for them.",
    )
    concurrency: Workers | None = Field(default=None, description="Calls at a time.")
    connections: Workers | None = Field(default=None, description="Connections that they share.")
    rps: Amount | None = Field(default=None, description="Calls per second; 0: each as soon as one has come back.")
    is_async: Flag | None = Field(
        default=None,
        alias="async",
        description="Taken: with rps calls start on time anyhow.",
    )
    load_schedule: Literal["const", "step", "line"] | None = Field(default=None, description="How rps changes.")
    load_start: Amount | None = Field(default=None, description="Rate to begin with.")
    load_end: Amount | None = Field(default=None, description="Rate at which it stops changing.")
    load_step: Annotated[float, Field(ge=-1e7, le=1e7)] | None = Field(
        default=None, description="step: calls per second more each time; line: more each second."
    )
    load_step_duration: SpanOrZero | None = Field(default=None, description="How long a step lasts.")
    load_max_duration: SpanOrZero | None = Field(default=None, description="How long the rate changes at most.")
    concurrency_schedule: Literal["const", "step", "line"] | None = Field(
        default=None, description="How concurrency changes."
    )
    concurrency_start: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Concurrency to begin with."
    )
    concurrency_end: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Concurrency at which it stops changing."
    )
    concurrency_step: Annotated[int, Field(ge=-100_000, le=100_000)] | None = Field(
        default=None, description="step: more each time; line: more each second."
    )
    concurrency_step_duration: SpanOrZero | None = Field(default=None, description="How long a step lasts.")
    concurrency_max_duration: SpanOrZero | None = Field(default=None, description="How long it changes at most.")
    skip_first: Annotated[int, Field(ge=0)] | None = Field(
        default=None, alias="skipFirst", description="Calls to begin with, not recorded."
    )
    timeout: SpanOrZero | None = Field(default=None, description="How long an answer is waited for.")
    connect_timeout: SpanOrZero | None = Field(default=None, description="How long a connection is waited for.")
    keepalive: SpanOrZero | None = Field(default=None, description="Taken; connections are watched anyhow.")
    stream_interval: SpanOrZero | None = Field(default=None, description="Time between messages of a client stream.")
    stream_call_duration: SpanOrZero | None = Field(default=None, description="How long a stream lasts at most.")
    stream_call_count: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        default=None, description="Messages of a client stream."
    )
    authority: str | None = Field(default=None, description="The :authority to call, for example a model's host.")
    insecure: Flag | None = Field(default=None, description="Without TLS. As in Iter8 that is the default.")
    skip_tls: Flag | None = Field(default=None, alias="skipTLS", description="With TLS, do not check the certificate.")
    cacert: str | None = Field(default=None, description="PEM file of the authority to trust; makes it TLS.")
    cert: str | None = Field(default=None, description="PEM file of the client's certificate.")
    key: str | None = Field(default=None, description="PEM file of the client's key.")
    cname: str | None = Field(default=None, description="Name to expect in the certificate.")
    max_recv_message_size: str | int | None = Field(default=None, description="Largest answer, such as 16MB.")
    percentiles: tuple[Percentile, ...] | None = Field(
        default=None, description="Ours. Percentiles to report besides those that are always there."
    )
    warmup: Flag | None = Field(default=None, description="Send all this, and record nothing.")
    warmup_num_requests: Count | None = Field(
        default=None, alias="warmupNumRequests", description="Calls to begin with, not recorded."
    )
    warmup_duration: Span | None = Field(
        default=None, alias="warmupDuration", description="A time to begin with, not recorded."
    )
    spacing: Literal["constant", "poisson"] | None = Field(
        default=None, description="Ours. How calls are spread over time."
    )
    version: str | None = Field(default=None, description="Ours. The version that answers here, whatever it says.")
    attribution: tuple[str, ...] | None = Field(
        default=None, description="Ours. Where the version is read: header:NAME, body:model_version."
    )
    client: Literal["own", "grpcio"] | None = Field(default=None, description="Ours. Which client calls.")
    count_errors: Flag | None = Field(default=None, description="Taken; failed calls always count, as in Iter8.")
    lb_strategy: Literal["", "pick_first", "round_robin"] | None = Field(
        default=None, description="Taken, without effect."
    )
    enable_compression: Flag | None = Field(default=None, description="Taken, without effect.")
    cpus: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Taken, without effect.")
    name: str | None = Field(default=None, description="Taken, without effect.")
    tags: dict[str, Any] | None = Field(default=None, description="Taken, without effect.")


class GrpcSettings(GrpcEndpoint):
    endpoints: dict[str, GrpcEndpoint] = Field(
        default_factory=dict, description="Several targets at the same time, by a name that metrics carry."
    )
    processes: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Ours. Processes of the generator.")
    grace: SpanOrZero = Field(default=30.0, description="Ours. How long the last answers are waited for.")
    max_lag: Span | None = Field(
        default=None,
        alias="maxLag",
        description="Ours. Past this own lag (p99) the run says nothing about the target.",
    )
    max_unknown: Amount | None = Field(
        default=None,
        alias="maxUnknown",
        description="Ours. Share of answers without a version, where others have one, that is accepted.",
    )


GRPC_DEFAULTS = {
    "total": 200,
    "concurrency": 50,
    "connections": 1,
    "rps": 0.0,
    "timeout": 20.0,
    "connect_timeout": 10.0,
    "insecure": True,
    "attribution": ("header:app-version", "body:model_version"),
}
