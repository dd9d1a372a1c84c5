"""What a replica cannot answer, asked of another node.

Guarantees: a write is passed on once and never repeated here; if it is not known whether it was
made, the answer says so (`indeterminate`). It is answered when this node has applied it, or after
`APPLIED_WAIT_S`. A read is passed on only if this node has no data or must not read it, lacks the
key to authenticate its caller, or is behind what was asked for; its answer is marked as coming from
upstream; of a batch about tokens only those questions. How many are on their way at once is
bounded. On the leader nothing is passed on.

It judges no token; whoever answers does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from petsem import limits
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError, limited, unavailable
from petsem.model import Position, Role
from petsem.server.changes import POSITION
from petsem.server.database import read_position
from petsem.server.forward import POSITION_HEADER, Upstream, host_key_of, message_of
from petsem.server.keys import MissingKek
from petsem.server.node import Node
from petsem.server.principal import Request
from petsem.server.service.waiting import check_fence, until_fresh
from petsem.server.upstream_answers import error_of, mark_json, mark_reply
from petsem.wire import petsem_pb2 as pb

WRITE_TIMEOUT_S: Final = 30.0
READ_TIMEOUT_S: Final = 5.0
POLL_TIMEOUT_S: Final = 60.0
"""For HTTP reads, of which some wait for news."""
APPLIED_WAIT_S: Final = 2.0

_NO_ANSWER: Final = frozenset({Code.STALE, Code.UNAVAILABLE, Code.LIMIT, Code.INTERNAL})
_NO_ANSWER_STATUS: Final = frozenset({412, 429, 500, 503, 504})


class PassingOn:
    """The way upstream for the requests of one door."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._view = node.freshness.view
        self._left = limits.FORWARDS_MAX

    def writes_elsewhere(self) -> bool:
        """Whether writes are not for this node."""
        return self._view.role is not Role.LEADER

    def reads_elsewhere(self) -> bool:
        """Whether this node has nothing that it may answer reads from."""
        return self.refusal() is not None

    def refusal(self) -> PetsemError | None:
        """What to say where nobody else can be asked either; None if this node may answer."""
        view = self._view
        if view.role is Role.LEADER:
            return None
        if view.removed is not None:
            return unavailable(view.removed)
        if not view.synced:
            return unavailable(f"{view.lacking}; ask another node")
        return None if view.unreadable is None else unavailable(view.unreadable)

    def may_help(self, error: PetsemError, request: Request) -> bool:
        """Whether the node upstream may have an answer to a read where this one has an error."""
        if not self.is_of_use(request):
            return False
        if isinstance(error, MissingKek):
            return error.purpose is not Purpose.SECRETS
        return error.code is Code.STALE

    def is_of_use(self, request: Request) -> bool:
        """Whether there is a node upstream that can be asked on."""
        if self._view.role is Role.LEADER or request.hops >= limits.FORWARD_HOPS_MAX:
            return False
        return self._view.removed is None and self._upstream.connected

    # HTTP

    async def write(
        self, scope: Mapping[str, Any], body: bytes, request: Request
    ) -> pb.ForwardResponse:
        """The leader's answer to a write."""
        response = await self._send_write(message_of(scope, body, request, self._region))
        if request.hops == 0 and response.status < 300:
            await self._until_applied(response)
        return response

    async def read(
        self,
        scope: Mapping[str, Any],
        body: bytes,
        request: Request,
        error: PetsemError | None = None,
    ) -> pb.ForwardResponse:
        """The answer to a read from upstream; `error`, if that has none either."""
        message = message_of(scope, body, request, self._region)
        response = await self._send(message, POLL_TIMEOUT_S, error)
        if error is not None and response.status in _NO_ANSWER_STATUS:
            raise error
        if response.status == 200:
            response.body = mark_json(response.body)
        return response

    # RPC

    async def call(
        self, path: str, request: Request, message: Message, error: PetsemError | None = None
    ) -> bytes:
        """The serialised reply of a unary method from upstream; else `error`, if there is one."""
        headers = [pb.Header(name="content-type", value="application/proto")]
        if request.token:
            headers.append(pb.Header(name="authorization", value=f"Bearer {request.token}"))
        asked = pb.ForwardRequest(
            method="POST",
            path=path,
            headers=headers,
            body=message.SerializeToString(),
            client_ip=request.ip or "",
            hops=request.hops,
            client_region=request.region or self._region,
            client_host_key=host_key_of(request),
        )
        response = await self._send(asked, READ_TIMEOUT_S, error)
        if response.status == 200:
            return mark_reply(path, response.body)
        failure = error_of(response)
        if error is not None and failure.code in _NO_ANSWER:
            raise error
        raise failure

    @property
    def _region(self) -> str:
        return self._node.identity.region

    @property
    def _upstream(self) -> Upstream:
        return self._node.upstream

    async def _send_write(self, message: pb.ForwardRequest) -> pb.ForwardResponse:
        with self._counted():
            return await self._upstream.forward(message, WRITE_TIMEOUT_S)

    async def _send(
        self, message: pb.ForwardRequest, timeout_s: float, error: PetsemError | None
    ) -> pb.ForwardResponse:
        with self._counted():
            try:
                return await self._upstream.forward(message, timeout_s, changes=False)
            except PetsemError as e:
                too_new = self._view.unreadable
                raise error or (e if too_new is None else unavailable(too_new)) from None

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._view.removed is not None:
            # Nobody would take it from this node, and it might be asked for what it must not have.
            raise unavailable(self._view.removed)
        if self._left <= 0:
            raise limited("this node passes on as many requests as it may; ask the leader itself")
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1

    async def _until_applied(self, response: pb.ForwardResponse) -> None:
        """Wait until this node has what the leader committed, for a while."""
        at = _position_in(response)
        if at is None or not self._view.synced:
            return

        def look() -> None:
            with self._node.pool.snapshot() as db:
                check_fence(db, read_position(db), at)

        # The write stands, whatever keeps this node from seeing it.
        with contextlib.suppress(PetsemError):
            await until_fresh(self._node.changes, POSITION, look, APPLIED_WAIT_S)


def _position_in(response: pb.ForwardResponse) -> Position | None:
    wanted = POSITION_HEADER.decode()
    for header in response.headers:
        if header.name == wanted:
            with contextlib.suppress(PetsemError):
                return Position.parse(header.value)
    return None
