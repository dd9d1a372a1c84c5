"""Which nodes to ask, and how the way to them is protected.

Guarantees: an address is a plain HTTP or HTTPS URL without user, query or fragment; a token or a
secret goes in clear only to this machine itself, unless `--insecure` was given; no error quotes an
address that did not parse. It opens no connection.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from petsem.errors import invalid
from petsem.server.files import require_private


@dataclass(frozen=True, slots=True)
class Nodes:
    """Base URLs in the order in which they are tried, and the TLS files for them."""

    urls: tuple[str, ...]
    ca: Path | None
    cert: Path | None
    key: Path | None

    @classmethod
    def of_environ(cls, environ: Mapping[str, str], *, insecure: bool) -> Nodes:
        """What `PETSEM_ADDR`, `PETSEM_CA`, `PETSEM_CERT` and `PETSEM_KEY` say."""
        listed = [text.strip() for text in environ.get("PETSEM_ADDR", "").split(",")]
        urls = tuple(_url(text, number, insecure) for number, text in enumerate(listed, 1) if text)
        if not urls:
            raise invalid(
                "no node is named; set PETSEM_ADDR, such as PETSEM_ADDR=http://127.0.0.1:7400"
            )
        paths = (_path(environ, name) for name in ("PETSEM_CA", "PETSEM_CERT", "PETSEM_KEY"))
        nodes = cls(urls, *paths)
        if (nodes.cert is None) != (nodes.key is None):
            raise invalid("PETSEM_CERT and PETSEM_KEY belong together; set both or neither")
        return nodes

    def tls(self) -> ssl.SSLContext:
        """The TLS settings: the system's CAs or `ca`, and our certificate if there is one."""
        if self.key is not None:
            require_private(self.key)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise invalid(
                "the files of PETSEM_CA, PETSEM_CERT and PETSEM_KEY cannot be used; "
                "they must be PEM, readable, and the key must be the certificate's"
            ) from error
        return context


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


def _url(text: str, number: int, insecure: bool) -> str:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _bad(number) from None
    if parts.scheme not in ("http", "https") or not host or not text.isprintable():
        raise _bad(number)
    if parts.username is not None or parts.query or parts.fragment:
        raise _bad(number)
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        raise invalid(
            f"address {number} of PETSEM_ADDR is plain http to another machine, which would send "
            "token and secrets in clear; use https, or --insecure if the network is trusted"
        )
    return text.rstrip("/")


def _bad(number: int) -> Exception:
    return invalid(
        f"address {number} of PETSEM_ADDR is not a URL such as https://petsem.example:7400"
    )


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
