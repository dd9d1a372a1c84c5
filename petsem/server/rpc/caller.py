"""Who calls: the token and the address, as each door hands them over.

Guarantees: a token counts only as `Bearer`; the doors see to it that it was sent once. An address
that cannot be known is None, which denies where a caveat asks for it. Nothing is verified here.
"""

from __future__ import annotations

from urllib.parse import unquote

from petsem.errors import Code, PetsemError
from petsem.server.client_ip import canonical_ip


def bearer(authorization: str) -> str:
    """The token in an `authorization` value."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise PetsemError(
            Code.UNAUTHENTICATED, "only the Bearer scheme is known; send 'Bearer TOKEN'"
        )
    return token.strip(" ")


def grpc_peer_ip(peer: str) -> str | None:
    """The address in gRPC's name of a peer, such as `ipv4:127.0.0.1:5000`."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if family == "ipv4":
        return host
    if family != "ipv6":
        return None
    # gRPC writes the brackets as escapes in some versions and plainly in others.
    return canonical_ip(unquote(host).removeprefix("[").removesuffix("]"))
