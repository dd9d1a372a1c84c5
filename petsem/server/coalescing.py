"""One system call for an answer: the head and the body of a response leave together.

ASGI hands them over in two messages, and uvloop sends each write at once. On a small answer the
second send costs as much as half of everything else. What is written in one turn of the loop is
held back to its end, or until it is large.

Guarantees: bytes leave in order, all of them before a close. It holds no more than `_HOLD_BYTES`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_HOLD_BYTES: Final = 64 * 1024


class CoalescingTransport:
    """A transport that gathers writes; everything else is the wrapped transport's."""

    __slots__ = ("_held", "_held_bytes", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        """Hold `data` until the end of this turn of the loop."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _HOLD_BYTES:
            self._flush()

    def write_eof(self) -> None:
        """Send what is held, then the end."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Drop what is held and the connection."""
        self._held.clear()
        self._held_bytes = 0
        self._transport.abort()

    def get_write_buffer_size(self) -> int:
        """Bytes that have not been sent, held here or below."""
        self._flush()
        return self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        if self._held:
            data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
            if not self._transport.is_closing():
                self._transport.write(data)
