"""A token that was issued with a third-party caveat, in the hands of who stole the root key.

He signs what he likes on the id of a token that was issued. What he signs is refused as never
issued unless it asks for the very discharge that the issued one asks for, in its root.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from petsem.crypto.keys import random_id
from petsem.errors import Code
from petsem.tokens.macaroon import Macaroon, bind_discharge
from petsem.tokens.mint import ThirdParty
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge
from tests.support.nodes import Running, running
from tests.unit.server.thief import Thief, ask

OWN_KEY, CAVEAT_KEY = b"o" * 32, b"c" * 32
TICKET = b"the ticket of the token that was issued"
NOT_ISSUED = (Code.UNAUTHENTICATED, "NOT_ISSUED", None)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as node:
        yield node


class Stolen:
    """acme's root key, and the id of a token that was issued with a ticket."""

    def __init__(self, node: Running) -> None:
        self.node = node
        self.thief = Thief(node, "acme")
        self.nonce = random_id()

    async def issue(self) -> None:
        """The row of the token."""
        await self.thief.issue(self.nonce)
        await self.node.tamper("UPDATE tokens SET ticket = ? WHERE nonce = ?", TICKET, self.nonce)

    def root(
        self, *tickets: bytes, key: bytes = OWN_KEY, caveats: tuple[str, ...] = ()
    ) -> Macaroon:
        """A token on that id, which asks for discharges of `tickets` under a key of his."""
        asked = tuple(ThirdParty("x", key, ticket) for ticket in tickets)
        return parse_token(self.thief.sign(*caveats, nonce=self.nonce, third_party=asked)).root


def sent(root: Macaroon, *discharges: Macaroon) -> str:
    """Root and discharges as they are sent."""
    return encode_token(root, [bind_discharge(root, each) for each in discharges])


@pytest.fixture
async def stolen(node: Running) -> Stolen:
    stolen = Stolen(node)
    await stolen.issue()
    return stolen


async def test_the_issued_token_with_its_discharge(node: Running, stolen: Stolen) -> None:
    """It is taken, and needs the discharge."""
    root = stolen.root(TICKET, key=CAVEAT_KEY)
    assert ask(node, sent(root, discharge(TICKET, CAVEAT_KEY, []))) == "allowed"
    assert ask(node, sent(root)) == (Code.UNAUTHENTICATED, "DISCHARGE_MISSING", None)
    forged = discharge(TICKET, OWN_KEY, [])
    assert ask(node, sent(root, forged)) == (Code.UNAUTHENTICATED, "DISCHARGE_INVALID", None)


async def test_without_the_caveat_it_was_not_issued(node: Running, stolen: Stolen) -> None:
    """Left out, or spelled as a first-party caveat."""
    assert ask(node, sent(stolen.root())) == NOT_ISSUED
    assert ask(node, sent(stolen.root(caveats=("app = web",)))) == NOT_ISSUED
    await node.tamper("UPDATE tokens SET ticket = ? WHERE nonce = ?", b"app = web", stolen.nonce)
    assert ask(node, sent(stolen.root(caveats=("app = web",)))) == NOT_ISSUED


async def test_with_a_caveat_of_his_own_it_was_not_issued(node: Running, stolen: Stolen) -> None:
    """Another ticket, which he discharges himself, is not the one of the row."""
    root = stolen.root(b"own ticket")
    assert ask(node, sent(root, discharge(b"own ticket", OWN_KEY, []))) == NOT_ISSUED
    almost = stolen.root(TICKET + b"\0")
    assert ask(node, sent(almost, discharge(TICKET + b"\0", OWN_KEY, []))) == NOT_ISSUED


async def test_the_ticket_in_a_discharge_does_not_count(node: Running, stolen: Stolen) -> None:
    """A discharge of his own may ask for the ticket; the token's root does not."""
    root = stolen.root(b"own ticket")
    asking = require_discharge(discharge(b"own ticket", OWN_KEY, []), b"x", OWN_KEY, TICKET)
    inner = discharge(TICKET, OWN_KEY, [])
    assert ask(node, sent(root, asking, inner)) == NOT_ISSUED


async def test_what_is_remembered_does_not_help(node: Running, stolen: Stolen) -> None:
    """The signatures of what was refused are good and may be remembered; it is refused again."""
    bare, own = sent(stolen.root()), stolen.root(b"own ticket")
    discharged = sent(own, discharge(b"own ticket", OWN_KEY, []))
    for _ in range(3):
        assert ask(node, bare) == NOT_ISSUED
        assert ask(node, discharged) == NOT_ISSUED
