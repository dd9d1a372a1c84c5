"""Every key of `petsem.toml`: its default, its unit, its bounds and what it accepts.

Guarantees: this table is the only list of keys; the parser, the file that `petsem init` writes and
the page `docs/configuration.md` all follow it. It checks one key at a time; `config` checks what
two keys must agree on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from petsem import limits
from petsem.server import config_values as values

_DRAIN_S: Final = 20
_HTTP_KEEP_ALIVE_S: Final = 60


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


def _bounds(least: int, most: int) -> str:
    return f"{least} to {most}"


_MIB = 1024 * 1024
_LOG_MAX_MIB = (16, 1024 * 1024)
_LOG_AGE_H = (1, 366 * 24)
_LOG_KEEP_MIB = (0, 1024 * 1024)
_BIND = "HOST:PORT; port 0 takes any free one"
_PEM = "path of a PEM file"
_COUNT_BOUNDS = f"1 to {values.COUNT_MAX}"
_TIME_BOUNDS = f"{values.TIME_MIN_S} to {values.TIME_MAX_S:g}"
_WHOLE_TIME_BOUNDS = f"1 to {values.TIME_MAX_S:g}"


def _size_key(name: str, default: int, unit: str, about: str) -> Key:
    return Key("limits", name, values.count, str(default), unit, _COUNT_BOUNDS, about)


def _time_key(name: str, default: float, about: str) -> Key:
    return Key("limits", name, values.seconds, str(default), "seconds", _TIME_BOUNDS, about)


def _whole_time_key(name: str, default: int, about: str) -> Key:
    unit = "whole seconds"
    return Key("limits", name, values.whole_seconds, str(default), unit, _WHOLE_TIME_BOUNDS, about)


def _tls_keys(section: str) -> tuple[Key, ...]:
    return (
        Key(
            section,
            "cert",
            values.path,
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
            values.path,
            "",
            "path",
            _PEM + ", mode 0600",
            "Private key of `cert`.",
            f'"tls/{section}.key"',
        ),
        Key(
            section,
            "client_ca",
            values.path,
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
        values.region,
        "",
        "name",
        f"1 to {limits.REGION_MAX_CHARS} lower-case letters, digits and hyphens",
        "Where this node stands; it must be the region that `petsem init` was given.",
        '"local"',
    ),
    Key(
        "http",
        "bind",
        values.address,
        '"127.0.0.1:7400"',
        "address",
        _BIND,
        "Where HTTP clients connect. Off loopback it needs TLS, or `petsem serve --insecure`.",
    ),
    *_tls_keys("http"),
    Key(
        "http",
        "trusted_proxies",
        values.networks,
        "[]",
        "list of networks",
        f"at most {values.NETWORKS_MAX} in CIDR form",
        "Peers whose `X-Forwarded-For` is believed; of nobody else is it read.",
        '["10.0.0.0/8"]',
    ),
    Key(
        "http",
        "open_metrics",
        values.flag,
        "false",
        "true or false",
        "",
        "Answer `/metrics` without a token.",
    ),
    Key(
        "http",
        "open_schema",
        values.flag,
        "true",
        "true or false",
        "",
        "Answer `/schema` and gRPC reflection without a token; if false any valid token will do.",
    ),
    Key(
        "grpc",
        "bind",
        values.address,
        '"127.0.0.1:7401"',
        "address",
        _BIND,
        "Where gRPC clients connect. Off loopback it needs TLS, or `petsem serve --insecure`.",
    ),
    *_tls_keys("grpc"),
    Key(
        "peer",
        "bind",
        values.address,
        '"127.0.0.1:7402"',
        "address",
        _BIND,
        "Where other nodes connect; always mutual TLS with the cluster's own certificates.",
    ),
    Key(
        "peer",
        "advertise",
        values.reachable,
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
        values.reachable,
        "",
        "address",
        "HOST:PORT, no port 0",
        "The peer port of the node that a replica follows first, as long as that is a member of "
        "the cluster; else, and while it is not reached, the leader and then members that are "
        "near. `petsem join` writes the leader's.",
        '"10.0.0.1:7402"',
    ),
    Key(
        "keyring",
        "file",
        values.path,
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
        values.command,
        "",
        "list of words",
        f"1 to {values.COMMAND_MAX_WORDS}",
        "A program that prints the keyring within 10 seconds; run without a shell, in the data "
        "directory. Not together with `file`.",
        '["/usr/local/bin/fetch-keyring", "petsem"]',
    ),
    Key(
        "sso",
        "url",
        values.public_url,
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
        _HTTP_KEEP_ALIVE_S,
        "An idle HTTP connection is closed after this long.",
    ),
    _whole_time_key(
        "drain_s",
        _DRAIN_S,
        "On SIGTERM, requests in progress have this long to finish.",
    ),
    Key(
        "log",
        "level",
        values.one_of("debug", "info", "warning", "error"),
        '"info"',
        "word",
        "debug, info, warning or error",
        "The least important records that are written.",
    ),
    Key(
        "log",
        "format",
        values.one_of("auto", "json", "pretty"),
        '"auto"',
        "word",
        "auto, json or pretty",
        "One JSON object a line, or lines for people; `auto` is pretty on a terminal only.",
    ),
    Key(
        "log",
        "transactions_max_mib",
        values.between(*_LOG_MAX_MIB),
        str(limits.LOG_MAX_BYTES // _MIB),
        "MiB",
        _bounds(*_LOG_MAX_MIB),
        "The transaction log in `ltx/`. Beyond it the oldest transactions go, whoever still needs "
        "them; a replica that does takes a snapshot.",
    ),
    Key(
        "log",
        "transactions_max_age_h",
        values.between(*_LOG_AGE_H),
        str(int(limits.LOG_MAX_AGE_S) // 3600),
        "hours",
        _bounds(*_LOG_AGE_H),
        "Transactions older than this go, whoever still needs them. Whole segments do, so some "
        "stay for a seventh longer, at most a day.",
    ),
    Key(
        "log",
        "transactions_keep_mib",
        values.between(*_LOG_KEEP_MIB),
        str(limits.LOG_KEPT_BYTES // _MIB),
        "MiB",
        _bounds(*_LOG_KEEP_MIB),
        "Of the transaction log, kept although every replica has it, for one that connects again. "
        "At most `transactions_max_mib`.",
    ),
)
