"""May whoever asks do what he asks for: one way through for every route and RPC.

*Verify* (signatures, issued row, revocation), which `petsem.server.verifying` does, and *clear*
(caveats against what is asked) are kept apart. Authority comes from the root key's row: an org's
key can only act in its org, the cluster key in all, and caveats only take away.

Guarantees: names in the request decide, before anyone looks whether they exist, so that a stranger
cannot tell absent from forbidden. It does not know routes; they bring their `Rule` and names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import apsw
import msgspec

from petsem.clock import Clock
from petsem.model import Kind
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.host_key import HostKey
from petsem.server.keys import Keys
from petsem.server.policy import Rule
from petsem.server.principal import NO_NAMES, Names, Principal, Request, Verified
from petsem.server.store.tokens import IssuedRow
from petsem.server.verifying import Presented, Verifying
from petsem.tokens import authority
from petsem.tokens.caveats import Access, SecretFilter, clear
from petsem.tokens.reasons import Reason, TokenRefused

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


class Authenticator(Verifying):
    """Verifies tokens and clears them against requests of this node's own.

    It is a `Verifying`, and does not have one, because every request goes through both: a call more
    would be paid by each.
    """

    def __init__(
        self,
        keys: Keys,
        clock: Clock,
        cluster_id: bytes,
        region: str,
        changes: Changes,
        view: ClusterView | None = None,
    ) -> None:
        super().__init__(keys, clock, cluster_id, changes, view)
        self._region = region

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
        row: IssuedRow | None,
        request: Request,
        rule: Rule,
        names: Names,
    ) -> Principal:
        """As `authorize`, for a caller who has read the token's row together with others."""
        try:
            token = self.judge(db, presented, row)
            return self._principal(token, request, rule, names)
        except TokenRefused as refused:
            raise refused.as_error() from None

    def _principal(self, token: Verified, request: Request, rule: Rule, names: Names) -> Principal:
        ip, region, host_key = request.ip, request.region, request.host_key
        allowed = self.clear(token, rule, names, ip, region, host_key)
        return Principal(token, allowed, ip, region, host_key)

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
        if token.org is not None and names.org is None:
            raise TokenRefused(
                Reason.WRONG_ORG,
                "the token is of an org, and no org was named; name its org, as with --org ORG",
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
