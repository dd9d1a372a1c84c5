"""Which URLs a provider may name.

Guarantees: https, and never a URL that names this machine itself unless the issuer is on it too, so
that no provider can have a node ask, or send a browser to, what only the machine itself can reach.
Names are not resolved: what one leads to, the certificate that https asks for has to answer for.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

URL_MAX_CHARS: Final = 2 * 1024


def is_loopback(url: str) -> bool:
    """Whether `url` is on this very machine."""
    try:
        host = (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    # Whoever connects to no address in particular connects to itself.
    return address.is_loopback or address.is_unspecified


def may_ask(url: object, issuer: str) -> bool:
    """Whether a provider with that issuer may name `url` as one of its own."""
    if not isinstance(url, str) or not 0 < len(url) <= URL_MAX_CHARS:
        return False
    if not (url.isascii() and url.isprintable()) or any(mark in url for mark in "#\\ \"'<>;,"):
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.password is not None:
        return False
    if is_loopback(url):
        return parts.scheme in ("http", "https") and is_loopback(issuer)
    return parts.scheme == "https"


def leads_to(endpoint: str) -> str:
    """Where a form may lead that ends at a provider, for a page's policy. Chromium holds each
    redirect after a form against it, and providers send browsers on to other hosts of theirs."""
    if not is_loopback(endpoint):
        return "https:"
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}"
