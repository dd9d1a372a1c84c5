"""Calls to nodes over gRPC's blocking channels, for any number of threads.

Guarantees: as `aio_calls`. A lock covers the table of connections, never a call.
"""

from __future__ import annotations

import threading
from typing import Protocol, cast

import grpc

from petsem.errors import invalid
from petsem_client.endpoints import Endpoint
from petsem_client.failures import Failure, client_closed, failure_of
from petsem_client.session import Send, Step
from petsem_client.streaming import StreamSession, Told
from petsem_client.tour import Pause
from petsem_client.transport import CHANNEL_OPTIONS, Security, authorization
from petsem_client.unary import Answer, UnarySession


class BlockingStream(Protocol):
    """The part of gRPC's call object that is used here (it has no public name of its own)."""

    def __next__(self) -> bytes: ...

    def cancel(self) -> bool: ...


class BlockingCalls:
    """The connections of one client, `what` that is, for what was under way when it was closed. A
    process that forks makes its client afterwards."""

    def __init__(self, security: Security, what: str) -> None:
        self._security = security
        self._what = what
        self._channels: dict[Endpoint, grpc.Channel] = {}
        self._closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def require_open(self) -> None:
        """Refuse whoever calls after `close`."""
        if self.closed:
            raise invalid(f"this {self._what} is closed")

    def complete(self, method: str, session: UnarySession[Answer], lock: threading.Lock) -> Answer:
        """Perform a session's steps until it has its answer; each is found under `lock`."""
        with lock:
            step: Answer | Step = session.start()
        while isinstance(step, Send | Pause):
            if isinstance(step, Pause):
                self.pause(step)
                with lock:
                    step = session.resumed()
                continue
            came = self.send(method, step)
            with lock:
                step = session.failed(came) if isinstance(came, Failure) else session.answered(came)
        return step

    def news(
        self, call: BlockingStream, session: StreamSession[Told], lock: threading.Lock
    ) -> Told | Step | None:
        """What a stream brings that the caller is to be told, or the step after its end; None: the
        client was closed."""
        while True:
            message = self.read(call)
            if self.closed:
                return None
            with lock:
                if isinstance(message, Failure):
                    return session.failed(message)
                came = session.closed() if message is None else session.received(message)
            if came is not None:
                return came

    def pause(self, pause: Pause) -> None:
        """Wait, or until the end."""
        self._closing.wait(pause.seconds)

    def send(self, method: str, step: Send) -> bytes | Failure:
        """One unary call."""
        channel = self._channel(step.endpoint)
        if channel is None:
            return client_closed(self._what)
        # Replies stay bytes here: what a node sends is parsed, and refused, in one place.
        call = channel.unary_unary(method, None, None)
        metadata = authorization(step.token)
        try:
            reply: bytes = call(step.body, timeout=step.timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            if self.closed:
                return client_closed(self._what)
            return failure_of(error.code(), error.details(), error.trailing_metadata())
        except ValueError:
            # What gRPC raises if another thread closed the channel since.
            if not self.closed:
                raise
            return client_closed(self._what)
        return reply

    def open(self, method: str, step: Send) -> BlockingStream | None:
        """A stream of replies; None once closed."""
        channel = self._channel(step.endpoint)
        if channel is None:
            return None
        stream = channel.unary_stream(method, None, None)
        metadata = authorization(step.token)
        try:
            call = stream(step.body, timeout=step.timeout_s, metadata=metadata)
        except ValueError:
            if not self.closed:
                raise
            return None
        return cast("BlockingStream", call)

    def read(self, call: BlockingStream) -> bytes | Failure | None:
        """The stream's next message; None if the node ended it in order."""
        try:
            return next(call, None)
        except grpc.RpcError as error:
            return failure_of(error.code(), error.details(), error.trailing_metadata())

    def close(self) -> None:
        """End every call and connection; twice is fine."""
        self._closing.set()
        with self._lock:
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.close()

    def _channel(self, endpoint: Endpoint) -> grpc.Channel | None:
        """The connection to `endpoint`; None once closed."""
        with self._lock:
            if self.closed:
                return None
            channel = self._channels.get(endpoint)
            if channel is None:
                credentials = self._security.credentials(endpoint)
                if credentials is None:
                    channel = grpc.insecure_channel(endpoint.target, CHANNEL_OPTIONS)
                else:
                    channel = grpc.secure_channel(endpoint.target, credentials, CHANNEL_OPTIONS)
                self._channels[endpoint] = channel
            return channel
