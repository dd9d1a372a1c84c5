"""Ports for nodes that keep theirs from one start to the next."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

_PORTS: Final = range(20_000, 32_000)
"""Below those that the kernel gives to clients, so that none is taken while its node is down."""
_given: set[int] = set()


def free_port() -> int:
    """A port on loopback that nobody has and nobody was given here."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.add(port)
            return port
