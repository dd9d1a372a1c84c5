"""What a token stands for: its signatures, the row that says it was issued, and revocations.

Guarantees: a token is verified by the database as it is, never by this process's memory alone,
where a commit may have taken authority away since. What was verified is kept for a request with the
very same token, so that only what may have changed is asked again. It does not evaluate caveats;
`petsem.server.auth` does.
"""

from __future__ import annotations

from typing import Final

import apsw
import msgspec

from petsem.clock import Clock
from petsem.errors import Code, PetsemError
from petsem.model import Position, Role
from petsem.server import sql
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.database import read_position
from petsem.server.keys import Keys
from petsem.server.principal import Request, Verified
from petsem.server.root_keys import RootKeys
from petsem.server.seen_notes import NOTE_EVERY_MS, SeenNotes
from petsem.server.seen_tokens import Seen, SeenTokens
from petsem.server.stale import may_be_there, stale_position
from petsem.server.store import tokens as rows
from petsem.tokens.caveats import expiry_of
from petsem.tokens.grammar import parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import UnverifiedToken, parse_token
from petsem.tokens.verifier import walk_signatures

_NEVER_MS: Final = 2**63


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


class Verifying:
    """Verifies tokens against this node's database; `notes` collects which are in use."""

    def __init__(
        self,
        keys: Keys,
        clock: Clock,
        cluster_id: bytes,
        changes: Changes,
        view: ClusterView | None = None,
    ) -> None:
        self._view = view
        self._changes = changes
        self._clock = clock
        self._cluster_id = cluster_id
        self._root_keys = RootKeys(keys)
        self._seen = SeenTokens()
        self.notes = SeenNotes()

    def now_ms(self) -> int:
        """The time that tokens are held against."""
        return self._clock.unix_ms()

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
        if seen is None or (known := seen.verified) is None:
            return None
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
            return self.judge(db, presented, row, as_of, org)
        at = sql.rows(db, "SELECT epoch, txid FROM position")[0] if at is None else at
        known = seen.verified
        if known is not None and seen.at == at:
            # The database is as it was when this very token was verified: only time has passed.
            now_ms = self._clock.unix_ms()
            if now_ms >= known.expires_at_ms:
                raise TokenRefused(Reason.EXPIRED)
            if now_ms - seen.noted_ms >= NOTE_EVERY_MS:
                self._note(seen, now_ms)
            return known
        row = rows.look_up(db, identifier.root_key_id, identifier.nonce)
        verified = self.judge(db, presented, row, as_of, org)
        # The position was read first. If a commit came between, it is the older one that is noted,
        # and the next request looks again.
        seen.at, seen.verified = at, verified
        return verified

    def judge(
        self,
        db: apsw.Connection,
        presented: Presented,
        row: rows.IssuedRow | None,
        as_of: int | None = None,
        org: str | None = None,
    ) -> Verified:
        """Hold a presented token against what the database knows of it, or `TokenRefused`.

        `as_of` is what `Changes.authority` was before `row` was read; None if the loop has not
        turned since. `org` is as for `verify`.
        """
        if as_of is None:
            as_of = self._changes.authority
        text, identifier, seen = presented.text, presented.identifier, presented.seen
        if row is None or row.org_deleted is not None:
            self._refuse_if_behind(db, identifier)
            raise TokenRefused(Reason.UNKNOWN_KEY)
        if seen is not None and seen.org_uid == row.org_uid:
            caveats, tickets, discharges = seen.caveats, seen.tickets, seen.discharges
        else:
            try:
                root_key = self._root_keys.derived(db, identifier.root_key_id, row)
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

    def _present(self, text: str) -> Presented:
        seen = self._seen.find(text)
        if seen is not None:
            return Presented(text, seen.identifier, seen, None)
        unverified = parse_token(text)
        identifier = Identifier.parse(unverified.root.identifier)
        if identifier.cluster_id != self._cluster_id:
            raise TokenRefused(Reason.WRONG_CLUSTER)
        return Presented(text, identifier, None, unverified)

    def _note(self, seen: Seen, now_ms: int) -> None:
        seen.noted_ms = now_ms
        self.notes.note(seen.identifier.nonce, now_ms)

    def _refuse_if_behind(self, db: apsw.Connection, identifier: Identifier) -> None:
        """On a replica a token is not unknown before the transaction that minted it is here. It
        says itself which that is, unverified, so only what can be is believed."""
        if self._view is None or self._view.role is Role.LEADER:
            return
        have, need = read_position(db), Position(identifier.epoch, identifier.txid)
        ahead = (need.epoch, need.txid) > (have.epoch, have.txid)
        if ahead and may_be_there(self._view, have, need):
            raise stale_position(have, need)


def _ends_ms(caveats: tuple[bytes, ...]) -> int:
    bound_s = expiry_of(filter(None, map(parse_predicate, caveats)))
    return _NEVER_MS if bound_s is None else bound_s * 1000


def _token_of(request: Request) -> str:
    if not request.token:
        raise PetsemError(
            Code.UNAUTHENTICATED, "this needs a token; send it as 'Authorization: Bearer …'"
        )
    return request.token
