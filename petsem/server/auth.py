"""Who is asking, and may they: one way through for every route and RPC.

*Verify* (signatures, issued row, revocation) and *clear* (caveats against what is asked) are kept
apart. Authority comes from the root key's row: an org's key can only act in its org, the cluster
key in all, and caveats only take away.

Guarantees: names in the request decide, before anyone looks whether they exist, so that a stranger
cannot tell absent from forbidden. Revocations are looked up in the database at each verification,
never only in this process's memory. It does not know routes; they bring their `Rule` and names.

The values here are structs and not dataclasses, because each request makes several of them, and a
frozen dataclass takes eight times as long to make.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import apsw
import msgspec

from petsem.clock import Clock
from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position, Role
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.database import read_position
from petsem.server.host_key import HostKey
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.policy import Rule
from petsem.server.seen_notes import NOTE_EVERY_MS, SeenNotes
from petsem.server.seen_tokens import Seen, SeenTokens
from petsem.server.stale import stale_position
from petsem.server.store import tokens as rows
from petsem.tokens import authority
from petsem.tokens.caveats import Access, SecretFilter, clear, expiry_of
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import derive_key
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import UnverifiedToken, parse_token
from petsem.tokens.verifier import walk_signatures

_ROOT_KEYS_MAX: Final = 16_384
_NEVER_MS: Final = 2**63


class Verified(msgspec.Struct, frozen=True):
    """A token whose signatures hold, which was issued here and is not revoked or expired.

    `org` and `org_name` are of the root key and None for the cluster's. `caveats` are verified
    but not cleared.
    """

    nonce: bytes
    root_key: bytes
    kind: Kind
    subject: str
    org: int | None
    org_name: str | None
    expires_at_ms: int
    depth: int
    caveats: tuple[bytes, ...]
    as_of: int = -1
    """What `Changes.authority` was before the database was asked."""
    discharges: tuple[bytes, ...] = ()
    """The signatures of its discharges before they were bound, in the order they were sent."""
    ticketed: bool = False
    """Whether it was minted with a third-party caveat, which then has been discharged."""
    ends_at_ms: int = 0
    """When it stops working: at `expires_at_ms`, or earlier if a holder has said so."""

    @property
    def token_id(self) -> str:
        """The id that people and the API use: the nonce as 32 hexadecimal digits."""
        return self.nonce.hex()


class Request(msgspec.Struct, frozen=True):
    """What a door knows of a request before its body: the token and where it comes from.

    `region` is that of the node that the client asked, if it was another one, which passed the
    request on; `hops` counts the nodes that did. `host_key` is None where there is no TLS.
    """

    token: str | None
    ip: str | None
    region: str | None = None
    hops: int = 0
    host_key: HostKey | None = None

    def __repr__(self) -> str:
        return f"Request(token=…, ip={self.ip!r})"


class Presented(msgspec.Struct, frozen=True):
    """A token as it came, not verified: what to look up in the database to verify it by.

    `seen` is what is known of it from before, and then `unverified` is None.
    """

    text: str
    identifier: Identifier
    seen: Seen | None
    unverified: UnverifiedToken | None

    def __repr__(self) -> str:
        return f"Presented({self.identifier!r}, …)"


class Names(msgspec.Struct, frozen=True):
    """The names in a request that decide it. Those that a route does not have stay None.

    `secrets` are all names that a write touches; `filterable` says that the answer may leave
    names out, so that a `secret` caveat filters it.
    """

    org: str | None = None
    app: str | None = None
    machine: str | None = None
    secrets: tuple[str, ...] | None = None
    filterable: bool = False


class Principal(msgspec.Struct, frozen=True):
    """A verified token that has cleared one request, with the names it may see of it.

    `ip`, `region` and `host_key` are where the request came from, for holding the same request
    against another action.
    """

    token: Verified
    filter: SecretFilter | None
    ip: str | None = None
    region: str | None = None
    host_key: HostKey | None = None


Granted = Callable[[str], str | None]
"""What the attribute `boot` is where a caveat wants it to be that: the same, or None."""


class _Late(msgspec.Struct, frozen=True):
    """The attributes that are learnt only for tokens with a caveat on them."""

    host_key: HostKey | None
    boot: Granted | None

    def __call__(self, key: str, values: tuple[str, ...]) -> str | None:
        if key == "host_key" and self.host_key is not None:
            return self.host_key()
        if key == "boot" and self.boot is not None and len(values) == 1:
            return self.boot(values[0])
        return None


NO_NAMES: Final = Names()


class Authenticator:
    """Verifies tokens against this node's database and clears them against requests."""

    def __init__(
        self,
        keys: Keys,
        clock: Clock,
        cluster_id: bytes,
        region: str,
        changes: Changes,
        view: ClusterView | None = None,
    ) -> None:
        self._view = view
        self._keys = keys
        self._changes = changes
        self._clock = clock
        self._cluster_id = cluster_id
        self._region = region
        # With whose the key is: that binds it to its row for as long as it is kept here, too.
        self._derived: OrderedDict[bytes, tuple[bytes | None, bytes]] = OrderedDict()
        self._seen = SeenTokens()
        self.notes = SeenNotes()

    def now_ms(self) -> int:
        """The time that tokens are held against."""
        return self._clock.unix_ms()

    def authorize(
        self, db: apsw.Connection, request: Request, rule: Rule, names: Names = NO_NAMES
    ) -> Principal:
        """The principal, or `unauthenticated` / `denied` with the token's reason."""
        token = self.identify(db, request)
        try:
            return self._principal(token, request, rule, names)
        except TokenRefused as refused:
            raise refused.as_error() from None

    def authorize_row(
        self,
        db: apsw.Connection,
        presented: Presented,
        row: rows.IssuedRow | None,
        request: Request,
        rule: Rule,
        names: Names,
    ) -> Principal:
        """As `authorize`, for a caller who has read the token's row together with others."""
        try:
            token = self._judge(db, presented, row, self._changes.authority, None)
            return self._principal(token, request, rule, names)
        except TokenRefused as refused:
            raise refused.as_error() from None

    def _principal(self, token: Verified, request: Request, rule: Rule, names: Names) -> Principal:
        ip, region, host_key = request.ip, request.region, request.host_key
        allowed = self.clear(token, rule, names, ip, region, host_key)
        return Principal(token, allowed, ip, region, host_key)

    def identify(self, db: apsw.Connection, request: Request) -> Verified:
        """The token of a request that any valid token may make: verified, not cleared."""
        try:
            return self.verify(db, _token_of(request))
        except TokenRefused as refused:
            raise refused.as_error() from None

    def recall(self, request: Request) -> Verified | None:
        """The token of a request, if it was verified before and only time has passed for it since:
        nothing was committed that takes authority away. On the leader only, where whoever takes
        authority away goes through this process."""
        if self._view is None or self._view.role is not Role.LEADER:
            return None
        seen = self._seen.find(_token_of(request))
        if seen is None or seen.verified is None:
            return None
        known: Verified = seen.verified
        now_ms = self._clock.unix_ms()
        if known.as_of != self._changes.authority or now_ms >= known.expires_at_ms:
            return None
        if now_ms - seen.noted_ms >= NOTE_EVERY_MS:
            self._note(seen, now_ms)
        return known

    def seen_before(self, request: Request) -> Presented | None:
        """The token of a request, if its signatures were found good before."""
        text = _token_of(request)
        seen = self._seen.find(text)
        return None if seen is None else Presented(text, seen.identifier, seen, None)

    def verify(
        self,
        db: apsw.Connection,
        text: str,
        *,
        org: str | None = None,
        at: tuple[int, int] | None = None,
    ) -> Verified:
        """What the token stands for, or `TokenRefused`. Its caveats are not evaluated here.

        `org` is the one that is asked about, if it is known: then a token of another org is refused
        also where that org's root key is damaged or its KEK not here, so that nobody's trouble with
        his own keys fails an answer about somebody else. `at` is the (epoch, TXID) of the
        caller's snapshot, if he has read that.
        """
        as_of = self._changes.authority
        presented = self._present(text)
        identifier, seen = presented.identifier, presented.seen
        if seen is None:
            row = rows.look_up(db, identifier.root_key_id, identifier.nonce)
            return self._judge(db, presented, row, as_of, org)
        at = sql.rows(db, "SELECT epoch, txid FROM position")[0] if at is None else at
        if seen.at == at:
            # The database is as it was when this very token was verified: only time has passed.
            known: Verified = seen.verified
            now_ms = self._clock.unix_ms()
            if now_ms >= known.expires_at_ms:
                raise TokenRefused(Reason.EXPIRED)
            if now_ms - seen.noted_ms >= NOTE_EVERY_MS:
                self._note(seen, now_ms)
            return known
        row = rows.look_up(db, identifier.root_key_id, identifier.nonce)
        verified = self._judge(db, presented, row, as_of, org)
        # The position was read first. If a commit came between, it is the older one that is noted,
        # and the next request looks again.
        seen.at, seen.verified = at, verified
        return verified

    def _present(self, text: str) -> Presented:
        seen = self._seen.find(text)
        if seen is not None:
            return Presented(text, seen.identifier, seen, None)
        unverified = parse_token(text)
        identifier = Identifier.parse(unverified.root.identifier)
        if identifier.cluster_id != self._cluster_id:
            raise TokenRefused(Reason.WRONG_CLUSTER)
        return Presented(text, identifier, None, unverified)

    def _judge(
        self,
        db: apsw.Connection,
        presented: Presented,
        row: rows.IssuedRow | None,
        as_of: int,
        org: str | None,
    ) -> Verified:
        """Hold a presented token against what the database knows of it."""
        text, identifier, seen = presented.text, presented.identifier, presented.seen
        if row is None or row.org_deleted is not None:
            self._refuse_if_behind(db, identifier)
            raise TokenRefused(Reason.UNKNOWN_KEY)
        if seen is not None and seen.org_uid == row.org_uid:
            caveats, tickets, discharges = seen.caveats, seen.tickets, seen.discharges
        else:
            try:
                root_key = self._root_key(db, identifier.root_key_id, row)
            except PetsemError:
                if org is not None and row.org_name not in (None, org):
                    raise TokenRefused(Reason.WRONG_ORG) from None
                raise
            signed = walk_signatures(presented.unverified or parse_token(text), root_key)
            caveats, tickets, discharges = signed
            seen = Seen(identifier, row.org_uid, *signed, _ends_ms(signed.caveats))
            self._seen.add(text, seen)
        if (
            row.kind is None or row.subject is None or row.caveats is None
            or row.expires_at is None or row.depth is None
        ):  # fmt: skip
            self._refuse_if_behind(db, identifier)
            raise TokenRefused(Reason.NOT_ISSUED)
        # The row says what was issued. Whoever stole a root key and learnt the id of a token can
        # sign that id with fewer caveats; that token was never issued.
        minted = rows.minted_with(row.caveats)
        if row.kind != identifier.kind or caveats[: len(minted)] != minted:
            raise TokenRefused(Reason.NOT_ISSUED)
        if row.ticket is not None and row.ticket not in tickets:
            raise TokenRefused(Reason.NOT_ISSUED)
        if rows.is_revoked(db, row):
            raise TokenRefused(Reason.REVOKED)
        now_ms = self._clock.unix_ms()
        if now_ms >= row.expires_at:
            raise TokenRefused(Reason.EXPIRED)
        if now_ms - seen.noted_ms >= NOTE_EVERY_MS:
            self._note(seen, now_ms)
        return Verified(
            identifier.nonce, identifier.root_key_id, identifier.kind, row.subject, row.org,
            row.org_name, row.expires_at, row.depth, caveats, as_of, discharges,
            row.ticket is not None, min(row.expires_at, seen.ends_ms),
        )  # fmt: skip

    def _note(self, seen: Seen, now_ms: int) -> None:
        seen.noted_ms = now_ms
        self.notes.note(seen.identifier.nonce, now_ms)

    def _refuse_if_behind(self, db: apsw.Connection, identifier: Identifier) -> None:
        """On a replica a token is not unknown before the transaction that minted it is here."""
        if self._view is None or self._view.role is Role.LEADER:
            return
        have, need = read_position(db), Position(identifier.epoch, identifier.txid)
        if (need.epoch, need.txid) > (have.epoch, have.txid):
            raise stale_position(have, need)

    def clear(
        self,
        token: Verified,
        rule: Rule,
        names: Names,
        ip: str | None,
        region: str | None = None,
        host_key: HostKey | None = None,
        boot: Granted | None = None,
    ) -> SecretFilter | None:
        """Hold a request of this node's own against the token's authority and caveats."""
        if rule.cluster_only and token.org is not None:
            raise TokenRefused(
                Reason.WRONG_ORG, "this needs a token of the cluster key, not of an org's"
            )
        if token.org is not None and names.org != token.org_name:
            raise TokenRefused(Reason.WRONG_ORG)
        attributes = {"action": rule.action, "region": region or self._region}
        if names.org is not None:
            attributes["org"] = names.org
        if names.app is not None:
            attributes["app"] = names.app
        if names.machine:
            attributes["machine"] = names.machine
        if ip is not None:
            attributes["ip"] = ip
        if token.kind is Kind.PERSON:
            attributes["user"] = token.subject.removeprefix("person:")
        now_s = self._clock.unix_ms() // 1000
        late = None if host_key is None and boot is None else _Late(host_key, boot)
        access = Access(attributes, now_s, names.secrets, names.filterable, late)
        return clear(token.caveats, access)

    def clear_access(
        self, token: Verified, access: Mapping[str, str], *, now_s: int | None = None
    ) -> None:
        """Hold an access that an API server describes against the token.

        By the rule of `petsem.tokens.authority`, with this node's time; `now_s` replaces the clock
        in a dry run.
        """
        if now_s is None:
            now_s = self._clock.unix_ms() // 1000
        org = None if token.org is None else token.org_name or ""
        authority.clear_access(
            token.caveats, access, now_s, kind=token.kind, subject=token.subject, org=org
        )

    def still_holds(self, db: apsw.Connection, token: Verified) -> None:
        """The part of a verification that can change after it: asked again inside a write's own
        transaction. The database is asked only if a commit since then took authority away."""
        if self._clock.unix_ms() >= token.expires_at_ms:
            raise TokenRefused(Reason.EXPIRED).as_error()
        if token.as_of == self._changes.authority:
            return
        row = rows.look_up(db, token.root_key, token.nonce)
        if (
            row is None
            or row.kind is None
            or row.org_deleted is not None
            or rows.is_revoked(db, row)
        ):
            raise TokenRefused(Reason.REVOKED).as_error()

    def _root_key(self, db: apsw.Connection, key_id: bytes, row: rows.IssuedRow) -> bytes:
        known = self._derived.get(key_id)
        if known is not None and known[0] == row.org_uid:
            return known[1]
        return self._derive(db, key_id, row)

    def _derive(self, db: apsw.Connection, key_id: bytes, row: rows.IssuedRow) -> bytes:
        owner = CLUSTER if row.org is None else Owner(Purpose.TOKENS, row.org, row.org_uid or b"")
        place = owner.place(Record.ROOT_KEY, key_id)
        try:
            derived = derive_key(self._keys.open(db, owner, place, row.envelope))
        except DamagedEnvelope:
            raise PetsemError(
                Code.CORRUPT, f"the root key {key_id.hex()} is damaged; run 'petsem check' here"
            ) from None
        if len(self._derived) >= _ROOT_KEYS_MAX:
            self._derived.popitem(last=False)
        self._derived[key_id] = (row.org_uid, derived)
        return derived


def _ends_ms(caveats: tuple[bytes, ...]) -> int:
    bound_s = expiry_of(filter(None, map(parse_predicate, caveats)))
    return _NEVER_MS if bound_s is None else bound_s * 1000


def _token_of(request: Request) -> str:
    if not request.token:
        raise PetsemError(
            Code.UNAUTHENTICATED, "this needs a token; send it as 'Authorization: Bearer …'"
        )
    return request.token
