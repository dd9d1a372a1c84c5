"""What the authenticator knows of an org: where its people sign in, and who of them may.

Guarantees: its key and the client's secret are not in its `repr`. It checks nothing; whoever sets
an org's `sso` does, and what a provider answers is held against it in `petsem.sso.claims`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class SsoOrg(msgspec.Struct, frozen=True, kw_only=True):
    """One org as it is set now.

    `uid` is the org's 16 bytes, `key` the 32 bytes that it shares with its authenticator and
    `key_id` their id. Without `domains` every domain will do, without `groups` nobody is asked for
    one. `discharge_s` is how long a discharge lives, `session_s` how long one is renewed without
    the person.
    """

    uid: bytes
    name: str
    key_id: bytes
    key: bytes
    issuer: str
    client_id: str
    client_secret: str | None = None
    domains: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    groups_claim: str = "groups"
    discharge_s: int
    session_s: int

    def __repr__(self) -> str:
        return f"SsoOrg(name={self.name!r}, issuer={self.issuer!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("name", self.name), ("issuer", self.issuer)]


OrgOf = Callable[[bytes], SsoOrg | None]
"""The org whose authenticator's key has that id, None for a key that nobody has (any more)."""
