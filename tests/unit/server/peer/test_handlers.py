"""Who is answered what: rules, bounds of calls, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
import structlog

from petsem import limits
from petsem.clock import ManualClock
from petsem.crypto.ca import CertRole, Identity
from petsem.errors import Code, PetsemError, conflict
from petsem.server.peer.dial import FORWARD, JOIN, STREAM
from petsem.server.peer.handlers import (
    JoinMethod,
    Method,
    PeerHandlers,
    PeerMethod,
    PeerStream,
    Send,
)
from petsem.server.peer.identity import Caller
from petsem.server.peer.membership import Member, Members
from petsem.wire import petsem_pb2 as pb


class Anybody:
    """Takes every caller for a member."""

    def require(self, caller: Caller) -> Member:
        return Member(caller.identity.node_id, "fra")


class Aborted(Exception):  # noqa: N818 (what gRPC calls it)
    """How a call was ended."""


class Context:
    """A call of one caller, as far as the handlers look."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self.sent: list[bytes] = []

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def write(self, message: bytes) -> None:
        self.sent.append(message)

    async def abort(self, status: grpc.StatusCode, message: str, _trailing: object) -> None:
        raise Aborted(status.name, message)


class Details:
    def __init__(self, path: str) -> None:
        self.method = path
        self.invocation_metadata = ()


def _handlers(*methods: Method) -> PeerHandlers:
    made = PeerHandlers(
        methods,
        cluster_id=bytes(16),
        members=cast("Members", Anybody()),
        clock=ManualClock(),
    )
    # Certificates are told apart by their bytes here; parsing them is another test's matter.
    callers = made._callers._seen
    for name in (b"a", b"b"):
        callers[name] = Caller(Identity(bytes(16), name.decode(), CertRole.NODE), 2**60)
    return made


def _call(handlers: PeerHandlers, path: str) -> Any:
    handler = handlers.service(cast("grpc.HandlerCallDetails", Details(path)))
    assert handler is not None
    return handler.unary_unary or handler.stream_stream


async def _nothing(*_: Any) -> Any:
    raise AssertionError("never called")


@pytest.mark.parametrize(
    "method",
    [
        PeerMethod("/petsem.v1.Peer/Join", pb.JoinRequest, _nothing),
        JoinMethod("/petsem.v1.Peer/Renew", pb.RenewRequest, _nothing),
        PeerMethod("/petsem.v1.Secrets/Fetch", pb.FetchRequest, _nothing),
        PeerStream("/petsem.v1.Nothing/Nothing", pb.FromReplica, _nothing),
    ],
)
def test_a_method_without_a_rule(method: Method) -> None:
    """Or with another than its own: the port does not open."""
    with pytest.raises(PetsemError) as refused:
        _handlers(method)
    assert refused.value.code is Code.INTERNAL
    assert method.path in refused.value.message


async def test_calls_of_one_node_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node's calls fill its own share; another's are answered; room comes back."""
    monkeypatch.setattr(limits, "PEER_CALLS_OF_NODE_MAX", 2)
    monkeypatch.setattr(limits, "PEER_CALLS_MAX", 3)
    release = asyncio.Event()

    async def forward(member: Member, _: pb.ForwardRequest) -> pb.ForwardResponse:
        await release.wait()
        return pb.ForwardResponse(body=member.node_id.encode())

    call = _call(_handlers(PeerMethod(FORWARD, pb.ForwardRequest, forward)), FORWARD)
    waiting = [asyncio.create_task(call(b"", Context(b"a"))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Aborted, match="of one other"):
        await call(b"", Context(b"a"))
    waiting.append(asyncio.create_task(call(b"", Context(b"b"))))
    await asyncio.sleep(0)
    with pytest.raises(Aborted, match="as many calls in progress as it takes"):
        await call(b"", Context(b"b"))
    release.set()
    replies = [pb.ForwardResponse.FromString(await each).body for each in waiting]
    assert replies == [b"a", b"a", b"b"]
    assert pb.ForwardResponse.FromString(await call(b"", Context(b"a"))).body == b"a"


async def test_what_nobody_expected(caplog: pytest.LogCaptureFixture) -> None:
    """Is logged, and answered without a word of it."""

    async def forward(_: Member, __: pb.ForwardRequest) -> pb.ForwardResponse:
        raise RuntimeError("hunter2")

    call = _call(_handlers(PeerMethod(FORWARD, pb.ForwardRequest, forward)), FORWARD)
    with pytest.raises(Aborted) as ended:
        await call(b"", Context(b"a"))
    assert ended.value.args == ("INTERNAL", "internal error; see the node's log")


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ExceptionGroup("", [RuntimeError("x"), conflict("that one")]), "ABORTED"),
        (ExceptionGroup("", [ExceptionGroup("", [conflict("that one")])]), "ABORTED"),
        (ExceptionGroup("", [RuntimeError("x")]), "INTERNAL"),
        (conflict("that one"), "ABORTED"),
    ],
)
async def test_errors_out_of_a_task_group(raised: Exception, status: str) -> None:
    """What one of a stream's tasks has to say is what is answered."""

    async def stream(_: Member, __: AsyncIterator[pb.FromReplica], ___: Send) -> None:
        raise raised

    call = _call(_handlers(PeerStream(STREAM, pb.FromReplica, stream)), STREAM)
    with pytest.raises(Aborted) as ended:
        await call(_nobody(), Context(b"a"))
    assert ended.value.args[0] == status


async def test_the_other_side_hangs_up() -> None:
    """It is not taken for a fault, even where a task group hides it."""

    async def stream(_: Member, __: AsyncIterator[pb.FromReplica], ___: Send) -> None:
        raise ExceptionGroup("", [grpc.aio.AbortError(), RuntimeError("x")])

    call = _call(_handlers(PeerStream(STREAM, pb.FromReplica, stream)), STREAM)
    with pytest.raises(grpc.aio.AbortError):
        await call(_nobody(), Context(b"a"))


async def _nobody() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_a_join_message_is_small() -> None:
    """Whoever is only invited sends little."""
    handlers = _handlers(JoinMethod(JOIN, pb.JoinRequest, _nothing))
    call = _call(handlers, JOIN)
    with pytest.raises(Aborted, match="larger than this method takes"):
        await call(bytes(limits.JOIN_MESSAGE_MAX_BYTES + 1), Context(b"a"))


async def test_a_refusal_is_logged_once_a_minute() -> None:
    """Who was removed goes on trying, and does not fill the log; another refusal is news."""
    clock = ManualClock()
    handlers = PeerHandlers(
        [PeerMethod(FORWARD, pb.ForwardRequest, _nothing)],
        cluster_id=bytes(16),
        members=cast("Members", Nobody()),
        clock=clock,
    )
    for name in (b"a", b"b"):
        identity = Identity(bytes(16), name.decode(), CertRole.NODE)
        handlers._callers._seen[name] = Caller(identity, 2**60)
    call = _call(handlers, FORWARD)

    async def logged(name: bytes) -> int:
        with structlog.testing.capture_logs() as records, pytest.raises(Aborted):
            await call(b"", Context(name))
        return len([each for each in records if each["event"] == "peer_refused"])

    assert [await logged(each) for each in (b"a", b"a", b"b", b"a")] == [1, 0, 1, 0]
    clock.advance(60)
    assert await logged(b"a") == 1


class Nobody:
    """Takes no caller for a member."""

    def require(self, caller: Caller) -> Member:
        raise PetsemError(Code.DENIED, f"{caller.identity.node_id} is no node")
