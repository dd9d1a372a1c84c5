"""The port that a browser comes back to: who is let in, and that nobody else changes anything."""

from __future__ import annotations

import socket
import time

import pytest

from petsem.cli import loopback
from petsem.cli.loopback import Loopback
from petsem.errors import Code, PetsemError
from tests.unit.cli.signing_in import go_to

DONE = "/done?ticket=abc-DEF_123"


def answer_of(connection: socket.socket) -> bytes:
    """All that comes back."""
    data = b""
    with connection:
        while chunk := connection.recv(4096):
            data += chunk
    return data


def test_what_the_browser_brings() -> None:
    """The release is handed over, once; the answer is a page that repeats nothing of it."""
    with Loopback() as door:
        browser = go_to(
            door.port, DONE, None, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Cookie:"
        )
        assert door.wait(60) == "abc-DEF_123"
        answer = answer_of(browser)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"abc-DEF_123" not in answer
        assert b"default-src 'none'" in answer
        with pytest.raises(ConnectionRefusedError):
            go_to(door.port, DONE)


def test_only_this_machine() -> None:
    """It listens on 127.0.0.1 and on no other address."""
    with Loopback() as door:
        assert door._listener.getsockname() == ("127.0.0.1", door.port)


@pytest.mark.parametrize(
    ("target", "host", "more"),
    [
        (DONE, "evil.example", ()),
        (DONE, "localhost:{port}", ()),
        (DONE, "127.0.0.1", ()),
        (DONE, None, ("Host: 127.0.0.1:{port}",)),
        (DONE, None, ("Sec-Fetch-Mode: no-cors",)),
        (DONE, None, ("Sec-Fetch-Dest: iframe",)),
        (DONE, None, (" folded: x",)),
        ("/done", None, ()),
        ("/done?ticket=", None, ()),
        ("/done?ticket=a&x=b", None, ()),
        ("/done?ticket=a%20b", None, ()),
        ("/done?ticket=" + "a" * 513, None, ()),
        ("/favicon.ico", None, ()),
        ("http://127.0.0.1:{port}/done?ticket=a", None, ()),
    ],
)
def test_strangers(target: str, host: str | None, more: tuple[str, ...]) -> None:
    """A name that was made to point here, a page's own request, another path: refused, and the
    browser still gets in."""
    with Loopback() as door:
        made = [text.replace("{port}", str(door.port)) for text in (target, host or "", *more)]
        stranger = go_to(door.port, made[0], made[1] or None, *made[2:])
        browser = go_to(door.port, DONE)
        assert door.wait(60) == "abc-DEF_123"
        assert answer_of(stranger).startswith(b"HTTP/1.1 404 ")
        browser.close()


def test_another_method() -> None:
    """Nothing is taken from a POST."""
    with Loopback() as door, socket.create_connection(("127.0.0.1", door.port)) as stranger:
        stranger.sendall(f"POST {DONE} HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n\r\n".encode())
        assert door.wait(0) is None
        assert stranger.recv(64).startswith(b"HTTP/1.1 404 ")


def test_nobody_comes() -> None:
    """Waiting ends."""
    with Loopback() as door:
        assert door.wait(0) is None


def test_too_much() -> None:
    """A request without an end is given up after a few kilobytes."""

    class Endless:
        """A connection on which more and more arrives."""

        read = 0

        def settimeout(self, _: float) -> None:
            pass

        def recv(self, size: int) -> bytes:
            self.read += size
            assert self.read < 64 * 1024, "it reads on"
            return b"y" * size

    assert loopback._head(Endless()) is None  # type: ignore[arg-type]


def test_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends nothing is given up after its few seconds."""
    moments = iter([0.0, 0.0, 100.0, 106.0, *([200.0] * 9)])
    with Loopback() as door, socket.create_connection(("127.0.0.1", door.port)):
        monkeypatch.setattr(time, "monotonic", lambda: next(moments))
        assert door.wait(1) is None


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who keeps coming ends the wait, with what to do instead."""
    monkeypatch.setattr(loopback, "REQUESTS_MAX", 2)
    with Loopback() as door:
        for _ in range(3):
            go_to(door.port, "/").close()
        with pytest.raises(PetsemError, match="--no-browser") as caught:
            door.wait(60)
        assert caught.value.code is Code.UNAVAILABLE
