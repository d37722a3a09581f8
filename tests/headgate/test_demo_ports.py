"""The demo takes the port that people know, and any other when somebody has that one."""

import socket

from headgate.demo.ports import free_port


def test_a_free_port_is_taken_as_wished_and_a_taken_one_is_not():
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        wished = somebody.getsockname()[1]
        somebody.listen()
        assert free_port(wished) not in (0, wished)
    assert free_port(wished) == wished
