"""What a new token may be: its caveats, its label, and until when it lives.

Guarantees: a token never holds more authority than the one that asked for it. Each action asked
for is one that the asker's own token clears, and every first-party caveat of the asker but `time`
and `user` is inherited. Nothing is written here.
"""

from __future__ import annotations

from petsem import limits
from petsem.errors import Code, Detail, PetsemError, invalid
from petsem.model import Kind, check_org
from petsem.server.auth import Authenticator
from petsem.server.policy import Rule, within_org_authority
from petsem.server.principal import Names, Principal
from petsem.server.service.kinds import LIFE_MAX_S
from petsem.tokens.caveats import actions_of, expiry_of, inherited_of, values_of
from petsem.tokens.grammar import Predicate, parse_predicate, parse_predicates
from petsem.tokens.identifier import IDENTIFIER_BYTES
from petsem.tokens.macaroon import LOCATION, SIGNATURE_BYTES, VID_BYTES, Caveat, Macaroon
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.text import encode_token
from petsem.tokens.ticket import TICKET_BYTES
from petsem.wire import http


def caveats_for(
    auth: Authenticator, principal: Principal, body: http.Mint
) -> tuple[Predicate, ...]:
    """The caveats of the new token: its org, those asked for, and the asker's."""
    asked = parse_predicates(body.caveats)
    actions = actions_of(asked)
    if not actions:
        raise invalid("a token needs an action caveat, such as 'action = secrets:read'")
    if expiry_of(asked) is None:
        raise invalid("a token needs a time caveat, such as 'time < 2027-01-01T00:00:00Z'")
    own = values_of(asked, "org")
    if body.org is not None and own is not None and own != {body.org}:
        raise invalid("the org caveat comes from the field org; leave it out of caveats")
    require_actions(auth, principal, Names(body.org), actions)
    first = () if body.org is None else parse_predicates([f"org = {check_org(body.org)}"])
    return with_inherited((*first, *asked), principal, of_host=body.kind == Kind.HOST.text)


def with_inherited(
    caveats: tuple[Predicate, ...], principal: Principal, *, of_host: bool = False
) -> tuple[Predicate, ...]:
    """`caveats` and those that the asker hands down; `invalid` if they are too many. `of_host`: the
    token may be given a third-party caveat, too."""
    inherited = parse_predicates(
        inherited_of(filter(None, map(parse_predicate, principal.token.caveats)))
    )
    all_of_them = tuple(dict.fromkeys((*caveats, *inherited)))
    _require_size(all_of_them, of_host=of_host)
    return all_of_them


def require_actions(
    auth: Authenticator, principal: Principal, names: Names, actions: frozenset[str]
) -> None:
    """Each action must be one that the asker's own token clears, and the key's to give."""
    for action in sorted(actions):
        if names.org is not None and not within_org_authority(action):
            raise PetsemError(
                Code.DENIED,
                f"an org's token cannot hold {action}; mint it without an org",
                Detail(reason=Reason.CAVEAT.value),
            )
        try:
            auth.clear(
                *(principal.token, Rule(action), names),
                *(principal.ip, principal.region, principal.host_key),
            )
        except TokenRefused as refused:
            raise PetsemError(
                Code.DENIED,
                f"your token does not hold {action}, so it cannot pass it on",
                Detail(reason=refused.reason.value, caveat=refused.caveat),
            ) from None


def expiry_ms(caveats: tuple[Predicate, ...], kind: Kind, now_ms: int) -> int:
    """When the token ends, Unix milliseconds; `invalid` if that is past, or beyond its kind."""
    expires_s = expiry_of(caveats)
    assert expires_s is not None
    if expires_s * 1000 <= now_ms:
        raise invalid("the token would have expired already; give a later time")
    if expires_s * 1000 > now_ms + LIFE_MAX_S[kind] * 1000:
        hours = LIFE_MAX_S[kind] // 3600
        longest = f"{hours // 24} days" if hours > 24 else f"{hours} hours"
        raise invalid(f"a token of kind {kind.text} lives at most {longest}; give an earlier time")
    return expires_s * 1000


def check_label(label: str | None) -> str | None:
    """`label`, if people can read it."""
    if label is not None and not (0 < len(label) <= limits.LABEL_MAX_CHARS and label.isprintable()):
        raise invalid(f"a label is 1 to {limits.LABEL_MAX_CHARS} printable characters")
    return label


def _require_size(caveats: tuple[Predicate, ...], *, of_host: bool) -> None:
    """Refuse what could be issued and then not be written as a token."""
    if len(caveats) > limits.CAVEATS_MINTED_MAX:
        raise invalid(
            f"a token is minted with at most {limits.CAVEATS_MINTED_MAX} caveats, "
            "inherited ones included"
        )
    parts = tuple(Caveat(str(predicate).encode("ascii")) for predicate in caveats)
    if of_host:
        parts += (Caveat(bytes(TICKET_BYTES), bytes(VID_BYTES), LOCATION),)
    encode_token(Macaroon(LOCATION, bytes(IDENTIFIER_BYTES), parts, bytes(SIGNATURE_BYTES)))
