"""Who asks for what, as values: the doors make them, and the services act on them.

Guarantees: no repr spells a token. A `Verified` says that a token holds, a `Principal` that it may
do what was asked; only `petsem.server.verifying` and `petsem.server.auth` judge that, and this
module does not.

The values are structs and not dataclasses, because each request makes several of them, and a frozen
dataclass takes eight times as long to make.
"""

from __future__ import annotations

from typing import Final

import msgspec

from petsem.model import Kind
from petsem.server.host_key import HostKey
from petsem.tokens.caveats import SecretFilter


class Request(msgspec.Struct, frozen=True):
    """What a door knows of a request before its body: the token and where it comes from.

    `region` is that of the node that the client asked, if it was another one, which passed the
    request on; `hops` counts the nodes that did. `host_key` is None where there is no TLS.
    """

    token: str | None
    ip: str | None
    region: str | None = None
    hops: int = 0
    host_key: HostKey | None = None

    def __repr__(self) -> str:
        return f"Request(token=…, ip={self.ip!r})"


class Names(msgspec.Struct, frozen=True):
    """The names in a request that decide it. Those that a route does not have stay None.

    `secrets` are all names that a write touches; `filterable` says that the answer may leave
    names out, so that a `secret` caveat filters it.
    """

    org: str | None = None
    app: str | None = None
    machine: str | None = None
    secrets: tuple[str, ...] | None = None
    filterable: bool = False


NO_NAMES: Final = Names()


class Verified(msgspec.Struct, frozen=True):
    """A token whose signatures hold, which was issued here and is not revoked or expired.

    `org` and `org_name` are of the root key and None for the cluster's. `caveats` are verified
    but not cleared.
    """

    nonce: bytes
    root_key: bytes
    kind: Kind
    subject: str
    org: int | None
    org_name: str | None
    expires_at_ms: int
    depth: int
    caveats: tuple[bytes, ...]
    as_of: int = -1
    """What `Changes.authority` was before the database was asked."""
    discharges: tuple[bytes, ...] = ()
    """The signatures of its discharges before they were bound, in the order they were sent."""
    ticketed: bool = False
    """Whether it was minted with a third-party caveat, which then has been discharged."""
    ends_at_ms: int = 0
    """When it stops working: at `expires_at_ms`, or earlier if a holder has said so."""

    @property
    def token_id(self) -> str:
        """The id that people and the API use: the nonce as 32 hexadecimal digits."""
        return self.nonce.hex()


class Principal(msgspec.Struct, frozen=True):
    """A verified token that has cleared one request, with the names it may see of it.

    `ip`, `region` and `host_key` are where the request came from, for holding the same request
    against another action.
    """

    token: Verified
    filter: SecretFilter | None
    ip: str | None = None
    region: str | None = None
    host_key: HostKey | None = None
