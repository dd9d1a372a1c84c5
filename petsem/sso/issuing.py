"""The discharge of a completed sign-in, and the session that renews it."""

from __future__ import annotations

from petsem.clock import rfc3339
from petsem.sso.answers import Discharged
from petsem.sso.claims import check_domain
from petsem.sso.orgs import SsoOrg
from petsem.sso.results import Result
from petsem.sso.session import REFRESH_TOKEN_MAX_BYTES, Session
from petsem.tokens.grammar import one_of, time_before
from petsem.tokens.text import encode_part
from petsem.tokens.ticket import Ticket, discharge


def issue(data: bytes, ticket: Ticket, org: SsoOrg, result: Result, now_ms: int) -> Discharged:
    """The discharge for a result, by the org's settings of now; `denied` if they let that person
    in no more. `data` is the ticket as it was sealed."""
    check_domain(result.email, org, ticket.domains)
    expires_ms = now_ms + org.discharge_s * 1000
    caveats = (one_of("user", result.email), time_before(expires_ms))
    made = discharge(data, ticket.caveat_key, caveats)
    return Discharged(encode_part(made), result.session, result.email, rfc3339(expires_ms))


def seal_session(org: SsoOrg, session: Session) -> str | None:
    """The session as text; None where the provider's refresh token is too long to carry about."""
    if len(session.refresh_token.encode()) > REFRESH_TOKEN_MAX_BYTES:
        return None
    return session.seal(org)
