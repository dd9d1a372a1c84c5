"""Telling systemd that the node is ready, or stopping (the protocol of `sd_notify(3)`).

Guarantees: never raises and never waits, so that a supervisor that is gone cannot stop a node.
"""

from __future__ import annotations

import socket
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def notify(notify_socket: str | None, state: str) -> bool:
    """Send `state` to `$NOTIFY_SOCKET`; False if there is none, or it did not take the message.

    A leading `@` names a socket in Linux's abstract namespace.
    """
    if not notify_socket or notify_socket[0] not in "/@":
        return False
    address = "\0" + notify_socket[1:] if notify_socket[0] == "@" else notify_socket
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode("utf-8"), address)
    except (OSError, ValueError):
        return False
    return True
