"""What a verifier talks to, without a network: a node that verifies by the real modules, keeps
positions and revocations, and sends its feed; and the tokens that it issued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from petsem.clock import ManualClock, rfc3339
from petsem.model import Freshness, Kind, Position, Role
from petsem.tokens.authority import clear_access
from petsem.tokens.caveats import expiry_of
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge, derive_key
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.ticket import discharge
from petsem.tokens.verifier import walk_signatures
from petsem.wire import petsem_pb2 as pb
from petsem_client.feed import News
from petsem_client.shared import Shared
from petsem_client.verdicts import Answer, Question, Verdict, parse_answers
from petsem_client.verifying import CACHE_MAX_BYTES, Verifying
from tests.unit.client.far_end import token as askers_token

CLUSTER, ROOT_SECRET, CAVEAT_KEY = b"c" * 16, b"r" * 32, b"x" * 32
READ = {"org": "acme", "action": "web:read", "app": "web"}
LIFE_S = 3_600
ALICE = "alice@example.com"


@dataclass
class Issued:
    """A token that the node issued, with its discharge, if it needs one."""

    root: Macaroon
    discharge: Macaroon | None
    org: str | None
    subject: str
    ends_ms: int

    @property
    def nonce(self) -> bytes:
        return Identifier.parse(self.root.identifier).nonce

    @property
    def text(self) -> str:
        return self.narrowed()

    def narrowed(self, *caveats: str, discharge: tuple[str, ...] = ()) -> str:
        """A copy with more caveats, on the root and on the discharge."""
        root = attenuate(self.root, caveats)
        if self.discharge is None:
            return encode_token(root)
        return encode_token(root, [bind_discharge(root, attenuate(self.discharge, discharge))])


@dataclass
class Node:
    """One node at one position."""

    clock: ManualClock
    epoch: int = 1
    txid: int = 10
    lag_ms: int | None = 0
    skew_ms: int = 0
    issued: dict[bytes, Issued] = field(default_factory=dict)
    revoked: dict[bytes, int] = field(default_factory=dict)
    asked: int = 0

    def issue(
        self,
        *caveats: str,
        kind: Kind = Kind.DEPLOY,
        org: str | None = "acme",
        person: str = "",
        life_s: int = LIFE_S,
    ) -> Issued:
        """A token; with `person`, one that needs that person's discharge."""
        nonce = len(self.issued).to_bytes(16, "little")
        identifier = Identifier(CLUSTER, kind, b"k" * 16, nonce, self.epoch, self.txid)
        ends_ms = self.clock.unix_ms() + life_s * 1000
        minted = [*([f"org = {org}"] if org else []), *caveats, f"time < {rfc3339(ends_ms)}"]
        third = []
        made = None
        if person:
            ticket = b"ticket of " + nonce
            third = [ThirdParty("petsem", CAVEAT_KEY, ticket)]
            made = discharge(ticket, CAVEAT_KEY, [f"user = {person}"])
        subject = f"person:{person}" if kind is Kind.PERSON else f"{kind.text}:{nonce.hex()}"
        root = mint(ROOT_SECRET, identifier, minted, third)
        self.issued[nonce] = found = Issued(root, made, org, subject, ends_ms)
        return found

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.txid)

    def freshness(self) -> Freshness:
        now_ms = self.clock.unix_ms() + self.skew_ms
        return Freshness("n1", "ams", Role.REPLICA, self.position, now_ms, lag_ms=self.lag_ms)

    def revoke(self, token: Issued) -> News:
        """Revoke it, and what the feed says of it."""
        self.txid += 1
        self.revoked[token.nonce] = self.txid
        return News(token.nonce, self.freshness(), self.position)

    def heartbeat(self) -> News:
        return News(None, self.freshness(), self.position)

    def verify(self, text: str, access: Mapping[str, str]) -> pb.VerifyResponse:
        """The verdict of a real node, with the real parser, walk and clearing."""
        self.asked += 1
        fresh = self.freshness()
        reply = pb.VerifyResponse(
            freshness=pb.Freshness(
                node="n1",
                region="ams",
                role=pb.REPLICA,
                position=pb.Position(epoch=self.epoch, txid=self.txid),
                server_time_ms=fresh.server_time_ms,
                source=pb.DISK,
            )
        )
        try:
            self._decide(text, access, fresh.server_time_ms, reply)
        except TokenRefused as refused:
            reply.reason, reply.message = refused.reason.value, refused.message
            reply.caveat = refused.caveat or ""
        return reply

    def _decide(
        self, text: str, access: Mapping[str, str], now_ms: int, reply: pb.VerifyResponse
    ) -> None:
        token = parse_token(text)
        identifier = Identifier.parse(token.root.identifier)
        signed = walk_signatures(token, derive_key(ROOT_SECRET))
        issued = self.issued.get(identifier.nonce)
        if issued is None:
            raise TokenRefused(Reason.NOT_ISSUED)
        if identifier.nonce in self.revoked:
            raise TokenRefused(Reason.REVOKED)
        if now_ms >= issued.ends_ms:
            raise TokenRefused(Reason.EXPIRED)
        clear_access(
            signed.caveats,
            access,
            now_ms // 1000,
            kind=identifier.kind,
            subject=issued.subject,
            org=issued.org,
        )
        bound_s = expiry_of(filter(None, map(parse_predicate, signed.caveats)))
        reply.allowed = True
        reply.token_id, reply.org = identifier.token_id, access["org"]
        reply.subject = issued.subject
        reply.expires_at_ms = min(issued.ends_ms, 2**62 if bound_s is None else bound_s * 1000)
        reply.discharge_signatures.extend(signed.discharges)


