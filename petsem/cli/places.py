"""Where an authenticator's answer may send the person, and where it may have us poll.

Guarantees: a page for the person is at an origin that PETSEM_ADDR names or behind https, and a poll
goes to an origin that PETSEM_ADDR names and to nobody else, so that an answer which somebody made
up cannot fetch the poll secret. What does not fit is refused; nothing is quoted but a checked
origin. It opens no connection.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from petsem.cli.addresses import Nodes
from petsem.cli.replies import not_understood
from petsem.errors import PetsemError, invalid

_URL_MAX_CHARS: Final = 8 * 1024
_PORTS: Final = {"http": 80, "https": 443}


class Place(NamedTuple):
    """An origin, such as `https://petsem.example`, and a path there."""

    origin: str
    path: str


def page_at(nodes: Nodes, asked: str, url: str) -> str:
    """The page for the person; `invalid` if it is in clear and PETSEM_ADDR does not name it."""
    whole, parts = _whole(asked, url)
    if parts.scheme != "https" and not _is_named(nodes, parts):
        raise _elsewhere("shows the page to sign in", parts)
    return whole


def poll_at(nodes: Nodes, asked: str, url: str) -> Place:
    """Where to poll; `invalid` if PETSEM_ADDR does not name it."""
    whole, parts = _whole(asked, url)
    if parts.query or parts.fragment:
        raise not_understood()
    if not _is_named(nodes, parts):
        raise _elsewhere("wants to be asked for the discharge", parts)
    origin = whole[: len(whole) - len(parts.path)] if parts.path else whole
    return Place(origin, parts.path)


def _whole(asked: str, url: str) -> tuple[str, SplitResult]:
    """A URL, or a path at the node that was asked, in full."""
    if not 0 < len(url) <= _URL_MAX_CHARS or not url.isascii() or not url.isprintable():
        raise not_understood()
    if " " in url or "\\" in url:
        raise not_understood()
    whole = asked + url if url.startswith("/") and not url.startswith("//") else url
    try:
        parts = urlsplit(whole)
        fits = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise not_understood() from None
    if not fits or parts.username is not None or parts.password is not None:
        raise not_understood()
    return whole, parts


def _is_named(nodes: Nodes, parts: SplitResult) -> bool:
    return _key(parts) in {_key(urlsplit(each)) for each in nodes.urls}


def _key(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def _elsewhere(does: str, parts: SplitResult) -> PetsemError:
    return invalid(
        f"the node {does} at {parts.scheme}://{parts.netloc}, which PETSEM_ADDR does not name; add "
        "it there if it is yours"
    )
