"""ID tokens: who a provider says has signed in.

Guarantees: a `Person` was named by a token that one of the provider's own keys signed, by an
asymmetric algorithm of the list here, for this client, for this trip's nonce, in its time; the
address is verified by the provider, can stand in a caveat, and is in lower case, so that nobody is
two people by the way in which a provider spells him. Whether that person may have a discharge is up
to `petsem.sso.claims`.

Source: OpenID Connect Core 1.0, sections 3.1.3.7 and 12.2.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from petsem import base64url
from petsem.sso.claims import Person
from petsem.sso.keys import PublicKey
from petsem.sso.orgs import SsoOrg
from petsem.sso.refusals import refused
from petsem.sso.session import SUBJECT_MAX_BYTES

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519",
)  # fmt: skip
"""None that needs a shared secret, and not `none`: what a key is for is never the token's choice
between a public key and a secret."""
CLOCKS_S: Final = 60
"""By how much the provider's clock may be off."""
ID_TOKEN_MAX_CHARS: Final = 64 * 1024
KEYS_TRIED_MAX: Final = 4

_EMAIL = re.compile(r"[!-+\--?[-~]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,188}[a-z0-9])?", re.ASCII)
_UNCHECKED: Final = (
    JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What the libraries raise on tokens that are not as they should be."""


class _Registry(JWSRegistry):
    """Providers put headers of their own beside those that the library knows."""

    max_header_length = 4 * 1024


_REGISTRY: Final = _Registry(algorithms=ALGORITHMS, strict_check_header=False)


def key_id_of(id_token: object) -> str | None:
    """The `kid` in the header of an ID token whose algorithm may be used; `denied` if none is."""
    if not isinstance(id_token, str) or len(id_token) > ID_TOKEN_MAX_CHARS:
        raise refused("the provider sent no ID token")
    head = id_token.partition(".")[0]
    try:
        # Of no bytes at all it is no JSON either.
        header = json.loads(base64url.decode(head) or b"")
        algorithm, kid = header["alg"], header.get("kid")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise refused("the provider's ID token cannot be read") from None
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise refused("the provider's ID token is not signed by an algorithm that counts here")
    return kid if isinstance(kid, str) else None


def read_id_token(
    id_token: str,
    keys: tuple[PublicKey, ...],
    org: SsoOrg,
    *,
    nonce: str | None,
    access_token: str | None,
    now_s: int,
) -> Person:
    """Whom the token names; `denied` if it does not hold. Without `nonce`, which a renewal has
    none of, that claim is not looked at."""
    token = _signed(id_token, keys)
    claims = CodeIDToken(
        token.claims,
        token.header,
        options={
            "iss": {"essential": True, "value": org.issuer},
            "aud": {"essential": True, "value": org.client_id},
        },
        params={"nonce": nonce, "client_id": org.client_id, "access_token": access_token},
    )
    try:
        claims.validate(now=now_s, leeway=CLOCKS_S)
    except _UNCHECKED:
        raise refused(
            "the provider's ID token is not for this sign-in: its issuer, audience, nonce or time "
            "is wrong"
        ) from None
    return _person(dict(claims))


def _signed(id_token: str, keys: tuple[PublicKey, ...]) -> jwt.Token:
    for key in keys[:KEYS_TRIED_MAX]:
        try:
            return jwt.decode(id_token, key, registry=_REGISTRY)
        except _UNCHECKED:
            continue
    raise refused("the provider's ID token is not signed with a key of the provider")


def _person(claims: dict[str, Any]) -> Person:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject.encode()) <= SUBJECT_MAX_BYTES:
        raise refused("the provider does not say who signed in (the claim sub)")
    if claims.get("email_verified") is not True:
        raise refused("the provider has not verified the e-mail address of who signed in")
    email = claims.get("email")
    if not isinstance(email, str) or len(email) > 255:
        raise refused("the provider names no e-mail address")
    # Lower case of other letters may be ASCII, as that of the Kelvin sign is: another address.
    lower = email.lower() if email.isascii() else ""
    if _EMAIL.fullmatch(lower) is None:
        raise refused("the e-mail address of who signed in cannot stand in a token")
    return Person(subject, lower, claims)
