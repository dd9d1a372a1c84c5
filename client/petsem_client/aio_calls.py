"""Calls to nodes over grpc.aio: connections made when needed, replies as bytes, failures as values.

Guarantees: opens no connection before the first call and none that it does not close; cancelling a
task cancels its RPC. Decides nothing: which node, which token and what then is for the sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc.aio

from petsem.errors import invalid, unavailable
from petsem_client.endpoints import Endpoint
from petsem_client.failures import Failure, Retry, client_closed, failure_of
from petsem_client.session import Send, Step
from petsem_client.streaming import StreamSession, Told
from petsem_client.tour import Pause
from petsem_client.transport import CHANNEL_OPTIONS, Security, authorization
from petsem_client.unary import Answer, UnarySession

AioStream = grpc.aio.UnaryStreamCall[Any, bytes]


class AioCalls:
    """The connections of one client, on the event loop of its first call. `what` it is, for what
    was under way when it was closed."""

    def __init__(self, security: Security, what: str) -> None:
        self._security = security
        self._what = what
        self._channels: dict[Endpoint, grpc.aio.Channel] = {}
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def require_open(self) -> None:
        """Refuse whoever calls after `close`."""
        if self.closed:
            raise invalid(f"this {self._what} is closed")

    async def complete(self, method: str, session: UnarySession[Answer]) -> Answer:
        """Perform a session's steps until it has its answer."""
        step: Answer | Step = session.start()
        while isinstance(step, Send | Pause):
            if isinstance(step, Pause):
                await self.pause(step)
                step = session.resumed()
                continue
            came = await self.send(method, step)
            step = session.failed(came) if isinstance(came, Failure) else session.answered(came)
        return step

    async def news(self, call: AioStream, session: StreamSession[Told]) -> Told | Step | None:
        """What a stream brings that the caller is to be told, or the step after its end; None: the
        client was closed."""
        while True:
            message = await self.read(call)
            if self.closed:
                return None
            if isinstance(message, Failure):
                return session.failed(message)
            came = session.closed() if message is None else session.received(message)
            if came is not None:
                return came

    async def pause(self, pause: Pause) -> None:
        """Wait, or until the end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause.seconds)

    async def send(self, method: str, step: Send) -> bytes | Failure:
        """One unary call."""
        if self.closed:
            return client_closed(self._what)
        # Replies stay bytes here: what a node sends is parsed, and refused, in one place.
        call = self._channel(step.endpoint).unary_unary(method, None, None)
        metadata = authorization(step.token)
        try:
            reply: bytes = await call(step.body, timeout=step.timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return failure_of(error.code(), error.details(), error.trailing_metadata())
        except asyncio.CancelledError:
            return self._cut_off()
        return reply

    def open(self, method: str, step: Send) -> AioStream:
        """A stream of replies."""
        stream = self._channel(step.endpoint).unary_stream(method, None, None)
        metadata = authorization(step.token)
        return stream(step.body, timeout=step.timeout_s, metadata=metadata)

    async def read(self, call: AioStream) -> bytes | Failure | None:
        """The stream's next message; None if the node ended it in order."""
        try:
            message = await call.read()
        except grpc.aio.AioRpcError as error:
            return failure_of(error.code(), error.details(), error.trailing_metadata())
        except asyncio.CancelledError:
            return self._cut_off()
        return message if isinstance(message, bytes) else None

    async def close(self) -> None:
        """End every call and connection; twice is fine."""
        self._closing.set()
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close(None)

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

    def _cut_off(self) -> Failure:
        """gRPC cancels the calls of a channel that is closed, and those that we gave up; a task's
        own cancelling goes on."""
        task = asyncio.current_task()
        if task and task.cancelling():
            raise asyncio.CancelledError
        if self.closed:
            return client_closed(self._what)
        return Failure(unavailable("the call was given up"), Retry.LATER)
