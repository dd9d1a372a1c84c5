"""The asyncio reader.

Guarantees: opens no connection before the first call and none that it does not close; cancelling a
call cancels its RPC. It belongs to the event loop of its first call. All policy is in the sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc.aio

from petsem.clock import Clock, SystemClock
from petsem.errors import invalid
from petsem.model import Position
from petsem_client.bundle import Bundle
from petsem_client.endpoints import Endpoint
from petsem_client.failures import Failure, failure_of, reader_closed
from petsem_client.fetching import FetchSession
from petsem_client.replies import AppChanged
from petsem_client.requests import Watch, checked_fetch, checked_watch
from petsem_client.session import Send, Step
from petsem_client.shared import ATTEMPT_TIMEOUT_S, TIMEOUT_S, Shared
from petsem_client.tour import Pause
from petsem_client.transport import CHANNEL_OPTIONS, FETCH, WATCH, Pem, Security, authorization
from petsem_client.watching import WatchSession

_Stream = grpc.aio.UnaryStreamCall[Any, bytes]


class SecretReader:
    """Fetches and watches apps' secrets, at the first of several nodes that can answer.

    `endpoints`: gRPC addresses, `HOST:PORT` or `[IPv6]:PORT`, nearest first. `token`: never sent
    as it is, but narrowed to each app, machine and minute. `ca`, `cert`, `key`: PEM as bytes or the
    paths of files. Plaintext is for loopback only, unless `insecure=True`; elsewhere TLS is used,
    by default with the public CAs that gRPC brings. `timeout_s`: a whole fetch;
    `attempt_timeout_s`: the first try at one node of several.

    Raises PetsemError: `invalid` for arguments, `unauthenticated` for text that is no token.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        token: str,
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        insecure: bool = False,
        timeout_s: float = TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        self._security = Security.of(ca, cert, key, insecure=insecure)
        self._shared = Shared.of(
            endpoints,
            token=token,
            clock=clock or SystemClock(),
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
        )
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}
        self._closing = asyncio.Event()

    async def fetch(
        self,
        app: str,
        *,
        machine: str | None = None,
        version: int = 0,
        min_version: int = 0,
        min_position: Position | None = None,
        names: Sequence[str] = (),
        known: Bundle | None = None,
        durable: bool = False,
        timeout_s: float | None = None,
    ) -> Bundle:
        """All secrets of `app` (`ORG/APP`) that the token may read, in one consistent version.

        `version`: that one instead of the current. `min_version`, `min_position`: nothing older.
        `names`: only these. `known`: an earlier bundle of the same app, whose bytes are not sent
        again if it still holds. `durable`: only what a failover cannot lose.

        Raises PetsemError: `denied`, `unauthenticated`, `not_found` and `invalid` at once;
        `stale`, `limit`, `corrupt` and `unavailable` once no node could do better in time.
        """
        wanted = checked_fetch(
            app,
            machine=machine,
            version=version,
            min_version=min_version,
            min_position=min_position,
            names=names,
            known=known,
            durable=durable,
        )
        self._check_open()
        session = FetchSession(self._shared, wanted, timeout_s)
        step: Bundle | Step = session.start()
        while not isinstance(step, Bundle):
            if isinstance(step, Pause):
                await self._pause(step)
                step = session.resumed()
                continue
            came = await self._send(step)
            step = session.failed(came) if isinstance(came, Failure) else session.answered(came)
        return step

    def watch(
        self, app: str, *, machine: str | None = None, after_version: int = 0
    ) -> AsyncGenerator[AppChanged, None]:
        """Each new version of `app` after `after_version`, as (version, freshness), as it comes.

        Connects again by itself, elsewhere if need be, and goes on until the caller stops or the
        reader is closed. Raises PetsemError for a refusal that will not pass by itself.
        """
        wanted = checked_watch(app, machine=machine, after_version=after_version)
        self._check_open()
        return self._watch(wanted)

    async def _watch(self, wanted: Watch) -> AsyncGenerator[AppChanged, None]:
        session = WatchSession(self._shared, wanted)
        step = session.start()
        while not self._closing.is_set():
            if isinstance(step, Pause):
                await self._pause(step)
                step = session.resumed()
                continue
            call = self._open(step)
            try:
                while isinstance(came := await self._event(call, session), AppChanged):
                    yield came
            finally:
                call.cancel()
            if came is None:
                return
            step = came

    async def close(self) -> None:
        """End every call and connection; twice is fine. Fetches under way fail, watches end."""
        self._closing.set()
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"SecretReader({[str(endpoint) for endpoint in self._shared.endpoints]})"

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise invalid("this reader is closed")

    def _channel(self, endpoint: Endpoint) -> grpc.aio.Channel:
        channel = self._channels.get(endpoint)
        if channel is None:
            credentials = self._security.credentials(endpoint)
            if credentials is None:
                channel = grpc.aio.insecure_channel(endpoint.target, CHANNEL_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(endpoint.target, credentials, CHANNEL_OPTIONS)
            self._channels[endpoint] = channel
        return channel

    async def _pause(self, pause: Pause) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause.seconds)

    async def _send(self, step: Send) -> bytes | Failure:
        if self._closing.is_set():
            return reader_closed()
        # Replies stay bytes here: what a node sends is parsed, and refused, in one place.
        call = self._channel(step.endpoint).unary_unary(FETCH, None, None)
        metadata = authorization(step.token)
        try:
            reply: bytes = await call(step.body, timeout=step.timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return failure_of(error.code(), error.details(), error.trailing_metadata())
        except asyncio.CancelledError:
            return self._cut_off()
        return reply

    def _open(self, step: Send) -> _Stream:
        stream = self._channel(step.endpoint).unary_stream(WATCH, None, None)
        metadata = authorization(step.token)
        return stream(step.body, timeout=step.timeout_s, metadata=metadata)

    async def _event(self, call: _Stream, session: WatchSession) -> AppChanged | Step | None:
        """The stream's next news, or the step after its end; None: the reader was closed."""
        while True:
            message = await self._read(call)
            if self._closing.is_set():
                return None
            if isinstance(message, Failure):
                return session.failed(message)
            came = session.closed() if message is None else session.received(message)
            if came is not None:
                return came

    async def _read(self, call: _Stream) -> bytes | Failure | None:
        """The stream's next message; None if the node ended it in order."""
        try:
            message = await call.read()
        except grpc.aio.AioRpcError as error:
            return failure_of(error.code(), error.details(), error.trailing_metadata())
        except asyncio.CancelledError:
            return self._cut_off()
        return message if isinstance(message, bytes) else None

    def _cut_off(self) -> Failure:
        """gRPC cancels the calls of a channel that is closed; a task's own cancelling goes on."""
        task = asyncio.current_task()
        if self._closing.is_set() and not (task and task.cancelling()):
            return reader_closed()
        raise asyncio.CancelledError
