"""Attenuation never widens: whatever a holder does to a token that he may do, the result allows
nothing that the token before did not allow.

A holder can add caveats to the root and to discharges that he holds unbound, ask for further
discharges under keys of his own, and bind. He can also cut, mix and repeat parts of what he holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from petsem.tokens.caveats import Access, SecretFilter, clear
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge
from petsem.tokens.verifier import derive_key, walk_signatures
from tests.unit.tokens.build import IDENTIFIER, NOW_S, SECRET

thorough = settings(deadline=None, max_examples=400)

KEY = derive_key(SECRET)
TICKETS = (b"sso ticket", b"boot ticket")
KEYS = (b"s" * 32, b"b" * 32)
"""Of the third parties that the token was minted with: no holder has them."""
OWN_KEY = b"o" * 32

NAMES = ("A", "AB", "B", "OTHER")
predicates = st.one_of(
    st.builds(
        "{} = {}".format,
        st.sampled_from(("org", "app", "action", "user")),
        st.sampled_from(("acme", "web", "secrets:read", "a@b.c")),
    ),
    st.just("app in web, api"),
    st.just("action in secrets:read, secrets:list"),
    st.builds("ip in {}".format, st.sampled_from(("10.0.0.0/8", "::/0", "10.0.0.1, fdaa::1"))),
    st.builds(
        "time {} {}".format,
        st.sampled_from(("<", ">=")),
        st.sampled_from(("2027-01-15T07:59:59Z", "2027-01-15T08:00:00Z", "2027-01-15T08:00:01Z")),
    ),
)
# Half of them limit names, which is where a token can be wider in part.
names = st.builds("secret in {}".format, st.sampled_from(("A", "A*", "B, A*", "*")))
some = st.lists(predicates | names, max_size=3)
# Mostly what the caveats want, so that much is allowed and little holds by chance alone.
accesses = st.builds(
    Access,
    st.fixed_dictionaries(
        {
            "org": st.sampled_from(("acme", "acme", "umbrella")),
            "app": st.sampled_from(("web", "web", "api")),
            "action": st.sampled_from(("secrets:read", "secrets:list")),
        },
        optional={"user": st.just("a@b.c"), "ip": st.sampled_from(("10.0.0.1", "192.0.2.1"))},
    ),
    st.just(NOW_S),
    st.none() | st.lists(st.sampled_from(NAMES), max_size=2).map(tuple),
    st.sampled_from((True, True, False)),
)


@dataclass(frozen=True)
class Held:
    """What somebody holds: a root, and discharges that are not bound yet."""

    root: Macaroon
    discharges: tuple[Macaroon, ...]

    def text(self) -> str:
        """As it is sent."""
        return encode_token(self.root, [bind_discharge(self.root, d) for d in self.discharges])


def allowed(text: str, access: Access) -> set[str] | None:
    """The names that a token opens for an access, from its text on; None if it is refused."""
    try:
        caveats = walk_signatures(parse_token(text), KEY).caveats
    except TokenRefused:
        return None
    return cleared(caveats, access)


def cleared(caveats: Sequence[bytes], access: Access) -> set[str] | None:
    """The names that these caveats leave; None if one of them denies."""
    try:
        limits = clear(caveats, access)
    except TokenRefused:
        return None
    return {name for name in NAMES if not isinstance(limits, SecretFilter) or limits.admits(name)}


def never_wider(child: str, parent: str, access: Access) -> None:
    """What the child may, the parent may."""
    by_child, by_parent = allowed(child, access), allowed(parent, access)
    event(f"parent {by_parent is not None}, child {by_child is not None}")
    if by_child is not None:
        assert by_parent is not None, "refused to the parent and allowed to the child"
        assert by_child <= by_parent


@st.composite
def held(draw: st.DrawFn) -> Held:
    """A token as it was issued, with third-party caveats or without, all discharged."""
    count = draw(st.integers(0, 2))
    asked = [ThirdParty("x", KEYS[n], TICKETS[n]) for n in range(count)]
    root = mint(SECRET, IDENTIFIER, draw(some), asked)
    return Held(root, tuple(discharge(TICKETS[n], KEYS[n], draw(some)) for n in range(count)))


@st.composite
def narrower(draw: st.DrawFn, parent: Held) -> Held:
    """What a holder makes of it by adding: to the root, to each discharge, or a caveat that he
    discharges himself, on either."""
    root = attenuate(parent.root, draw(some))
    discharges = [attenuate(each, draw(some)) for each in parent.discharges]
    for number in range(draw(st.integers(0, 2))):
        ticket = b"own ticket %d" % number
        at = draw(st.integers(-1, len(discharges) - 1))
        if at < 0:
            root = require_discharge(root, b"own", OWN_KEY, ticket)
        else:
            discharges[at] = require_discharge(discharges[at], b"own", OWN_KEY, ticket)
        discharges.append(discharge(ticket, OWN_KEY, draw(some)))
    return Held(attenuate(root, draw(some)), tuple(draw(st.permutations(discharges))))


@thorough
@given(st.data(), accesses)
def test_a_token_that_was_narrowed_never_allows_more(data: st.DataObject, access: Access) -> None:
    """By any number of holders, one after another, with discharges of their own."""
    first = data.draw(held())
    parent = first
    for _ in range(data.draw(st.integers(1, 3))):
        child = data.draw(narrower(parent))
        never_wider(child.text(), parent.text(), access)
        if len(child.discharges) > 4:
            break
        parent = child
    never_wider(parent.text(), first.text(), access)


@thorough
@given(st.data(), accesses)
def test_parts_put_together_otherwise_never_allow_more(data: st.DataObject, access: Access) -> None:
    """A holder of a token that was narrowed has its parts, not what they were made from. Whatever
    he leaves out, repeats, takes from another token of his or signs over opens nothing new."""
    parent = data.draw(held())
    child = data.draw(narrower(parent))
    other = data.draw(narrower(data.draw(held())))
    known = [
        *parse_token(child.text()).discharges,
        *(each for each in other.discharges if each.identifier not in TICKETS),
        discharge(b"own ticket 0", OWN_KEY, []),
        *(discharge(ticket, OWN_KEY, []) for ticket in TICKETS),
    ]
    caveats = data.draw(st.permutations(child.root.caveats))
    kept = data.draw(st.integers(0, len(caveats)))
    keep_order = data.draw(st.booleans())
    root = replace(
        child.root, caveats=child.root.caveats[:kept] if keep_order else tuple(caveats[:kept])
    )
    if data.draw(st.booleans()):
        root = require_discharge(root, b"own", OWN_KEY, b"own ticket 0")
    sent = data.draw(st.lists(st.sampled_from(known), max_size=4))
    if data.draw(st.booleans()):
        sent = [bind_discharge(root, each) for each in sent]
    never_wider(encode_token(root, sent), parent.text(), access)


@thorough
@given(st.data(), accesses)
def test_without_all_its_discharges_a_token_allows_nothing(
    data: st.DataObject, access: Access
) -> None:
    """Each third-party caveat, of the root or of a discharge, wants its own."""
    child = data.draw(narrower(data.draw(held())))
    for number in range(len(child.discharges)):
        fewer = child.discharges[:number] + child.discharges[number + 1 :]
        assert allowed(Held(child.root, fewer).text(), access) is None


@thorough
@given(st.data(), accesses)
def test_every_caveat_of_every_part_counts(data: st.DataObject, access: Access) -> None:
    """A token allows what all caveats of its root and its discharges leave together."""
    child = data.draw(narrower(data.draw(held())))
    parts = (child.root, *child.discharges)
    caveats = [each.cid for part in parts for each in part.caveats if each.vid is None]
    assert allowed(child.text(), access) == cleared(caveats, access)
