"""Ports for nodes that keep theirs from one start to the next."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

_PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to clients, so that none is taken while its node is down."""
_given: list[socket.socket] = []
"""A name of the kernel's for each port that was given here, which no process has twice."""


def free_port() -> int:
    """A port on loopback that nobody has, and that no tests on this machine were given that run
    still: a node that is down finds its port free when it starts again."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        name = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            name.bind(f"\0petsem-tests-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
            _given.append(name)
            return port
        name.close()
