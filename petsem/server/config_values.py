"""What a value in `petsem.toml` may be: one reader for each kind.

Guarantees: a reader takes what TOML made of the value and the directory that paths are resolved
against, and gives the value or raises ValueError or `PetsemError`; a value of another type is
refused, and lengths and numbers are bounded. It knows no key and opens nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from petsem.server.address import Address
from petsem.server.client_ip import IPNetwork
from petsem.server.datadir import check_region

COMMAND_MAX_WORDS: Final = 64
NETWORKS_MAX: Final = 64
COUNT_MAX: Final = 65_536
TIME_MIN_S: Final = 0.1
TIME_MAX_S: Final = 3_600.0

_TEXT_MAX_CHARS: Final = 4096


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_MAX_CHARS or "\0" in value:
        raise ValueError
    return value


def region(value: Any, _base: Path) -> str:
    """What a region may be called."""
    return check_region(_text(value))


def address(value: Any, _base: Path) -> Address:
    """Where to listen."""
    return Address.parse(_text(value))


def reachable(value: Any, base: Path) -> Address:
    """Where others connect, which no free port can be."""
    found = address(value, base)
    if found.port == 0:
        raise ValueError
    return found


def public_url(value: Any, _base: Path) -> str:
    """Scheme, host and port, and nothing that a browser or a page would read otherwise."""
    url = _text(value).removesuffix("/")
    if not (url.isascii() and url.isprintable()) or any(c in url for c in " ?#@\\\"'<>;,"):
        raise ValueError
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0 or parts.path:
        raise ValueError
    loopback = Address(parts.hostname, 0).is_loopback
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ValueError
    return url


def path(value: Any, base: Path) -> Path:
    """A path, resolved against the directory `base`."""
    return base / _text(value)


def flag(value: Any, _base: Path) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError
    return value


def networks(value: Any, _base: Path) -> tuple[IPNetwork, ...]:
    """Networks in CIDR form."""
    if not isinstance(value, list) or len(value) > NETWORKS_MAX:
        raise ValueError
    # `ip_network` takes integers too, so the type is checked first.
    return tuple(ipaddress.ip_network(_text(item)) for item in value)


def command(value: Any, _base: Path) -> tuple[str, ...]:
    """A program and its arguments."""
    if not isinstance(value, list) or not 0 < len(value) <= COMMAND_MAX_WORDS:
        raise ValueError
    return tuple(_text(item) for item in value)


def one_of(*choices: str) -> Callable[[Any, Path], str]:
    """A reader of one of these words."""

    def read(value: Any, _base: Path) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return read


def count(value: Any, _base: Path) -> int:
    """How many of something, at least one."""
    if type(value) is not int or not 1 <= value <= COUNT_MAX:
        raise ValueError
    return value


def seconds(value: Any, _base: Path) -> float:
    """A time, in seconds or a fraction of one."""
    # `not (a <= value <= b)` also refuses NaN.
    if type(value) not in (int, float) or not TIME_MIN_S <= value <= TIME_MAX_S:
        raise ValueError
    return float(value)


def whole_seconds(value: Any, _base: Path) -> int:
    """A time in seconds, for those who cannot wait for a fraction of one."""
    if type(value) is not int or not 1 <= value <= TIME_MAX_S:
        raise ValueError
    return value


def between(least: int, most: int) -> Callable[[Any, Path], int]:
    """A reader of an integer; both bounds are allowed."""

    def read(value: Any, _base: Path) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return read
