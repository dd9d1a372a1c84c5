"""The HTTP door: uvicorn's protocol over httptools, with every size and time bounded.

Guarantees: before the application sees a request, its header block, URL, framing and declared
length were within bounds; a body never grows past its bound; a connection that is slow to send, to
read, or to say anything is closed in bounded time; at most `connections_max` are served at once.
What is refused gets one JSON error and a close. Requests are answered one at a time: a client that
sends the next one before its answer gets that answer and a close.

It does not authenticate, route or decompress, and it trusts llhttp (strict by default) to refuse
obsolete folding, bare CR and LF, two lengths, and a length beside chunks; tests hold each of these.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from petsem import limits
from petsem.server import http_refusals as refusals
from petsem.server import policy
from petsem.server.coalescing import CoalescingTransport
from petsem.server.host_key import HOST_KEY, HostKey, of_connection
from petsem.server.http_refusals import Refusal

_LINGER_S: Final = 2.0
_OVERFLOW_ANSWERED: Final = 256
"""Connections over the cap that still get an answer; those beyond are dropped without one."""
_CONNECT_PATHS: Final = policy.RPC_PATHS.encode("ascii")
_WATCHED: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-encoding", b"upgrade"}
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The door's bounds; the defaults are those of `petsem.limits`."""

    connections_max: int = limits.HTTP_CONNECTIONS_MAX
    header_deadline_s: float = limits.HTTP_HEADER_DEADLINE_S
    body_deadline_s: float = limits.HTTP_BODY_DEADLINE_S
    write_deadline_s: float = limits.HTTP_BODY_DEADLINE_S
    headers_max_bytes: int = limits.HTTP_HEADERS_MAX_BYTES
    url_max_bytes: int = limits.HTTP_HEADERS_MAX_BYTES // 2
    body_max_bytes: int = limits.HTTP_BODY_MAX_BYTES


class _Phase(enum.Enum):
    """What the parser is in the middle of."""

    BETWEEN = enum.auto()
    HEADER = enum.auto()
    BODY = enum.auto()


class _LeaveParserError(Exception):
    """Leaves the parser from inside a callback."""


