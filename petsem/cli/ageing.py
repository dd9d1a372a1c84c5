"""A word on stderr when the token in use is near its end.

Guarantees: it looks at what the token says of itself and at when it came here, offline, and never
stops a command; the token is not in the sentence. Since when a token has lived is known for a
sign-in (it is recorded), and for a file (when it was written). A token has no time of minting in
it, so for one from the environment the usual life of its kind is taken: a token that was made
shorter is then spoken of earlier than in its last tenth, and never later.
"""

from __future__ import annotations

from petsem.cli.credentials import Held
from petsem.cli.lives import Life
from petsem.cli.logins import Login
from petsem.cli.output import warn
from petsem.cli.run import Run
from petsem.clock import rfc3339
from petsem.model import LIFE_DEFAULT_S
from petsem.tokens.caveats import expiry_of, parse_predicate
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Macaroon
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import parse_token


def remark_on_age(run: Run, held: Held) -> None:
    """Warn if `held` is in the last tenth of its life, unless a program reads the output."""
    if run.is_json:
        return
    now_ms = run.clock.unix_ms()
    if held.login is not None:
        _remark_on_login(held.login, now_ms)
        return
    life = life_of(held, now_ms)
    # One that is over is the node's to refuse.
    if life is not None and life.is_ending(now_ms) and not life.is_over(now_ms):
        warn(f"the token in use ends at {rfc3339(life.until_ms)}; ask for a new one before that")


def _remark_on_login(login: Login, now_ms: int) -> None:
    # Asked after the renewal: a discharge that is near its end now could not be renewed.
    discharge_ends = login.discharge_life.is_ending(now_ms)
    if not discharge_ends and not login.token_life.is_ending(now_ms):
        return
    renews = login.session is not None and not discharge_ends
    until_ms = login.token_until_ms if renews else login.until_ms
    warn(
        f"the sign-in to {login.org} ends at {rfc3339(until_ms)}; sign in again with: "
        f"petsem login {login.org}"
    )


def life_of(held: Held, now_ms: int) -> Life | None:
    """The life of a token that is from no sign-in, as far as it can be known."""
    try:
        token = parse_token(held.text)
        kind = Identifier.parse(token.root.identifier).kind
    except TokenRefused:
        # What is no token is refused where it is to be sent, and what is not ours has no kind.
        return None
    until_s = earliest_end_s(token.root, *token.discharges)
    if until_s is None:
        return None
    until_ms = until_s * 1000
    since_ms = held.since_ms
    if since_ms is None or since_ms > now_ms:
        since_ms = until_ms - LIFE_DEFAULT_S[kind] * 1000
    return Life(since_ms, until_ms)


def earliest_end_s(*macaroons: Macaroon) -> int | None:
    """The moment from which one of their caveats denies everything, Unix seconds."""
    predicates = [
        predicate
        for macaroon in macaroons
        for caveat in macaroon.caveats
        if caveat.vid is None and (predicate := parse_predicate(caveat.cid)) is not None
    ]
    return expiry_of(predicates)
