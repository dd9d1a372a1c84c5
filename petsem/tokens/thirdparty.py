"""Third-party caveats: sealing the discharge's key, and binding the discharge to its root.

Guarantees: the nonce of every sealed key is drawn inside the call, from the one source of random
bytes, so no caller can repeat one; what does not open is DISCHARGE_INVALID and says no more.

Does not talk to the third party or decide whom it trusts. Needs PyNaCl, unlike the modules that
the boot client uses, so those import nothing from here.
"""

from __future__ import annotations

from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from petsem.crypto.aead import random_bytes
from petsem.errors import invalid
from petsem.limits import CAVEAT_MAX_BYTES, CAVEATS_MAX
from petsem.tokens.macaroon import (
    VID_BYTES,
    Caveat,
    Macaroon,
    bind_discharge,
    derive_key,
    sign_third_party,
)
from petsem.tokens.reasons import Reason, TokenRefused

__all__ = ["NONCE_BYTES", "bind_discharge", "open_key", "require_discharge", "seal_key"]

NONCE_BYTES: Final = 24


def seal_key(signature: bytes, caveat_key: bytes) -> bytes:
    """The vid (72 bytes): the discharge's key, sealed under the signature before the caveat.

    XSalsa20-Poly1305, the random 24-byte nonce in front, as libmacaroons writes it.
    """
    nonce = random_bytes(NONCE_BYTES)
    return bytes(SecretBox(signature).encrypt(derive_key(caveat_key), nonce))


def open_key(signature: bytes, vid: bytes) -> bytes:
    """The discharge's (derived) key; DISCHARGE_INVALID if `vid` was not sealed under `signature`.

    Any holder can add a third-party caveat, so a vid that does not open proves nothing but that.
    """
    if len(vid) != VID_BYTES:
        raise TokenRefused(Reason.DISCHARGE_INVALID)
    try:
        return SecretBox(signature).decrypt(vid)
    except CryptoError:
        raise TokenRefused(Reason.DISCHARGE_INVALID) from None


def require_discharge(
    macaroon: Macaroon, location: bytes, caveat_key: bytes, ticket: bytes
) -> Macaroon:
    """`macaroon` with a third-party caveat: whoever can open `ticket` learns `caveat_key`."""
    if len(macaroon.caveats) >= CAVEATS_MAX or len(ticket) > CAVEAT_MAX_BYTES:
        raise invalid(f"a token has at most {CAVEATS_MAX} caveats of {CAVEAT_MAX_BYTES} bytes each")
    vid = seal_key(macaroon.signature, caveat_key)
    caveat = Caveat(ticket, vid, location or None)
    signature = sign_third_party(macaroon.signature, vid, ticket)
    return Macaroon(macaroon.location, macaroon.identifier, (*macaroon.caveats, caveat), signature)
