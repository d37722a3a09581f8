"""Free ports on loopback: the one that people know if it can be had, else any."""

from __future__ import annotations

import socket


def free_port(preferred: int = 0) -> int:
    """`preferred` if nobody listens on it, otherwise one that the system gives."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
    raise OSError("no free port on 127.0.0.1")
