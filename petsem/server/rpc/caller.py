"""Who calls: the token and the address, as each door hands them over.

Guarantees: a token counts only if it was sent exactly once, as `Bearer`. An address that cannot be
known is None, which denies where a caveat asks for it. Nothing is verified here.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from petsem.errors import Code, PetsemError
from petsem.server.client_ip import client_ip


def bearer(values: Sequence[str]) -> str | None:
    """The token in the `authorization` values of a request; None if there is no such value."""
    if not values:
        return None
    if len(values) > 1:
        raise PetsemError(Code.UNAUTHENTICATED, "authorization was sent more than once; send one")
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer":
        raise PetsemError(
            Code.UNAUTHENTICATED, "authorization must be 'Bearer' followed by a token"
        )
    return token.strip(" ")


def grpc_peer_ip(peer: str) -> str | None:
    """The address in gRPC's name of a peer, such as `ipv4:127.0.0.1:5000`."""
    family, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if family == "ipv4":
        return host
    if family != "ipv6":
        return None
    # gRPC writes the brackets as escapes in some versions and plainly in others.
    host = unquote(host).removeprefix("[").removesuffix("]")
    return client_ip({"client": (host, port), "headers": ()}, ())
