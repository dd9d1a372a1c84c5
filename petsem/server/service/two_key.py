"""Whether a token may read an app's secrets now: every boot read, over whichever door, asks here.

While an org's setting `two_key` is on, a host's token reads nothing by itself. It carries a
third-party caveat, and its discharge a caveat `boot = GRANT.POSITION`, which holds only while the
grant's row does: of this very app and machine, not expired, and asked for by a token that stands.

Guarantees: the attribute `boot` exists only here, only for host tokens that were minted with that
caveat, and only once the row was read in the transaction of the read itself. Who asked is who the
discharge says: a holder can add a caveat on another grant, before it or behind it, and then nothing
is read. A replica that is not yet at POSITION says `stale`, so that its client asks elsewhere, and
never that there is no grant.
"""

from __future__ import annotations

import re
from typing import Final

import apsw
import msgspec
import structlog

from petsem.errors import unavailable
from petsem.model import Kind, Position, Role
from petsem.server import sql
from petsem.server.auth import Authenticator
from petsem.server.cluster_view import ClusterView
from petsem.server.database import read_position
from petsem.server.policy import SECRETS_READ
from petsem.server.principal import Names, Principal, Request, Verified
from petsem.server.stale import stale_position
from petsem.server.store import boot_grants, tokens
from petsem.server.store.boot_grants import GrantRow
from petsem.tokens.reasons import Reason, TokenRefused

log = structlog.get_logger(__name__)

TWO_KEY: Final = "two_key"
_BOOT = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{8})-([0-9a-f]{16})", re.ASCII)


class Read(msgspec.Struct, frozen=True):
    """Who may read, and on whose asking if that was needed."""

    principal: Principal
    grant: GrantRow | None = None


def is_on(db: apsw.Connection, org: int) -> bool:
    """Whether the org's hosts need two keys."""
    row = (org, TWO_KEY)
    return sql.one(db, "SELECT 1 FROM org_settings WHERE org = ? AND key = ?", row) is not None


def boot_caveat(grant: bytes, at: Position) -> str:
    """The caveat that holds while the grant, which is known from `at` on, does."""
    return f"boot = {grant.hex()}.{at.epoch:08x}-{at.txid:016x}"


class BootReads:
    """Clears tokens for reading values. Callers hand over the transaction that they read in."""

    def __init__(self, auth: Authenticator, view: ClusterView) -> None:
        self._auth = auth
        self._view = view

    def authorize(self, db: apsw.Connection, request: Request, names: Names) -> Read:
        """Who asks, if the token allows to read what `names` says; `unavailable` from a node that
        was removed, also to those who began to watch before."""
        if self._view.removed is not None:
            raise unavailable(self._view.removed)
        return self.clear(db, self._auth.identify(db, request), request, names)

    def clear(self, db: apsw.Connection, token: Verified, request: Request, names: Names) -> Read:
        """The same for a token that was verified already."""
        grants: dict[str, GrantRow] = {}

        def boot(value: str) -> str | None:
            if not grants and (grant := self._find(db, token, names, value)) is not None:
                grants[value] = grant
            # Each discharge has one such caveat. Any other is a holder's, and which is which cannot
            # be told: so all have to say the same.
            return value if value in grants else None

        of_host = token.kind is Kind.HOST
        ip, region, host_key = request.ip, request.region, request.host_key
        try:
            allowed = self._auth.clear(
                *(token, SECRETS_READ, names, ip, region, host_key),
                boot if of_host and token.ticketed else None,
            )
            if of_host and not grants:
                self._require_none(db, token)
        except TokenRefused as refused:
            raise _explained(refused).as_error() from None
        grant = next(iter(grants.values()), None)
        return Read(Principal(token, allowed, ip, region, host_key), grant)

    def note(self, read: Read, names: Names) -> None:
        """Write down a read that took place on a grant."""
        if read.grant is not None:
            log.info(
                "boot_read",
                grant=read.grant.id.hex(),
                asker=read.grant.subject,
                host=read.principal.token.token_id,
                org=names.org,
                app=names.app,
                machine=names.machine,
            )

    def _find(
        self, db: apsw.Connection, token: Verified, names: Names, value: str
    ) -> GrantRow | None:
        """The grant that a caveat names, if it is for this read and stands."""
        named = _BOOT.fullmatch(value)
        if named is None:
            return None
        grant = boot_grants.get(db, bytes.fromhex(named[1]))
        if grant is None:
            self._refuse_if_behind(db, Position(int(named[2], 16), int(named[3], 16)))
            return None
        if (grant.org, grant.app, grant.machine) != (token.org, names.app, names.machine):
            return None
        if self._auth.now_ms() >= grant.expires_at:
            return None
        return None if tokens.revoked_ancestor(db, grant.token) is not None else grant

    def _refuse_if_behind(self, db: apsw.Connection, need: Position) -> None:
        have = read_position(db)
        behind = (need.epoch, need.txid) > (have.epoch, have.txid)
        if behind and self._view.role is not Role.LEADER:
            raise stale_position(have, need)

    def _require_none(self, db: apsw.Connection, token: Verified) -> None:
        """Refuse a host that would read without a grant where one is needed."""
        if token.ticketed or (token.org is not None and is_on(db, token.org)):
            raise TokenRefused(
                Reason.DISCHARGE_MISSING,
                "this org's boots need two keys, and the host's token is from before that; mint "
                "a new one",
            )


def _explained(refused: TokenRefused) -> TokenRefused:
    """A grant that does not stand is told as that: its caveat is a number to whoever reads it."""
    if refused.reason is not Reason.CAVEAT or not (refused.caveat or "").startswith("boot "):
        return refused
    return TokenRefused(
        refused.reason,
        "nobody's asking for this machine stands any more, the token names two, or this is no "
        "boot; ask for it again with 'petsem boot allow'",
        refused.caveat,
    )
