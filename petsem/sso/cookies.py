"""The cookie that ties a sign-in to one browser.

Guarantees: each flow has a cookie of its own, so that two sign-ins in one browser do not disturb
each other; no script reads it, no other site's form sends it, and over https no other host of the
domain can plant it (`__Host-`). One that is there twice counts as none.
"""

from __future__ import annotations

from typing import Final

from petsem import base64url
from petsem.crypto import aead
from petsem.sso.flow import LIFE_MS, SECRET_BYTES, Flow

_HEADER_MAX_CHARS: Final = 8 * 1024


def new_cookie() -> bytes:
    """The value of a new cookie."""
    return aead.random_bytes(SECRET_BYTES)


def set_cookie(flow: Flow, value: bytes, *, secure: bool) -> str:
    """The Set-Cookie header that gives it to a browser."""
    return _header(flow, base64url.encode(value), LIFE_MS // 1000, secure=secure)


def clear_cookie(flow: Flow, *, secure: bool) -> str:
    """The Set-Cookie header that takes it away."""
    return _header(flow, "", 0, secure=secure)


def read_cookie(flow: Flow, header: str | None, *, secure: bool) -> bytes | None:
    """The value in a Cookie header, None without a single one of the right form."""
    if header is None or len(header) > _HEADER_MAX_CHARS:
        return None
    name = _name(flow, secure=secure)
    pairs = (pair.strip(" \t").partition("=") for pair in header.split(";"))
    found = [value for each, _, value in pairs if each == name]
    value = base64url.decode(found[0]) if len(found) == 1 else None
    return value if value is not None and len(value) == SECRET_BYTES else None


def _header(flow: Flow, value: str, age_s: int, *, secure: bool) -> str:
    # A name that begins with __Host- is taken only with Secure and this very path.
    where = "Path=/; Secure" if secure else "Path=/sso"
    name = _name(flow, secure=secure)
    return f"{name}={value}; Max-Age={age_s}; {where}; HttpOnly; SameSite=Lax"


def _name(flow: Flow, *, secure: bool) -> str:
    prefix = "__Host-" if secure else ""
    return f"{prefix}petsem-sso-{flow.id.hex()}"
