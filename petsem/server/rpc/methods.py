"""The RPC methods, each once: a message in, serialised messages out. The doors carry them.

Guarantees: every method has its rule in the policy, or the node does not start. Methods know the
services and no transport; errors are `PetsemError`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from petsem import limits
from petsem.errors import Code, PetsemError, invalid
from petsem.model import check_org
from petsem.server import policy
from petsem.server.node import Node
from petsem.server.passing_on import PassingOn
from petsem.server.principal import Request
from petsem.server.rpc import messages
from petsem.wire import petsem_pb2 as pb

FETCH: Final = "/petsem.v1.Secrets/Fetch"
VERIFY: Final = "/petsem.v1.Tokens/Verify"
VERIFY_BATCH: Final = "/petsem.v1.Tokens/VerifyBatch"


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one reply. `answer` takes a parsed `request` and gives a whole `reply`."""

    path: str
    request: type[Message]
    reply: type[Message]
    answer: Callable[[Request, Any], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """A method with many replies."""

    path: str
    request: type[Message]
    answer: Callable[[Request, Any], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A method with many requests and many replies. `answer` gets the parsed requests."""

    path: str
    request: type[Message]
    answer: Callable[[Request, AsyncIterator[Any]], AsyncGenerator[bytes, None]]


class Methods:
    """All methods of the two services, over one node."""

    def __init__(self, node: Node) -> None:
        self._boot = node.boot
        self._verification = node.verification
        self._freshness = node.freshness
        self._passing = PassingOn(node)
        self.unary = (
            Unary(FETCH, pb.FetchRequest, pb.FetchResponse, self.fetch),
            Unary(VERIFY, pb.VerifyRequest, pb.VerifyResponse, self.verify),
            Unary(
                VERIFY_BATCH,
                pb.VerifyBatchRequest,
                pb.VerifyBatchResponse,
                self.verify_batch,
            ),
        )
        self.streams = (
            Stream("/petsem.v1.Secrets/Watch", pb.WatchRequest, self.watch),
            Stream(
                "/petsem.v1.Tokens/WatchRevocations",
                pb.WatchRevocationsRequest,
                self.watch_revocations,
            ),
        )
        require_rules(method.path for method in (*self.unary, *self.streams))

    async def fetch(self, request: Request, message: pb.FetchRequest) -> bytes:
        """All secrets of an app that the token may read."""
        if self._passing.reads_elsewhere():
            return await self._passing.call(FETCH, request, message)
        try:
            fetched = await self._boot.fetch(
                request, message.machine, messages.fetch_asked(message)
            )
        except PetsemError as e:
            return await self._elsewhere(FETCH, request, message, e)
        return messages.fetch_reply(fetched, self._freshness.encoded(fetched.position))

    async def verify(self, request: Request, message: pb.VerifyRequest) -> bytes:
        """May this token do that?"""
        if self._passing.reads_elsewhere():
            return await self._passing.call(VERIFY, request, message)
        try:
            verdict = self._verification.verify_one(request, messages.verify_item(message))
        except PetsemError as e:
            return await self._elsewhere(VERIFY, request, message, e)
        return messages.verify_reply(verdict, self._freshness.encoded(verdict.position))

    async def verify_batch(self, request: Request, message: pb.VerifyBatchRequest) -> bytes:
        """Many such questions, all answered at one position but those that are newer."""
        if len(message.requests) > limits.VERIFY_BATCH_MAX:
            raise invalid(f"a batch has at most {limits.VERIFY_BATCH_MAX} tokens")
        if self._passing.reads_elsewhere():
            return await self._passing.call(VERIFY_BATCH, request, message)
        try:
            verdicts = self._verification.verify(
                request, list(map(messages.verify_item, message.requests))
            )
        except PetsemError as e:
            return await self._elsewhere(VERIFY_BATCH, request, message, e)
        if not verdicts:
            return b""
        freshness = self._freshness.encoded(verdicts[0].position)
        reply = messages.verify_batch_reply(verdicts, freshness)
        places = [at for at, verdict in enumerate(verdicts) if verdict.doubt is not None]
        return reply if not places else await self._cleared_up(request, message, reply, places)

    async def _cleared_up(
        self, request: Request, message: pb.VerifyBatchRequest, reply: bytes, places: list[int]
    ) -> bytes:
        """The reply with upstream's answers in the places of those in doubt, if it has any."""
        asked = pb.VerifyBatchRequest(requests=[message.requests[at] for at in places])
        try:
            if not self._passing.is_of_use(request):
                return reply
            return messages.replaced(
                reply, places, await self._passing.call(VERIFY_BATCH, request, asked)
            )
        except PetsemError:
            # What this node knows it has answered.
            return reply

    async def _elsewhere(
        self, path: str, request: Request, message: Message, error: PetsemError
    ) -> bytes:
        """The answer from upstream where this node had only `error`, which is raised otherwise."""
        if not self._passing.may_help(error, request):
            raise error
        return await self._passing.call(path, request, message, error)

    def _require_data(self) -> None:
        refusal = self._passing.refusal()
        if refusal is not None:
            raise refusal

    async def watch(
        self, request: Request, message: pb.WatchRequest
    ) -> AsyncGenerator[bytes, None]:
        """Each new version of an app."""
        self._require_data()
        org, app = messages.watched_app(message)
        source = self._boot.watch(request, message.machine, org, app, message.after_version)
        async with aclosing(source) as changes:
            async for version, position in changes:
                freshness = self._freshness.protobuf(position)
                yield pb.AppChanged(version=version, freshness=freshness).SerializeToString()

    async def watch_revocations(
        self, request: Request, message: pb.WatchRevocationsRequest
    ) -> AsyncGenerator[bytes, None]:
        """Each revocation, and heartbeats."""
        self._require_data()
        org = check_org(message.org) if message.org else None
        after = messages.optional_position(message, "after")
        async with aclosing(self._verification.watch_revocations(request, org, after)) as feed:
            async for row, position in feed:
                freshness = self._freshness.protobuf(position)
                yield messages.revocation(row, position, freshness).SerializeToString()


def require_rules(paths: Iterable[str]) -> None:
    """Refuse to start with a method that the policy does not know."""
    missing = sorted(set(paths) - policy.RPC.keys())
    if missing:
        raise PetsemError(Code.INTERNAL, f"the policy has no rule for {', '.join(missing)}")
