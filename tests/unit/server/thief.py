"""Somebody who stole a root key, and what a node says to a token."""

from __future__ import annotations

import msgspec

from petsem.crypto.keys import random_id
from petsem.errors import Code
from petsem.model import Kind
from petsem.server import policy
from petsem.server.policy import Rule
from petsem.server.principal import Names, Request
from petsem.server.store import orgs
from petsem.server.store.tokens import TokenRow, insert
from petsem.tokens.identifier import Identifier
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.text import encode_token, parse_token
from tests.support.nodes import Running, outcome

WEB = Names("acme", "web", filterable=True)
UNAUTHENTICATED, DENIED = Code.UNAUTHENTICATED, Code.DENIED


class Thief:
    """Somebody who stole an org's root key (or the cluster's), and signs what he likes."""

    def __init__(self, node: Running, org: str | None) -> None:
        self.node = node
        self.org = org
        self.key_id, self.secret = node.root_secret(org)

    def sign(
        self,
        *caveats: str,
        nonce: bytes | None = None,
        kind: Kind = Kind.ORG,
        cluster_id: bytes | None = None,
        key_id: bytes | None = None,
        third_party: tuple[ThirdParty, ...] = (),
    ) -> str:
        identifier = Identifier(
            cluster_id or self.node.site.cluster_id,
            kind,
            key_id or self.key_id,
            nonce or random_id(),
            1,
            1,
        )
        return encode_token(mint(self.secret, identifier, caveats, third_party))

    async def issue(self, nonce: bytes, *caveats: str, kind: Kind = Kind.ORG) -> None:
        """What only the leader can do: write the row of an issued token, good for an hour."""
        now_ms = self.node.clock.unix_ms()

        def row(org: int | None) -> TokenRow:
            return TokenRow(
                nonce, org, self.key_id, kind, f"{kind.text}:{nonce.hex()}", None, 0,
                msgspec.json.encode(caveats).decode(), None, now_ms, "test", now_ms + 3_600_000,
                1, 1,
            )  # fmt: skip

        await self.node.node.writer.submit(
            lambda txn: insert(
                txn.db, row(None if self.org is None else orgs.get_org(txn.db, self.org).id)
            )
        )


def ask(
    node: Running,
    token: str | None,
    rule: Rule = policy.SECRETS_READ,
    names: Names = WEB,
    ip: str | None = None,
) -> str | tuple[Code, str | None, str | None]:
    """`allowed`, or the refusal."""

    def authorize() -> str:
        with node.node.pool.reading() as db:
            node.node.auth.authorize(db, Request(token, ip), rule, names)
        return "allowed"

    return outcome(authorize)


def key_of(token: str) -> bytes:
    """The root key's id that a token names."""
    return Identifier.parse(parse_token(token).root.identifier).root_key_id
