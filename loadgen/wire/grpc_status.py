"""Names of gRPC's status codes, and what an answer without one means (grpc/doc/http-grpc-status-mapping.md)."""

from __future__ import annotations

from typing import Final

NAMES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_OF_HTTP: Final = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


def status_name(value: str) -> str | None:
    """Of a grpc-status; one that nobody knows is called by its number, and None says that it is no number."""
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        return None
    code = int(value)
    return NAMES[code] if code < len(NAMES) else f"CODE_{code}"


def status_of_http(status: int) -> str:
    return _OF_HTTP.get(status, "UNKNOWN")
