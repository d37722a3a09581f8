"""The watcher of the convergence benchmark: asks Envoy over one keep-alive connection, back to back, who answers.

`python benchmarks/probe.py PORT HOST` tells one JSON line whenever the answer differs from the one before:
{"event": "answer", "version": ..., "sent": ..., "at": ...} (monotonic seconds). It ends with its standard input.
`pause` and `go` on stdin stop and restart the asking, so that a rival can be measured on the same machine in turn.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time


def main() -> None:
    port, host = int(sys.argv[1]), sys.argv[2]
    request = f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    connection = connect(port)
    last, asking, count = b"", True, 0
    stdin = sys.stdin.fileno()
    look = select.poll()
    look.register(stdin, select.POLLIN | select.POLLHUP)
    now = time.monotonic
    while True:
        if count % 16 == 0 or not asking:
            for _ in look.poll(0 if asking else None):
                line = sys.stdin.readline()
                if not line:
                    return
                asking = line.strip() != "pause"
                last = b""
        count += 1
        if not asking:
            continue
        sent = now()
        try:
            connection.sendall(request)
            answer = connection.recv(4096)
            while b"\r\n\r\n" not in answer or not complete(answer):
                more = connection.recv(4096)
                if not more:
                    raise ConnectionError("closed")
                answer += more
        except OSError:
            connection.close()
            time.sleep(0.01)
            connection = connect(port)
            continue
        at = now()
        said = answer[answer.rindex(b"\r\n") + 2 :] if answer[9:12] == b"200" else answer[9:12]
        if said != last:
            last = said
            print(json.dumps({"event": "answer", "version": said.decode(), "sent": sent, "at": at}), flush=True)


def complete(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    at = head.lower().find(b"content-length:")
    if at < 0:
        return True
    return len(body) >= int(head[at + 15 :].split(b"\r\n", 1)[0])


def connect(port: int) -> socket.socket:
    ends = time.monotonic() + 60
    while True:  # Envoy's admin tells the port a moment before its workers listen
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            break
        except ConnectionRefusedError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.01)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    main()
