"""A provider's public keys, as its JWKS document names them.

Guarantees: only keys of asymmetric algorithms, of sizes that are safe and cheap to check with, and
at most `KEYS_MAX`; what is not understood is left out (RFC 7517, section 5).
"""

from __future__ import annotations

from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

KEYS_MAX: Final = 64
_RSA_CHARS: Final = range(342, 1_366 + 1)
"""Of a modulus of 2,048 to 8,192 bits, in base64url."""
_MEMBER_MAX_CHARS: Final = 4_096

PublicKey = RSAKey | ECKey | OKPKey
_KINDS: Final = frozenset({"RSA", "EC", "OKP"})
_MEMBERS: Final = ("kty", "kid", "use", "alg", "n", "e", "crv", "x", "y")


def read_keys(document: dict[str, Any]) -> tuple[PublicKey, ...]:
    """The keys that signatures can be checked with."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        return ()
    found = (_read(entry) for entry in entries[:KEYS_MAX])
    return tuple(key for key in found if key is not None)


def _read(entry: Any) -> PublicKey | None:
    if not isinstance(entry, dict) or entry.get("kty") not in _KINDS:
        return None
    if entry.get("use", "sig") != "sig":
        return None
    # Private members, should a provider publish them, are not even looked at.
    plain = {name: entry[name] for name in _MEMBERS if name in entry}
    if any(not isinstance(v, str) or len(v) > _MEMBER_MAX_CHARS for v in plain.values()):
        return None
    if plain["kty"] == "RSA" and len(plain.get("n", "")) not in _RSA_CHARS:
        return None
    try:
        key = JWKRegistry.import_key(plain)
        # Read here once: what cannot be used shows only then.
        return key if isinstance(key, PublicKey) and key.public_key is not None else None
    except (JoseError, ValueError, TypeError, KeyError, OverflowError):
        return None


def fitting(keys: tuple[PublicKey, ...], kid: str | None) -> tuple[PublicKey, ...]:
    """The keys that a token with that `kid` may be signed with; without one, each of them."""
    if kid is None:
        return keys
    return tuple(key for key in keys if key.kid == kid)
