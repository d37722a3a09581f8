"""How the control plane logs: one line per change of state, as text for people or as JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Protocol


class Log(Protocol):
    """What `headgate.config.Log` is; the sidecar does without the rest of the configuration, and its 20 MB."""

    @property
    def level(self) -> str: ...

    @property
    def format(self) -> str: ...


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(config: Log) -> None:
    """Send our log lines to stderr; other libraries only speak up when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.ERROR)  # warns of every stream that a stop ends
    for ours in ("headgate", "router", "sidecar", "xds"):
        logging.getLogger(ours).setLevel(config.level.upper())
