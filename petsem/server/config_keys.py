"""Every key of `petsem.toml`: its default, its unit, its bounds and what it accepts.

Guarantees: this table is the only list of keys; the parser, the file that `petsem init` writes and
the page `docs/configuration.md` all follow it. It checks one key at a time; `config` checks what
two keys must agree on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from petsem import limits
from petsem.errors import PetsemError, invalid
from petsem.server.client_ip import IPNetwork
from petsem.server.datadir import check_region

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_ALL_DIGITS_AND_DOTS = re.compile(r"[0-9.]+", re.ASCII)
_TEXT_MAX_CHARS: Final = 4096
_COMMAND_MAX_WORDS: Final = 64
_PROXIES_MAX: Final = 64
_SIZE_MAX: Final = 65_536
_TIME_MAX_S: Final = 3_600.0
_TIME_MIN_S: Final = 0.1

DRAIN_S: Final = 20
HTTP_KEEP_ALIVE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an IP address or a host name, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True only for what this machine alone can reach; a name other than localhost is not."""
        if self.host.lower() == "localhost":
            return True
        try:
            found = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            return found.ipv4_mapped.is_loopback
        return found.is_loopback

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, an IPv6 host in brackets; `invalid` for anything else."""
        host, colon, port = text.rpartition(":")
        if not colon or _PORT.fullmatch(port) is None or int(port) > 65_535:
            raise _not_an_address()
        try:
            if host.startswith("[") and host.endswith("]"):
                return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            if _ALL_DIGITS_AND_DOTS.fullmatch(host):
                return cls(str(ipaddress.IPv4Address(host)), int(port))
        except ValueError:
            raise _not_an_address() from None
        if _HOST_NAME.fullmatch(host) is None:
            raise _not_an_address()
        return cls(host, int(port))


def _not_an_address() -> PetsemError:
    return invalid("an address is HOST:PORT, such as 127.0.0.1:7400, [::1]:7400 or 0.0.0.0:7400")


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `read` turns what TOML holds into the value, or raises ValueError or PetsemError.

    `default` and `example` are spelled as TOML; an empty default means that the key is not set.
    """

    section: str
    name: str
    read: Callable[[Any, Path], Any]
    default: str
    unit: str
    bounds: str
    about: str
    example: str = ""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _TEXT_MAX_CHARS or "\0" in value:
        raise ValueError
    return value


def _region(value: Any, _base: Path) -> str:
    return check_region(_text(value))


def _address(value: Any, _base: Path) -> Address:
    return Address.parse(_text(value))


def _reachable(value: Any, base: Path) -> Address:
    found = _address(value, base)
    if found.port == 0:
        raise ValueError
    return found


def _public_url(value: Any, _base: Path) -> str:
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


def _path(value: Any, base: Path) -> Path:
    return base / _text(value)