class GuardedHttpProtocol(HttpToolsProtocol):
    """One connection. Uvicorn makes these itself: give it `protocol_class(…)` as `http`."""

    limits: ClassVar[HttpLimits] = HttpLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = _Phase.BETWEEN
        self._refusal: Refusal | None = None
        # True once nothing more will be parsed: the rest of what comes is thrown away.
        self._deaf = False
        self._discarded_bytes = 0
        # Bytes fed since the parser last reported something; it buffers no more than these.
        self._silent_bytes = 0
        self._body_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_for: _Phase | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._host_key: HostKey | None = None

    # The connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(CoalescingTransport(transport, self.loop))  # type: ignore[arg-type]
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._host_key = of_connection(tls)
        over = len(self.connections) - self.limits.connections_max
        if over > _OVERFLOW_ANSWERED:
            transport.abort()
        elif over > 0:
            self._refuse(refusals.CONNECTIONS)
        else:
            self._set_deadline(_Phase.HEADER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._stop_write_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        self._unset_keepalive_if_required()
        step = self.limits.headers_max_bytes
        if len(data) <= step:
            self._feed(data)
        else:
            # In steps, so that the parser never buffers much more than a header block may hold.
            for start in range(0, len(data), step):
                self._feed(data[start : start + step])
                if self._deaf:
                    return
        if not self._deaf:
            self._set_deadline(self._awaited())

    def _feed(self, data: bytes) -> None:
        self._silent_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # An upgrade that is ignored (such as h2c) leaves an ordinary request; what followed
            # in the same packet is a request that did not wait for its answer.
            if upgrade.args[0] < len(data):
                self._stop_listening()
        except httptools.HttpParserError:
            # `_refusal` is set if a callback of ours had a reason, and not if llhttp itself did.
            self._refuse(self._refusal or refusals.MALFORMED)
        else:
            if self._silent_bytes > self.limits.headers_max_bytes:
                self._refuse(self._too_silent())

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            raise _LeaveParserError
        self._phase = _Phase.HEADER
        self._silent_bytes = 0
        self._body_bytes = 0
        super().on_message_begin()
        if self._host_key is not None:
            self.scope[HOST_KEY] = self._host_key  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._refusal = self._judge()
        if self._refusal is not None:
            raise _LeaveParserError
        super().on_headers_complete()
        # Trailers of a chunked body come through `on_header` as well. The application has the
        # old list, so that nothing can be added to it once the request was judged.
        self.headers = []
        self._phase = _Phase.BODY
        self._silent_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > self.limits.body_max_bytes:
            self._refusal = refusals.body_too_large(self.limits.body_max_bytes)
            raise _LeaveParserError
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = _Phase.BETWEEN
        self._silent_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # Closing waits until the client has read everything, which it may never do.
            self._start_write_deadline()

    def _judge(self) -> Refusal | None:
        """Why this request is refused on its header alone, or None."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            return refusals.VERSION
        if self.parser.get_method() == b"CONNECT":
            return refusals.CONNECT
        if len(self.url) > self.limits.url_max_bytes:
            return refusals.url_too_long(self.limits.url_max_bytes)
        size = len(self.url)
        hosts = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name not in _WATCHED:
                continue
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                if int(value) > self.limits.body_max_bytes:
                    return refusals.body_too_large(self.limits.body_max_bytes)
            elif name == b"transfer-encoding":
                if version != "1.1" or value.strip().lower() != b"chunked":
                    return refusals.TRANSFER_ENCODING
            elif name == b"content-encoding":
                # Connect has an answer of its own to this, which its door gives.
                if value.strip().lower() != b"identity" and not self._asks_connect():
                    return refusals.CONTENT_ENCODING
            elif value.strip().lower() == b"websocket":
                return refusals.WEBSOCKET
        if size > self.limits.headers_max_bytes:
            return self._headers_too_large()
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return refusals.HOST
        return None

    def _asks_connect(self) -> bool:
        """Whether the request, as far as it was read, is a call of Connect's."""
        return self._phase is not _Phase.BETWEEN and self.url.startswith(_CONNECT_PATHS)

    def _headers_too_large(self) -> Refusal:
        return refusals.headers_too_large(self.limits.headers_max_bytes)

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: clients offer h2c on every connection, and the offer is simply not taken."""

    # Deadlines

    def _awaited(self) -> _Phase | None:
        """What the client owes us now: a header, a body, or nothing while its answer is due."""
        if self._phase is _Phase.BETWEEN:
            # After stray bytes between two requests; without this they would end the
            # keep-alive timer and the connection would stay for ever.
            answered = self.cycle is None or self.cycle.response_complete
            return _Phase.HEADER if answered else None
        return self._phase

    def _set_deadline(self, awaited: _Phase | None) -> None:
        # Most requests come whole in one packet and never have a timer.
        if awaited is self._deadline_for:
            return
        self._cancel_deadline()
        self._deadline_for = awaited
        if awaited is _Phase.HEADER:
            self._deadline = self.loop.call_later(
                self.limits.header_deadline_s, self._header_overdue
            )
        elif awaited is _Phase.BODY:
            self._deadline = self.loop.call_later(self.limits.body_deadline_s, self._body_overdue)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _header_overdue(self) -> None:
        if self._phase is _Phase.HEADER:
            self._refuse(refusals.HEADER_TIMEOUT)
        else:
            self._close()

    def _body_overdue(self) -> None:
        self._refuse(refusals.BODY_TIMEOUT)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_deadline()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_deadline()

    def _start_write_deadline(self) -> None:
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(
                self.limits.write_deadline_s, self.transport.abort
            )

    def _stop_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    # Refusing

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, if the answer can be told from another request's, and take in nothing more."""
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering and self._phase is not _Phase.BODY:
            # What is wrong came after a whole request, whose answer is still to come.
            self._stop_listening()
            return
        self._deaf = True
        self._set_deadline(None)
        if answering:
            # The application sees a client that went away, and what it sends is dropped.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self._close()
                return
        if answering or self._phase is not _Phase.BODY:
            default = self.server_state.default_headers
            self.transport.write(refusal.encode(default, connect=self._asks_connect()))
        # Else the body goes on after its answer, and a second one would be taken for the next's.
        self._linger()

    def _too_silent(self) -> Refusal:
        """Why so many bytes that amount to nothing are refused."""
        if self._phase is _Phase.HEADER:
            return self._headers_too_large()
        return refusals.FRAMING if self._phase is _Phase.BODY else refusals.MALFORMED

    def _stop_listening(self) -> None:
        """Answer the request in progress, then close; what came too early is thrown away."""
        self._deaf = True
        self._set_deadline(None)
        self.cycle.keep_alive = False

    def _linger(self) -> None:
        """Close once the client had time to read the answer.

        Closing a socket while it holds unread bytes resets it, and the reset may destroy the answer
        before the client, still busy sending, has read it.
        """
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self._close)

    def _discard(self, count: int) -> None:
        self._discarded_bytes += count
        if self._discarded_bytes > self.limits.body_max_bytes:
            self._close()

    def _close(self) -> None:
        if self.transport.get_write_buffer_size():
            # `close` would wait for a client that is not reading.
            self.transport.abort()
        else:
            self.transport.close()


def protocol_class(http_limits: HttpLimits) -> type[GuardedHttpProtocol]:
    """The protocol with these limits, as uvicorn's `http` setting wants it: a class."""
    return type("GuardedHttpProtocol", (GuardedHttpProtocol,), {"limits": http_limits})