class Verifier:
    """A verifier's state, with the feed open and heard from once, and the node that it asks."""

    def __init__(
        self,
        *,
        org: str | None = None,
        cache_max_bytes: int = CACHE_MAX_BYTES,
        feed_timeout_s: float = 30.0,
        live: bool = True,
    ) -> None:
        self.clock = ManualClock()
        self.node = Node(self.clock)
        shared = Shared.of(
            ["127.0.0.1:7401"],
            token=askers_token(),
            clock=self.clock,
            timeout_s=10.0,
            attempt_timeout_s=1.5,
        )
        self.state = Verifying(
            shared, org=org, feed_timeout_s=feed_timeout_s, cache_max_bytes=cache_max_bytes
        )
        if live:
            self.state.opened()
            self.hear(self.node.heartbeat())

    def hear(self, news: News) -> None:
        """The feed says so."""
        self.state.take(news)

    def ask(self, text: str, access: Mapping[str, str] = READ, **more: int) -> Verdict:
        """A whole call of `verify`."""
        found = self.state.ask(text, access, more.get("max_staleness_s"))
        if isinstance(found, Verdict):
            return found
        return self.state.learned(found, self.answer(found))

    def question(self, text: str, access: Mapping[str, str] = READ) -> Question:
        """What has to be asked of a node."""
        found = self.state.ask(text, access, None)
        assert isinstance(found, Question)
        return found

    def answer(self, question: Question) -> Answer:
        """What the node says now."""
        reply = self.node.verify(question.text, question.access)
        parsed = parse_answers([question], reply.SerializeToString(), batch=False)
        return parsed.answers[0]

    def asked(self, text: str, access: Mapping[str, str] = READ) -> tuple[Verdict, bool]:
        """The verdict, and whether the node was asked for it."""
        before = self.node.asked
        verdict = self.ask(text, access)
        return verdict, self.node.asked > before


def person(verifier: Verifier) -> Issued:
    """Alice's token, which needs her discharge."""
    return verifier.node.issue(kind=Kind.PERSON, person=ALICE)


def why(verdict: Verdict) -> tuple[bool, str, str, str]:
    """All that a refusal says."""
    return verdict.allowed, verdict.reason, verdict.caveat, verdict.message
