"""A node as a client sees it, without a network: it verifies tokens and answers, or misbehaves.

Tests tell attack and fault stories with it: set a node's clock, make it lag, damage it, have it
lie. The signatures and caveats are checked by the real modules, so a narrowed token that this
accepts is one that a real node would.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc

from petsem.clock import Clock, ManualClock
from petsem.errors import PetsemError
from petsem.model import Kind
from petsem.tokens.caveats import Access, clear
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import LOCATION, Macaroon, attenuate, derive_key
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import encode_part, parse_token
from petsem.tokens.verifier import verify_signatures
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import STATUS_KEY, encode_status
from petsem_client.bundle import Bundle
from petsem_client.failures import Failure, failure_of
from petsem_client.fetching import FetchSession
from petsem_client.requests import checked_fetch
from petsem_client.session import Send, Step
from petsem_client.shared import Shared
from petsem_client.tour import Pause

CLUSTER, OTHER_CLUSTER = b"c" * 16, b"o" * 16
ROOT_SECRET = b"r" * 32
ETAG = b"e" * 16

A, B, C = "127.0.0.1:7401", "[::1]:7401", "127.0.0.3:7401"


def token(*caveats: str, cluster: bytes = CLUSTER) -> str:
    """A token that every `FarEnd` here accepts, unless it is of another cluster."""
    identifier = Identifier(cluster, Kind.HOST, b"k" * 16, b"n" * 16, 1, 1).encode()
    signature = hmac.digest(derive_key(ROOT_SECRET), identifier, "sha256")
    return encode_part(attenuate(Macaroon(LOCATION, identifier, (), signature), caveats))


class Refused(Exception):  # noqa: N818 - an answer
    """What the node answers instead of a reply, as gRPC carries it."""

    def __init__(self, status: grpc.StatusCode, message: str, detail: pb.ErrorDetail) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = detail

    @property
    def trailing(self) -> tuple[tuple[str, bytes], ...]:
        status: int = self.status.value[0]
        return ((STATUS_KEY, encode_status(status, self.message, self.detail)),)

    def failure(self) -> Failure:
        return failure_of(self.status, self.message, self.trailing)


Fault = Callable[["FarEnd"], bytes | None]
"""Runs before a fetch is answered: may raise `Refused`, or return the body to send."""


@dataclass
class FarEnd:
    """One app, `acme/web`, at one version, on a node whose clock is off by `skew_s`."""

    clock: Clock
    name: str = "n1"
    skew_s: float = 0.0
    version: int = 3
    txid: int = 30
    values: dict[str, bytes] = field(default_factory=lambda: {"DATABASE_URL": b"postgres://"})
    faults: list[Fault] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def now_ms(self) -> int:
        return self.clock.unix_ms() + round(self.skew_s * 1000)

    def freshness(self) -> pb.Freshness:
        return pb.Freshness(
            node=self.name,
            region="ams",
            role=pb.REPLICA,
            position=pb.Position(epoch=1, txid=self.txid),
            server_time_ms=self.now_ms(),
            source=pb.DISK,
        )

    def refused(
        self, status: grpc.StatusCode, code: str, reason: str = "", message: str = "refused"
    ) -> Refused:
        detail = pb.ErrorDetail(code=code, reason=reason, server_time_ms=self.now_ms())
        return Refused(status, message, detail)

    def admits(
        self, text: str, facts: Mapping[str, str], at_s: float | None = None
    ) -> Reason | None:
        """What a node says to this token for this access: None if it allows it."""
        now_s = int(self.now_ms() / 1000 if at_s is None else at_s)
        try:
            unverified = parse_token(text)
            if Identifier.parse(unverified.root.identifier).cluster_id != CLUSTER:
                raise TokenRefused(Reason.WRONG_CLUSTER)
            caveats = verify_signatures(unverified, derive_key(ROOT_SECRET))
            clear(caveats, Access(facts, now_s, None, filterable=True))
        except TokenRefused as refused:
            return refused.reason
        return None

    def authorize(self, text: str, org: str, app: str, machine: str) -> None:
        self.heard.append(text)
        facts = {"org": org, "app": app, "action": "secrets:read"}
        reason = self.admits(text, {**facts, "machine": machine} if machine else facts)
        if reason is None:
            return
        if reason in (Reason.CAVEAT, Reason.REVOKED, Reason.WRONG_ORG):
            raise self.refused(grpc.StatusCode.PERMISSION_DENIED, "denied", reason)
        raise self.refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated", reason)

    def fetch(self, body: bytes, text: str) -> bytes:
        """The serialised reply; raises Refused."""
        request = pb.FetchRequest.FromString(body)
        if self.faults:
            lie = self.faults.pop(0)(self)
            if lie is not None:
                return lie
        self.authorize(text, request.org, request.app, request.machine)
        if (request.org, request.app) != ("acme", "web"):
            raise self.refused(grpc.StatusCode.NOT_FOUND, "not_found")
        if self.version < request.min_version:
            refused = self.refused(grpc.StatusCode.FAILED_PRECONDITION, "stale")
            refused.detail.have_version = self.version
            refused.detail.need_version = request.min_version
            raise refused
        return self.reply(request).SerializeToString()

    def reply(self, request: pb.FetchRequest | None = None) -> pb.FetchResponse:
        reply = pb.FetchResponse(version=self.version, etag=ETAG, freshness=self.freshness())
        if request is not None and request.known_etag == ETAG:
            reply.not_modified = True
            return reply
        for name, value in sorted(self.values.items()):
            if request is None or not request.names or name in request.names:
                reply.secrets.add(name=name, value=value, version=self.version)
        return reply


def says(status: grpc.StatusCode, code: str, reason: str = "", message: str = "refused") -> Fault:
    """The node answers one fetch with this error."""

    def fault(node: FarEnd) -> bytes | None:
        raise node.refused(status, code, reason, message)

    return fault


def drops(node: FarEnd) -> bytes | None:
    """The connection breaks: a status with no word from the node."""
    raise Refused(grpc.StatusCode.UNAVAILABLE, "connection reset", pb.ErrorDetail())


class World:
    """A client's sessions driven against nodes in one thread, on a clock that jumps."""

    def __init__(self, nodes: dict[str, FarEnd | None], clock: ManualClock, text: str) -> None:
        self.nodes = nodes
        self.clock = clock
        self.asked: list[str] = []
        self.paused_s: list[float] = []
        self.sent: list[Send] = []
        self.shared = Shared.of(
            list(nodes), token=text, clock=clock, timeout_s=10.0, attempt_timeout_s=1.5
        )

    def fetch(
        self,
        app: str = "acme/web",
        *,
        machine: str | None = None,
        min_version: int = 0,
        known: Bundle | None = None,
        names: tuple[str, ...] = (),
        timeout_s: float | None = None,
    ) -> Bundle:
        wanted = checked_fetch(
            app,
            machine=machine,
            version=0,
            min_version=min_version,
            min_position=None,
            names=names,
            known=known,
            durable=False,
        )
        session = FetchSession(self.shared, wanted, timeout_s)
        step: Bundle | Step = session.start()
        while not isinstance(step, Bundle):
            if isinstance(step, Pause):
                self.paused_s.append(step.seconds)
                self.clock.advance(step.seconds)
                step = session.resumed()
                continue
            came = self.send(step)
            step = session.failed(came) if isinstance(came, Failure) else session.answered(came)
        return step

    def send(self, step: Send) -> bytes | Failure:
        """What comes back; a node that is None swallows everything until the attempt ends."""
        self.asked.append(str(step.endpoint))
        self.sent.append(step)
        node = self.nodes[str(step.endpoint)]
        if node is None:
            self.clock.advance(step.timeout_s)
            return failure_of(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
        try:
            return node.fetch(step.body, step.token.reveal().decode("ascii"))
        except Refused as refused:
            if not refused.detail.code:
                return failure_of(refused.status, refused.message, ())
            return refused.failure()

    def error(self, **arguments: object) -> PetsemError:
        """The error that a fetch ends with."""
        try:
            self.fetch(**arguments)  # type: ignore[arg-type]
        except PetsemError as error:
            return error
        raise AssertionError("the fetch was answered")
