"""A running node with short deadlines, and what is sent to it that it must not take.

What is sent holds a marked word wherever there is room, and no answer or log may repeat it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest

from tests.support.doors import Doors, Reply, grpc_error, values_of
from tests.support.offline import Disk

MARK: Final = "canary-7c1f"
APP: Final = "/v1/orgs/acme/apps/web"
SECRETS: Final = APP + "/secrets"
FETCH: Final = "/petsem.v1.Secrets/Fetch"
DEADLINE_S: Final = 0.4
PATIENCE_S: Final = 5.0
"""No connection that the node should end lasts this long."""


@dataclass
class Site:
    """A running node with short deadlines, and acme/web with one secret in it."""

    doors: Doors
    disk: Disk
    reader: str

    @property
    def port(self) -> int:
        return self.doors.daemon.http

    @property
    def stored(self) -> object:
        """What no bad request may change."""
        return self.disk.rows("SELECT epoch, txid FROM position")

    def unharmed(self) -> None:
        assert values_of(self.doors.fetch("acme/web")) == {"A": b"value of A"}
        assert self.doors.ask("GET", "/readyz").status == 200


def batch(**more: Any) -> bytes:
    """A body that sets a secret, and whatever else."""
    return json.dumps({"set": {"A": MARK}, **more}).encode()


def head_of(site: Site, length: int | str, *more: str) -> bytes:
    """The header of a request to set secrets, as the operator."""
    lines = (
        f"PATCH {SECRETS} HTTP/1.1", "Host: x", f"Authorization: Bearer {site.doors.operator}",
        "Content-Type: application/json", f"Content-Length: {length}", *more, "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


def say(port: int, *parts: bytes, pause_s: float = 0.0, finish: bool = False) -> bytes:
    """Send `parts`, then hear what the node says until it ends the connection, which it must."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as line:
        line.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                line.sendall(part)
                if pause_s:
                    time.sleep(pause_s)
            if finish:
                line.shutdown(socket.SHUT_WR)
            while said := line.recv(65_536):
                heard += said
                # An answer that keeps the connection is whole when its body is.
                if _is_whole(heard):
                    break
    return heard


def _is_whole(heard: bytes) -> bool:
    head, end, body = heard.partition(b"\r\n\r\n")
    low = head.lower()
    if not end or b"connection: close" in low or b"content-length:" not in low:
        return False
    return len(body) >= int(low.split(b"content-length:")[1].split(b"\r\n")[0])


def raw_call(site: Site, raw: bytes, *metadata: tuple[str, str]) -> Reply:
    """How a fetch over gRPC is refused, of whichever bytes."""
    call: Any = site.doors.channel.unary_unary(FETCH, None, None)
    with pytest.raises(grpc.RpcError) as caught:
        call(raw, metadata=metadata, timeout=10)
    return grpc_error(caught.value)
