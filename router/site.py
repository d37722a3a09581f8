"""What the cluster says of one version: whether it can serve, and where its requests go."""

from __future__ import annotations

from dataclasses import dataclass

from xds.ir import Endpoint, Headers, Protocol


@dataclass(frozen=True, slots=True)
class Site:
    """`endpoints` are the addresses that serve now, or one DNS name when `dns`; they stay while the version is leaving.

    `gone`: nothing of the version is there, or something of it is being deleted, so that nobody expects it to serve.
    `protocol` is what was found; the manifest's own wins. `host_rewrite` and `path_rewrite` replace the request's Host
    and whole path, empty leaves them. `request_headers` select the version on a server that it shares.
    """

    ready: bool
    reason: str
    endpoints: tuple[Endpoint, ...] = ()
    dns: bool = False
    protocol: Protocol | None = None
    host_rewrite: str = ""
    path_rewrite: str = ""
    request_headers: Headers = ()
    gone: bool = False
