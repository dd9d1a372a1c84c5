"""Messages to the service manager."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from petsem.server.notify import READY, STOPPING, notify


def listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(address)
    listener.setblocking(False)
    return listener


def test_a_message_reaches_a_socket_in_the_file_system(tmp_path: Path) -> None:
    """One datagram a state."""
    with listen(str(tmp_path / "n")) as manager:
        assert notify(str(tmp_path / "n"), READY)
        assert notify(str(tmp_path / "n"), STOPPING)
        assert manager.recv(99) == b"READY=1"
        assert manager.recv(99) == b"STOPPING=1"


def test_a_message_reaches_an_abstract_socket() -> None:
    """Written with a leading `@` in the variable."""
    name = f"petsem-test-{os.getpid()}"
    with listen("\0" + name) as manager:
        assert notify("@" + name, READY)
        assert manager.recv(99) == b"READY=1"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "vsock:2:3", "/no/such/socket", "@" + "x" * 300, "/a\0b"]
)
def test_a_manager_that_cannot_be_told_stops_nobody(address: str | None) -> None:
    """No socket, no listener, or a name that is no name: False, and no exception."""
    assert not notify(address, READY)


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    """Its queue is full after a few messages; the node goes on."""
    with listen(str(tmp_path / "n")):
        sent = 0
        while sent < 100_000 and notify(str(tmp_path / "n"), READY):
            sent += 1
        assert 0 < sent < 100_000
