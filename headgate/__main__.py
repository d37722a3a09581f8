"""`python -m headgate` is `headgate`. ctrl-C ends it quietly from its first moment on, while it is still imported."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = 130


def main() -> None:
    """Entry point of the `headgate` script."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # in the background of a shell it is ignored
    if ours:
        signal.signal(signal.SIGINT, _leave)
    from headgate.cli import main as begin

    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        begin()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _leave(*_: object) -> NoReturn:
    """At once: nothing has been done yet, and an exception in the midst of an import may be lost or told."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
