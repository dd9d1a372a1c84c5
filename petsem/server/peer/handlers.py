"""The methods of the peer port, each behind its rule, and the bounds of one caller.

Guarantees: a method is answered to whom the policy names and to nobody else. One without a rule
cannot be served; a join certificate reaches what is for joining alone; a node's certificate counts
at each call only while the node is a member and the certificate has not ended. No exception's text
reaches the caller. It knows no sockets and no TLS; `petsem.server.peer.server` does.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self

import grpc
import structlog
from google.protobuf.message import Message

from petsem import limits
from petsem.clock import Clock
from petsem.crypto.ca import CertRole
from petsem.errors import Code, PetsemError, limited
from petsem.server import policy
from petsem.server.peer.identity import Caller, Callers, ended
from petsem.server.peer.membership import Member, Members
from petsem.server.peer.streams import PeerStreams
from petsem.server.rpc.errors import grpc_error, unexpected
from petsem.server.rpc.messages import parse

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Send = Callable[[bytes], Awaitable[None]]
"""Sends one serialised message; returns when there is room for the next."""

_REFUSAL_LOGGED_MS: Final = 60_000
_REFUSALS_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class JoinMethod:
    """A method for holders of a join certificate. `answer` gets the invitation's id."""

    path: str
    request: type[Message]
    answer: Callable[[str, Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class PeerMethod:
    """A method for nodes, with one reply."""

    path: str
    request: type[Message]
    answer: Callable[[Member, Any], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class PeerStream:
    """A method for nodes, with messages both ways until `answer` returns or raises.

    `answer` may read and send in two tasks of its own; both end with it, or with the stream.
    """

    path: str
    request: type[Message]
    answer: Callable[[Member, AsyncIterator[Any], Send], Awaitable[None]]


Method = JoinMethod | PeerMethod | PeerStream


class PeerHandlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """The table of methods by path, each behind the policy's rule."""

    def __init__(
        self,
        methods: Sequence[Method],
        *,
        cluster_id: bytes,
        members: Members,
        clock: Clock,
        streams: PeerStreams | None = None,
    ) -> None:
        self._callers = Callers(cluster_id)
        self._members = members
        self._clock = clock
        self._calls: Counter[str] = Counter()
        self._refused: dict[str, int] = {}
        self.streams = streams or PeerStreams()
        self._handlers = {method.path: self._handler(method) for method in methods}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a path, for gRPC; None makes it answer UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)

    def admit(self, caller: Caller) -> Member:
        """The member behind a caller, whose certificate may have ended since it connected."""
        if self._clock.unix_ms() >= caller.ends_ms:
            raise ended()
        return self._members.require(caller)

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        _require_rule(method)
        if isinstance(method, PeerStream):
            return self._stream(method)
        if isinstance(method, PeerMethod):
            answer = method.answer
            return self._unary(method, lambda caller, message: answer(self.admit(caller), message))
        join = method.answer
        return self._unary(
            method,
            lambda caller, message: join(_invited(caller), message),
            most_bytes=limits.JOIN_MESSAGE_MAX_BYTES,
        )

    def _unary(
        self,
        method: JoinMethod | PeerMethod,
        answer: Callable[[Caller, Any], Awaitable[Message]],
        most_bytes: int = limits.PEER_REQUEST_MAX_BYTES,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        kind, path = method.request, method.path

        async def call(raw: bytes, context: Context) -> bytes:
            try:
                caller = self._caller(context)
                with self._counted(caller):
                    if len(raw) > most_bytes:
                        raise limited("the request is larger than this method takes")
                    return (await answer(caller, parse(kind, raw))).SerializeToString()
            except PetsemError as e:
                error = e
            except Exception as e:
                error = unexpected(path, e)
            return await self._refuse(path, context, error)

        return grpc.unary_unary_rpc_method_handler(call)

    def _stream(self, method: PeerStream) -> grpc.RpcMethodHandler[Any, Any]:
        kind, path = method.request, method.path

        async def call(raws: AsyncIterator[bytes], context: Context) -> None:
            try:
                caller = self._caller(context)
                member = self.admit(caller)
                async with self.streams.opened(path, caller):
                    await method.answer(member, _Parsed(kind, raws), context.write)
                    return
            except Exception as e:
                cause = _cause(e)
                if isinstance(cause, grpc.aio.BaseError):
                    # The call ended while a message was on its way.
                    raise cause from None
                error = cause if isinstance(cause, PetsemError) else unexpected(path, cause)
            await self._refuse(path, context, error)

        return grpc.stream_stream_rpc_method_handler(call)

    def _caller(self, context: Context) -> Caller:
        return self._callers.of(context.auth_context(), self._clock.unix_ms())

    @contextlib.contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        """Around a unary call, within the bounds of all and of its caller."""
        who = caller.identity.node_id
        if self._calls.total() >= limits.PEER_CALLS_MAX:
            raise limited("this node has as many calls in progress as it takes")
        if self._calls[who] >= limits.PEER_CALLS_OF_NODE_MAX:
            raise limited("this node has as many calls of one other in progress as it takes")
        self._calls[who] += 1
        try:
            yield
        finally:
            self._calls[who] -= 1
            if not self._calls[who]:
                del self._calls[who]

    async def _refuse(self, path: str, context: Context, error: PetsemError) -> NoReturn:
        now_ms = self._clock.unix_ms()
        if error.code in (Code.UNAUTHENTICATED, Code.DENIED) and self._is_news(error, now_ms):
            log.warning("peer_refused", method=path, peer=context.peer(), message=error.message)
        await context.abort(*grpc_error(error, now_ms))

    def _is_news(self, error: PetsemError, now_ms: int) -> bool:
        """Whether nobody was refused so within a minute: who is removed goes on trying."""
        if now_ms - self._refused.get(error.message, 0) < _REFUSAL_LOGGED_MS:
            return False
        if len(self._refused) >= _REFUSALS_REMEMBERED:
            self._refused.clear()
        self._refused[error.message] = now_ms
        return True


class _Parsed:
    """The messages of a stream. No generator: a task may be waiting in it when the stream ends."""

    def __init__(self, kind: type[Message], raws: AsyncIterator[bytes]) -> None:
        self._kind = kind
        self._raws = aiter(raws)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return parse(self._kind, await anext(self._raws))


def _cause(error: Exception) -> Exception:
    """The error itself, or of those that came out of a task group the one that says most."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause(each) for each in error.exceptions]
    said = [each for each in causes if isinstance(each, (PetsemError, grpc.aio.BaseError))]
    return (said or causes)[0]


def _invited(caller: Caller) -> str:
    if caller.identity.role is not CertRole.JOIN:
        raise PetsemError(Code.DENIED, "a node's certificate does not join; this node is a member")
    return caller.identity.node_id


def _require_rule(method: Method) -> None:
    """Refuse to start with a method that the policy does not know, or gives to others."""
    role = CertRole.JOIN if isinstance(method, JoinMethod) else CertRole.NODE
    if policy.PEER.get(method.path) is not role:
        raise PetsemError(Code.INTERNAL, f"the policy has no such rule for {method.path}")
