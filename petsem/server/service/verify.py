"""Answering API servers: may this token do this, and which tokens were revoked.

Guarantees: a refusal names its reason; an answer that cannot be given is an error, never a denial
or a permission. Whoever asks needs `tokens:verify` for every org that he asks about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence

import apsw
import msgspec

from petsem import limits
from petsem.errors import Code, PetsemError, invalid, limited, unavailable
from petsem.model import Position, check_org
from petsem.server.auth import Authenticator
from petsem.server.changes import REVOCATIONS, Changes
from petsem.server.database import ReadPool, read_position
from petsem.server.freshness import FreshnessSource
from petsem.server.policy import TOKENS_VERIFY
from petsem.server.principal import Names, Request
from petsem.server.service.staleness import check_verdict
from petsem.server.service.waiting import check_fence
from petsem.server.store import orgs
from petsem.server.store import tokens as rows
from petsem.server.store.tokens import RevocationRow
from petsem.tokens.authority import check_access
from petsem.tokens.reasons import MESSAGES, Reason, TokenRefused

HEARTBEAT_S = 10.0


# Structs, as in `petsem.server.principal`: a batch has 512 of each.


class VerifyItem(msgspec.Struct, frozen=True):
    """One question: a token, what it is to be used for, and how stale the answer may be."""

    token: str
    access: Mapping[str, str]
    max_staleness_s: int | None = None

    def __repr__(self) -> str:
        return f"VerifyItem(token=…, access={self.access!r})"


class Verdict(msgspec.Struct, frozen=True):
    """The answer. Of a refused token nothing is told but why.

    `discharges`: the signatures of the token's discharges before they were bound, in the order they
    were sent, so that a verifier which keeps the answer can tell narrower copies himself. `doubt`:
    why this is no answer but in a batch, where one question must not spoil those beside it: the
    token may be newer than what this node has.
    """

    allowed: bool
    position: Position
    token_id: str = ""
    org: str = ""
    subject: str = ""
    expires_at_ms: int = 0
    reason: str = ""
    caveat: str = ""
    message: str = ""
    discharges: tuple[bytes, ...] = ()
    doubt: PetsemError | None = None

    def __repr__(self) -> str:
        why = self.reason or self.token_id
        return f"Verdict(allowed={self.allowed}, position={self.position}, {why})"


class Verification:
    """Verify, its dry run, and the feed of revocations."""

    def __init__(
        self,
        *,
        pool: ReadPool,
        auth: Authenticator,
        changes: Changes,
        freshness: FreshnessSource,
        streams_max: int = limits.GRPC_STREAMS_MAX,
    ) -> None:
        self._freshness = freshness
        self._pool = pool
        self._auth = auth
        self._changes = changes
        self._streams_left = streams_max

    def verify(self, request: Request, items: Sequence[VerifyItem]) -> list[Verdict]:
        """A verdict for each item, all read at one position; some may be in `doubt`."""
        if len(items) > limits.VERIFY_BATCH_MAX:
            raise invalid(f"a batch has at most {limits.VERIFY_BATCH_MAX} tokens")
        asked: dict[str | None, None] = {}
        for item in items:
            check_access(item.access, asked)
            asked[item.access["org"]] = None
        with self._pool.snapshot() as db:
            self.authorize(db, request, asked or (None,))
            position = read_position(db)
            for bound_s in {item.max_staleness_s for item in items}:
                check_verdict(self._freshness, bound_s, position)
            at = position.epoch, position.txid
            return [self._decide(db, item, position, at, None) for item in items]

    def verify_one(self, request: Request, item: VerifyItem) -> Verdict:
        """The verdict for one item; raises its `doubt`."""
        return _certain(self.verify(request, (item,))[0])

    def can(self, request: Request, item: VerifyItem, now_s: int | None = None) -> Verdict:
        """The dry run: as `verify`, at another time if one is given."""
        check_access(item.access)
        with self._pool.snapshot() as db:
            self.authorize(db, request, {item.access["org"]})
            position = read_position(db)
            check_verdict(self._freshness, item.max_staleness_s, position)
            at = position.epoch, position.txid
            return _certain(self._decide(db, item, position, at, now_s))

    def authorize(self, db: apsw.Connection, request: Request, names: Iterable[str | None]) -> None:
        """Whoever asks must be allowed to verify for every one of these orgs; None means all.
        A node that was removed says nothing of tokens."""
        removed = self._freshness.view.removed
        if removed is not None:
            raise unavailable(removed)
        token = self._auth.identify(db, request)
        try:
            for org in names:
                self._auth.clear(
                    token, TOKENS_VERIFY, Names(org), request.ip, request.region, request.host_key
                )
        except TokenRefused as refused:
            raise refused.as_error() from None

    def _decide(
        self,
        db: apsw.Connection,
        item: VerifyItem,
        position: Position,
        at: tuple[int, int],
        now_s: int | None,
    ) -> Verdict:
        try:
            token = self._auth.verify(db, item.token, org=item.access["org"], at=at)
            self._auth.clear_access(token, item.access, now_s=now_s)
        except TokenRefused as refused:
            return Verdict(
                allowed=False,
                position=position,
                reason=refused.reason.value,
                caveat=refused.caveat or "",
                message=refused.message,
            )
        except PetsemError as e:
            if e.code is not Code.STALE:
                raise
            reason = Reason.NOT_KNOWN_YET
            return Verdict(False, position, reason=reason, message=MESSAGES[reason], doubt=e)
        return Verdict(
            allowed=True,
            position=position,
            token_id=token.token_id,
            org=token.org_name or item.access["org"],
            subject=token.subject,
            expires_at_ms=token.ends_at_ms,
            discharges=token.discharges,
        )

    async def revocations(
        self, request: Request, org: str | None, after: Position | None, wait_s: float
    ) -> tuple[list[RevocationRow], Position]:
        """Revocations past `after` and the position to ask after next.

        If there are none, it waits up to `wait_s` until one may have come, and looks once more;
        whoever wakes the waiters, as a node that stops does, gets an answer at once.
        """
        with self._changes.subscribed(REVOCATIONS, stream=True) as event:
            found, position = self._page(request, org, after)
            if found or wait_s <= 0:
                return found, position
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await event.wait()
            return self._page(request, org, position)

    async def watch_revocations(
        self, request: Request, org: str | None, after: Position | None
    ) -> AsyncGenerator[tuple[RevocationRow | None, Position], None]:
        """Each revocation past `after` with the feed's position, and None as a sign of life."""
        if self._streams_left <= 0:
            raise limited("this node has as many streams open as it takes; ask another node")
        self._streams_left -= 1
        try:
            with self._changes.subscribed(REVOCATIONS, stream=True) as event:
                while True:
                    event.clear()
                    before = after
                    found, after = self._page(request, org, before)
                    for row, at in _resumable(found, before or after):
                        yield row, at
                    if not found:
                        yield None, after
                        await _wait(event)
        finally:
            self._streams_left += 1

    def _page(
        self, request: Request, org: str | None, after: Position | None
    ) -> tuple[list[RevocationRow], Position]:
        """One page past `after` (None: from now on) and where the next one begins."""
        if org is not None:
            check_org(org)
        with self._pool.snapshot() as db:
            self.authorize(db, request, [org])
            position = read_position(db)
            if after is None:
                return [], position
            check_fence(db, position, after, self._freshness.view.logged)
            org_row = None if org is None else orgs.find_org(db, org)
            if org is not None and org_row is None:
                return [], position
            org_id = None if org_row is None else org_row.id
            end: tuple[int, int] | None = (after.epoch, after.txid)
            found: list[RevocationRow] = []
            while end is not None and not found:
                found, end = rows.revocations_after(
                    db, org_id, org is None, end, limits.PAGE_MAX_ROWS
                )
        return found, position if end is None else Position(*end)


def _certain(verdict: Verdict) -> Verdict:
    if verdict.doubt is not None:
        raise verdict.doubt
    return verdict


def _resumable(
    found: list[RevocationRow], before: Position
) -> Iterator[tuple[RevocationRow, Position]]:
    """Each row with the position to go on from for whoever has seen it and those before it.

    One transaction can revoke many tokens, so only the last of them stands for its position.
    """
    # Not strict: where nothing was found there is one more in the second.
    for row, following in zip(found, [*found[1:], None], strict=False):
        at = Position(row.epoch, row.txid)
        if following is None or (following.epoch, following.txid) != (row.epoch, row.txid):
            before = at
        yield row, before


async def _wait(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(HEARTBEAT_S):
            await event.wait()
    except TimeoutError:
        return
