"""A token that ends itself, which takes no `tokens:revoke`.

Guarantees: only as it was minted. Its first-party caveats are those of its row and no other, it has
no third-party caveat but its row's, and the discharge of that is as the authenticator gave it: who
signed in, and until when. Whoever has a narrower copy, however it was narrowed, ends nothing with
it. When, from where and by whom the token may be used holds as for every request; what it is good
for (actions, apps, machines, secrets) does not matter, because who ends it does none of that.

It ends itself and no other: not what it was minted on the authority of, and not its siblings. What
was minted on its own authority ends with it, as whenever a token is revoked. The cluster's tokens
cannot do this.
"""

from __future__ import annotations

from typing import Final

import apsw
import msgspec

from petsem.server.auth import Authenticator
from petsem.server.policy import TOKENS_REVOKE
from petsem.server.principal import Names, Principal, Request, Verified
from petsem.server.store import tokens as rows
from petsem.server.store.tokens import TokenRow
from petsem.tokens.caveats import parse_predicate
from petsem.tokens.macaroon import Macaroon
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import parse_token

_GOOD_FOR: Final = frozenset({"action", "app", "machine", "secret"})
_OF_A_SIGN_IN: Final = [("user", "="), ("time", "<")]
"""Keys and operators of what an authenticator writes into a person's discharge."""


def ending_itself(
    auth: Authenticator,
    db: apsw.Connection,
    request: Request,
    token: Verified,
    org: str,
    token_id: str,
) -> Principal | None:
    """The principal, if `request` is `token` come whole to end itself; None if it is anything else,
    which takes the action. `token` is what verifying the request gave. An error if it is that and
    its time is over, or it comes from where or from whom it may not."""
    if token.token_id != token_id or token.org is None or token.org_name != org:
        return None
    row = rows.get(db, token.nonce)
    if row is None or not _is_whole(request.token or "", row):
        return None
    minted = len(rows.minted_with(row.caveats))
    # What the discharge says comes after the root's, and counts in full.
    held = (*filter(_says_when_or_who, token.caveats[:minted]), *token.caveats[minted:])
    ip, region, host_key = request.ip, request.region, request.host_key
    narrower = msgspec.structs.replace(token, caveats=held)
    try:
        auth.clear(narrower, TOKENS_REVOKE, Names(org), ip, region, host_key)
    except TokenRefused as refused:
        raise refused.as_error() from None
    return Principal(token, None, ip, region, host_key)


def _is_whole(text: str, row: TokenRow) -> bool:
    """Whether a token that was verified already has nothing that it was not given."""
    presented = parse_token(text)
    if tuple(_first_party(presented.root)) != rows.minted_with(row.caveats):
        return False
    # Verified, each discharge is asked for by one third-party caveat: with as many as the row has,
    # nobody has added another one, to the root or to a discharge.
    if len(presented.discharges) != (row.ticket is not None):
        return False
    # Who holds a discharge can narrow that, too, and bind it to the whole root.
    return all(map(_as_given, presented.discharges))


def _as_given(discharge: Macaroon) -> bool:
    found = [parse_predicate(cid) for cid in _first_party(discharge)]
    return [each and (each.key, each.op) for each in found] == _OF_A_SIGN_IN


def _first_party(macaroon: Macaroon) -> list[bytes]:
    return [caveat.cid for caveat in macaroon.caveats if caveat.vid is None]


def _says_when_or_who(cid: bytes) -> bool:
    """Whether a caveat is about something else than what the token is good for."""
    predicate = parse_predicate(cid)
    return predicate is None or predicate.key not in _GOOD_FOR
