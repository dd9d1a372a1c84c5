"""Certificates that are replaced while the node runs.

Guarantees: once a port's files changed and were then left alone for one look, whoever connects to
it is shown the new certificate and judged by the new `client_ca`; each connection gets all of the
old or all of the new. Files that do not fit together change nothing, and are logged once. A
connection that is open stays as it is.

Whether a port speaks TLS, and whether its clients need certificates, is settled at the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from petsem.errors import PetsemError
from petsem.server.config import TlsFiles
from petsem.server.tls import grpc_configuration, read_pem, server_context

log = structlog.get_logger(__name__)

LOOK_EVERY_S: Final = 2.0

_Signature = tuple[tuple[int, ...] | None, ...]


class LiveTls:
    """The TLS files of one port (`door`, for the log) and what they hold."""

    def __init__(self, door: str, tls: TlsFiles) -> None:
        """Read them; `invalid` if they do not fit together."""
        self._door = door
        self._tls = tls
        self._seen = self._judged = self._signature()
        self._pem = read_pem(tls)
        self._context = server_context(tls, self._pem)

    @property
    def context(self) -> ssl.SSLContext:
        """For asyncio and uvloop: a context that makes each connection with what is loaded then."""
        return _LatestContext(self)

    @property
    def loaded(self) -> ssl.SSLContext:
        """The context of the files that were loaded last."""
        return self._context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For grpc.aio: credentials that show whoever connects what is loaded then."""
        shown = self._pem

        def latest() -> Any:
            # Called by gRPC, on a thread of its own, before each handshake.
            nonlocal shown
            pem = self._pem
            if pem is shown:
                return None
            shown = pem
            return grpc_configuration(pem)

        return grpc.dynamic_ssl_server_credentials(
            grpc_configuration(shown),
            latest,
            require_client_authentication=shown.client_ca is not None,
        )

    def look(self) -> None:
        """Load the files again if they changed before the last look and not since. Never raises.

        A certificate and its key are two files, and are rarely replaced in the same moment.
        """
        now = self._signature()
        rested, self._seen = now == self._seen, now
        if not rested or now == self._judged:
            return
        self._judged = now
        try:
            pem = read_pem(self._tls)
            if pem == self._pem:
                return
            context = server_context(self._tls, pem)
        except PetsemError as e:
            log.warning("certificate_not_reloaded", door=self._door, message=e.message)
            return
        self._pem, self._context = pem, context
        log.info("certificate_reloaded", door=self._door)

    def _signature(self) -> _Signature:
        """Changes with the files, and with what a name in their paths points to."""
        return tuple(
            _signature(path)
            for path in (self._tls.cert, self._tls.key, self._tls.client_ca)
            if path is not None
        )


class TlsWatch:
    """Looks at the files of several ports, until it is stopped."""

    def __init__(self, ports: Sequence[LiveTls], every_s: float = LOOK_EVERY_S) -> None:
        self._ports = ports
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there is anything to look at."""
        if self._ports:
            self._task = asyncio.create_task(self._run(), name="certificates")

    async def stop(self) -> None:
        """End; nothing is replaced any more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            for port in self._ports:
                try:
                    # On a thread: the files may be on a disk that does not answer.
                    await asyncio.to_thread(port.look)
                except Exception as e:
                    # Whatever it was: without this task the next certificate would be missed.
                    log.error("certificates_not_looked_at", exc_info=e)


class _LatestContext(ssl.SSLContext):
    """Hands each connection on to the context that is loaded when it begins."""

    _live: LiveTls

    def __new__(cls, live: LiveTls) -> _LatestContext:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._live = live
        return made

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """A connection, as event loops make them."""
        return self._live.loaded.wrap_bio(*args, **kwargs)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
