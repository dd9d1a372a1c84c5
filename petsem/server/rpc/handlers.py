"""The gRPC door's handlers: from a call's bytes and metadata to a method, and its errors back.

Guarantees: no exception reaches gRPC, which would show its text to the caller; what is not a
`PetsemError` is logged and answered "internal error". A caller that hangs up leaves no trace.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from petsem import limits
from petsem.clock import Clock
from petsem.errors import PetsemError, invalid, limited
from petsem.server.host_key import of_call
from petsem.server.principal import Request
from petsem.server.rpc.caller import bearer, grpc_peer_ip
from petsem.server.rpc.errors import grpc_error, unexpected
from petsem.server.rpc.messages import parse
from petsem.server.rpc.methods import Exchange, Stream, Unary
from petsem.server.rpc.streams import Streams

Context = grpc.aio.ServicerContext[Any, Any]
Caller = Callable[[Context], Request]


class Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A table of handlers by path. Requests and replies pass through gRPC as bytes: parsing is
    ours, so that a malformed request is answered like every other error.

    At most `calls_max` unary calls are in progress at once. gRPC can bound them itself, for a tenth
    of a bare call's time; this costs an addition.
    """

    def __init__(self, clock: Clock, calls_max: int = limits.GRPC_CONCURRENT_RPCS_MAX) -> None:
        self._clock = clock
        self._calls_left = calls_max
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a path, for gRPC; None makes it answer UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)

    def add_unary(self, method: Unary, caller: Caller) -> None:
        """Serve a method with one reply."""
        answer, kind, path = method.answer, method.request, method.path

        async def call(raw: bytes, context: Context) -> bytes:
            self._calls_left -= 1
            try:
                if self._calls_left < 0:
                    raise limited("this node has as many calls in progress as it takes")
                return await answer(caller(context), parse(kind, raw))
            except PetsemError as e:
                error = e
            except Exception as e:
                error = unexpected(path, e)
            finally:
                self._calls_left += 1
            return await self._refuse(context, error)

        self._handlers[path] = grpc.unary_unary_rpc_method_handler(call)

    def add_stream(self, method: Stream, caller: Caller, streams: Streams) -> None:
        """Serve a method with many replies."""
        answer, kind = method.answer, method.request

        async def call(raw: bytes, context: Context) -> None:
            def replies() -> AsyncGenerator[bytes, None]:
                return answer(caller(context), parse(kind, raw))

            await self._send(method.path, replies, context, streams)

        self._handlers[method.path] = grpc.unary_stream_rpc_method_handler(call)

    def add_exchange(self, exchange: Exchange, caller: Caller, streams: Streams) -> None:
        """Serve a method with many requests and replies."""

        async def call(raws: AsyncIterable[bytes], context: Context) -> None:
            async def asked() -> AsyncGenerator[Message, None]:
                async for raw in raws:
                    yield parse(exchange.request, raw)

            def replies() -> AsyncGenerator[bytes, None]:
                return exchange.answer(caller(context), asked())

            await self._send(exchange.path, replies, context, streams)

        self._handlers[exchange.path] = grpc.stream_stream_rpc_method_handler(call)

    async def _send(
        self,
        path: str,
        replies: Callable[[], AsyncGenerator[bytes, None]],
        context: Context,
        streams: Streams,
    ) -> None:
        try:
            async with streams.opened(), aclosing(replies()) as source:
                async for reply in source:
                    await context.write(reply)
                return
        except PetsemError as e:
            error = e
        except grpc.aio.BaseError:
            # The call ended while a reply was on its way; gRPC knows whether that is worth a word.
            raise
        except Exception as e:
            error = unexpected(path, e)
        await self._refuse(context, error)

    async def _refuse(self, context: Context, error: PetsemError) -> NoReturn:
        await context.abort(*grpc_error(error, self._clock.unix_ms()))


def caller_of(context: Context) -> Request:
    """Who calls, by metadata and connection."""
    token = None
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            if token is not None:
                raise invalid("there is more than one authorization in the metadata; send one")
            token = bearer(str(value))
    return Request(token, grpc_peer_ip(context.peer()))


def certified_caller_of(context: Context) -> Request:
    """The same where clients need certificates: the host key, too, once it is asked for."""
    caller = caller_of(context)
    return Request(caller.token, caller.ip, host_key=of_call(context))


def anybody(_context: Context) -> Request:
    """For what is open: whatever was sent along is not looked at."""
    return Request(None, None)