def _flag(value: Any, _base: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _networks(value: Any, _base: Path) -> tuple[IPNetwork, ...]:
    if not isinstance(value, list) or len(value) > _PROXIES_MAX:
        raise ValueError
    # `ip_network` takes integers too, so the type is checked first.
    return tuple(ipaddress.ip_network(_text(item)) for item in value)


def _command(value: Any, _base: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _COMMAND_MAX_WORDS:
        raise ValueError
    return tuple(_text(item) for item in value)


def _one_of(*choices: str) -> Callable[[Any, Path], str]:
    def read(value: Any, _base: Path) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return read


def _count(value: Any, _base: Path) -> int:
    if type(value) is not int or not 1 <= value <= _SIZE_MAX:
        raise ValueError
    return value


def _seconds(value: Any, _base: Path) -> float:
    # `not (a <= value <= b)` also refuses NaN.
    if type(value) not in (int, float) or not _TIME_MIN_S <= value <= _TIME_MAX_S:
        raise ValueError
    return float(value)


def _whole_seconds(value: Any, _base: Path) -> int:
    if type(value) is not int or not 1 <= value <= _TIME_MAX_S:
        raise ValueError
    return value


def _between(least: int, most: int) -> Callable[[Any, Path], int]:
    def read(value: Any, _base: Path) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    return read


def _bounds(least: int, most: int) -> str:
    return f"{least} to {most}"


_MIB = 1024 * 1024
_LOG_MAX_MIB = (16, 1024 * 1024)
_LOG_AGE_H = (1, 366 * 24)
_LOG_KEEP_MIB = (0, 1024 * 1024)
_BIND = "HOST:PORT; port 0 takes any free one"
_PEM = "path of a PEM file"
_COUNT_BOUNDS = f"1 to {_SIZE_MAX}"
_TIME_BOUNDS = f"{_TIME_MIN_S} to {_TIME_MAX_S:g}"
_WHOLE_TIME_BOUNDS = f"1 to {_TIME_MAX_S:g}"


def _size_key(name: str, default: int, unit: str, about: str) -> Key:
    return Key("limits", name, _count, str(default), unit, _COUNT_BOUNDS, about)


def _time_key(name: str, default: float, about: str) -> Key:
    return Key("limits", name, _seconds, str(default), "seconds", _TIME_BOUNDS, about)


def _whole_time_key(name: str, default: int, about: str) -> Key:
    unit = "whole seconds"
    return Key("limits", name, _whole_seconds, str(default), unit, _WHOLE_TIME_BOUNDS, about)


def _tls_keys(section: str) -> tuple[Key, ...]:
    return (
        Key(
            section,
            "cert",
            _path,
            "",
            "path",
            _PEM,
            "Server certificate with its chain; set together with `key`. Without it the port "
            "speaks plain text and may be bound to loopback only.",
            f'"tls/{section}.pem"',
        ),
        Key(
            section,
            "key",
            _path,
            "",
            "path",
            _PEM + ", mode 0600",
            "Private key of `cert`.",
            f'"tls/{section}.key"',
        ),
        Key(
            section,
            "client_ca",
            _path,
            "",
            "path",
            _PEM,
            "Clients must show a certificate that one of these authorities signed; needs `cert`.",
            '"tls/clients.pem"',
        ),
    )


KEYS: Final[tuple[Key, ...]] = (
    Key(
        "node",
        "region",
        _region,
        "",
        "name",
        f"1 to {limits.REGION_MAX_CHARS} lower-case letters, digits and hyphens",
        "Where this node stands; it must be the region that `petsem init` was given.",
        '"local"',
    ),
    Key(
        "http",
        "bind",
        _address,
        '"127.0.0.1:7400"',
        "address",
        _BIND,
        "Where HTTP clients connect. Off loopback it needs TLS, or `petsem serve --insecure`.",
    ),
    *_tls_keys("http"),
    Key(
        "http",
        "trusted_proxies",
        _networks,
        "[]",
        "list of networks",
        f"at most {_PROXIES_MAX} in CIDR form",
        "Peers whose `X-Forwarded-For` is believed; of nobody else is it read.",
        '["10.0.0.0/8"]',
    ),
    Key(
        "http",
        "open_metrics",
        _flag,
        "false",
        "true or false",
        "",
        "Answer `/metrics` without a token.",
    ),
    Key(
        "http",
        "open_schema",
        _flag,
        "true",
        "true or false",
        "",
        "Answer `/schema` and gRPC reflection without a token; if false any valid token will do.",
    ),
    Key(
        "grpc",
        "bind",
        _address,
        '"127.0.0.1:7401"',
        "address",
        _BIND,
        "Where gRPC clients connect. Off loopback it needs TLS, or `petsem serve --insecure`.",
    ),
    *_tls_keys("grpc"),
    Key(
        "peer",
        "bind",
        _address,
        '"127.0.0.1:7402"',
        "address",
        _BIND,
        "Where other nodes connect; always mutual TLS with the cluster's own certificates.",
    ),
    Key(
        "peer",
        "advertise",
        _reachable,
        "",
        "address",
        "HOST:PORT, no port 0",
        "Where other nodes reach this one, if that is not `bind`: behind address translation, or "
        "with `bind` on all addresses.",
        '"ams.example.net:7402"',
    ),
    Key(
        "peer",
        "upstream",
        _reachable,
        "",
        "address",
        "HOST:PORT, no port 0",
        "The peer port of the node that a replica follows at its first start; later its own "
        "database says where the others are. `petsem join` writes it.",
        '"10.0.0.1:7402"',
    ),
    Key(
        "keyring",
        "file",
        _path,
        "",
        "path",
        "a file of mode 0600",
        "The keyring. With neither `file` nor `command`: `DIR.keyring.json` beside the data "
        "directory. `PETSEM_KEYRING` and a systemd credential `petsem.keyring` come first.",
        '"/etc/petsem/keyring.json"',
    ),
    Key(
        "keyring",
        "command",
        _command,
        "",
        "list of words",
        f"1 to {_COMMAND_MAX_WORDS}",
        "A program that prints the keyring within 10 seconds; run without a shell, in the data "
        "directory. Not together with `file`.",
        '["/usr/local/bin/fetch-keyring", "petsem"]',
    ),
    Key(
        "sso",
        "url",
        _public_url,
        "",
        "URL",
        "https://HOST or https://HOST:PORT; http on loopback",
        "Where browsers and the command line reach the leader's HTTP port, or any node's: what "
        "people are sent to when they sign in. Not set: `[http] bind`, if that is on loopback.",
        '"https://petsem.example.net"',
    ),
    _size_key(
        "write_queue",
        limits.WRITE_QUEUE_MAX,
        "requests",
        "Writes that may wait for their turn; more are answered 429 (`limit`).",
    ),
    _size_key(
        "watch_streams",
        limits.GRPC_STREAMS_MAX,
        "streams",
        "Streams that watch for changes, open at once.",
    ),
    _size_key(
        "grpc_concurrent_rpcs",
        limits.GRPC_CONCURRENT_RPCS_MAX,
        "calls",
        "gRPC calls in progress at once; more are answered RESOURCE_EXHAUSTED.",
    ),
    _size_key(
        "http_connections",
        limits.HTTP_CONNECTIONS_MAX,
        "connections",
        "HTTP connections open at once; more are answered 503 and closed.",
    ),
    _time_key(
        "http_header_deadline_s",
        limits.HTTP_HEADER_DEADLINE_S,
        "A request's header must be complete this long after its first byte.",
    ),
    _time_key(
        "http_body_deadline_s",
        limits.HTTP_BODY_DEADLINE_S,
        "A request's body must be complete this long after its header.",
    ),
    _whole_time_key(
        "http_keep_alive_s",
        HTTP_KEEP_ALIVE_S,
        "An idle HTTP connection is closed after this long.",
    ),
    _whole_time_key(
        "drain_s",
        DRAIN_S,
        "On SIGTERM, requests in progress have this long to finish.",
    ),
    Key(
        "log",
        "level",
        _one_of("debug", "info", "warning", "error"),
        '"info"',
        "word",
        "debug, info, warning or error",
        "The least important records that are written.",
    ),
    Key(
        "log",
        "format",
        _one_of("auto", "json", "pretty"),
        '"auto"',
        "word",
        "auto, json or pretty",
        "One JSON object a line, or lines for people; `auto` is pretty on a terminal only.",
    ),
    Key(
        "log",
        "transactions_max_mib",
        _between(*_LOG_MAX_MIB),
        str(limits.LOG_MAX_BYTES // _MIB),
        "MiB",
        _bounds(*_LOG_MAX_MIB),
        "The transaction log in `ltx/`. Beyond it the oldest transactions go, whoever still needs "
        "them; a replica that does takes a snapshot.",
    ),
    Key(
        "log",
        "transactions_max_age_h",
        _between(*_LOG_AGE_H),
        str(int(limits.LOG_MAX_AGE_S) // 3600),
        "hours",
        _bounds(*_LOG_AGE_H),
        "Transactions older than this go, whoever still needs them. Whole segments do, so some "
        "stay for a seventh longer, at most a day.",
    ),
    Key(
        "log",
        "transactions_keep_mib",
        _between(*_LOG_KEEP_MIB),
        str(limits.LOG_KEPT_BYTES // _MIB),
        "MiB",
        _bounds(*_LOG_KEEP_MIB),
        "Of the transaction log, kept although every replica has it, for one that connects again. "
        "At most `transactions_max_mib`.",
    ),
)
