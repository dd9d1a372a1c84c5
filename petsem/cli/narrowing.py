"""The caller's token, narrowed to one call before it is sent.

Guarantees: what `narrow` gives allows one action, on what the call names, for a minute; a
node or a listener in between gains nothing that lasts. Narrowing is offline and needs no key.

Does not decide anything: the node does, from the whole token. A mint call is narrowed by org and
time only, because a new token inherits its asker's caveats. `bound` is for the few calls whose
subject is the token itself, which travels whole there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from petsem.tokens.caveats import one_of, time_before
from petsem.tokens.macaroon import attenuate, bind_discharge
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import encode_token, parse_token

LIFE_MS: Final = 60_000
OFFSET_MAX_MS: Final = 2 * 3600 * 1000
"""How far a node may talk us into moving our idea of the time."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one call needs: its actions, and the org and app that it names, if it names any."""

    actions: tuple[str, ...]
    org: str | None = None
    app: str | None = None


def narrow(text: str, scope: Scope, now_ms: int) -> str:
    """`text` with caveats that hold it to `scope` and a minute from `now_ms`.

    Raises TokenRefused if it is no token, `invalid` if it has no room for the caveats.
    """
    token = parse_token(text)
    caveats = []
    if scope.org is not None:
        caveats.append(one_of("org", scope.org))
    if scope.app is not None:
        caveats.append(one_of("app", scope.app))
    if scope.actions:
        caveats.append(one_of("action", *scope.actions))
    caveats.append(time_before(now_ms + LIFE_MS))
    root = attenuate(token.root, caveats)
    # A token is kept with its discharges unbound; they are bound to what is sent.
    return encode_token(root, [bind_discharge(root, each) for each in token.discharges])


def bound(text: str) -> str:
    """A kept token as it travels whole, its discharges bound to it; what is no token as it is."""
    try:
        token = parse_token(text)
    except TokenRefused:
        return text
    return encode_token(token.root, [bind_discharge(token.root, d) for d in token.discharges])


def clock_offset_ms(server_ms: int, local_ms: int) -> int:
    """How much to add to our clock to agree with the node's, within reason."""
    return max(-OFFSET_MAX_MS, min(OFFSET_MAX_MS, server_ms - local_ms))
