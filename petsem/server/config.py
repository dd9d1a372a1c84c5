"""`petsem.toml`: read strictly, checked whole, and written for `petsem init`.

Guarantees: a `Config` is within its bounds, its paths are absolute, and no key in the file was
ignored. It does not open the files that the keys name, and reads nothing from the environment.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from petsem.errors import PetsemError, invalid
from petsem.replication.retention import Retention
from petsem.server import files
from petsem.server.address import Address
from petsem.server.client_ip import IPNetwork
from petsem.server.config_keys import KEYS, Key
from petsem.server.datadir import DataDir

_CONFIG_MAX_BYTES: Final = 64 * 1024
_MIB: Final = 1024 * 1024
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)
_WHERE_IN_TOML = re.compile(r"\((at (?:line \d+, column \d+|end of document))\)$", re.ASCII)
_SECTIONS: Final = tuple(dict.fromkeys(key.section for key in KEYS))


@dataclass(frozen=True, slots=True)
class NodeConfig:
    region: str


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """`cert` and `key` of a port that speaks TLS; with `client_ca`, clients need certificates."""

    cert: Path
    key: Path
    client_ca: Path | None


@dataclass(frozen=True, slots=True)
class HttpConfig:
    bind: Address
    tls: TlsFiles | None
    trusted_proxies: tuple[IPNetwork, ...]
    open_metrics: bool
    open_schema: bool


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    bind: Address
    tls: TlsFiles | None


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """`upstream` is the first choice of a replica, while a member answers there, and all that it
    knows before it has data."""

    bind: Address
    advertise: Address | None
    upstream: Address | None


@dataclass(frozen=True, slots=True)
class KeyringConfig:
    """Where the keyring is: at most one of the two."""

    file: Path | None
    command: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class SsoConfig:
    url: str | None


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    write_queue: int
    watch_streams: int
    grpc_concurrent_rpcs: int
    http_connections: int
    http_header_deadline_s: float
    http_body_deadline_s: float
    http_keep_alive_s: int
    drain_s: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: Literal["debug", "info", "warning", "error"]
    format: Literal["auto", "json", "pretty"]
    transactions_max_mib: int
    transactions_max_age_h: int
    transactions_keep_mib: int

    @property
    def retention(self) -> Retention:
        """How much of the transaction log is kept."""
        return Retention(
            self.transactions_max_mib * _MIB,
            self.transactions_max_age_h * 3600.0,
            self.transactions_keep_mib * _MIB,
        )


@dataclass(frozen=True, slots=True)
class Config:
    node: NodeConfig
    http: HttpConfig
    grpc: GrpcConfig
    peer: PeerConfig
    keyring: KeyringConfig
    limits: LimitsConfig
    log: LogConfig
    sso: SsoConfig

    def public_url(self, http_port: int) -> str | None:
        """Where people reach the HTTP door, which listens on that port; None if that is not known,
        as off loopback it is not."""
        bind = self.http.bind
        if self.sso.url is not None or not bind.is_loopback:
            return self.sso.url
        scheme = "http" if self.http.tls is None else "https"
        return f"{scheme}://{Address(bind.host, http_port)}"


def load_config(datadir: DataDir) -> Config:
    """The configuration in `datadir`; `invalid` naming the key and its bounds."""
    datadir.require()
    data = files.read_bounded(datadir.config_file, _CONFIG_MAX_BYTES)
    config = parse_config(data, datadir.path)
    # The cluster knows the node by its region, and caveats are held against it.
    if config.node.region != datadir.read_identity().region:
        raise invalid(
            "[node] region in petsem.toml is not the one in node.json; put it back: a node keeps "
            "the region that it was made with"
        )
    return config


def parse_config(data: bytes, base: Path) -> Config:
    """The configuration that `data` spells; relative paths in it are resolved against `base`."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise invalid("petsem.toml is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # The parser's own sentence may quote the file, so only the place is passed on.
        where = _WHERE_IN_TOML.search(str(error))
        raise invalid(f"petsem.toml is not valid TOML{f' {where[1]}' if where else ''}") from None
    _refuse_unknown(document)
    values = {
        section: {key.name: _read(key, document, base) for key in KEYS if key.section == section}
        for section in _SECTIONS
    }
    for section in ("http", "grpc"):
        values[section]["tls"] = _tls(section, values[section])
    if values["keyring"]["file"] is not None and values["keyring"]["command"] is not None:
        raise invalid("[keyring] file and command cannot both be set in petsem.toml; keep one")
    config = Config(
        NodeConfig(**values["node"]),
        HttpConfig(**values["http"]),
        GrpcConfig(**values["grpc"]),
        PeerConfig(**values["peer"]),
        KeyringConfig(**values["keyring"]),
        LimitsConfig(**values["limits"]),
        LogConfig(**values["log"]),
        SsoConfig(**values["sso"]),
    )
    _refuse_shared_binds(config)
    if config.log.transactions_keep_mib > config.log.transactions_max_mib:
        raise invalid(
            "[log] transactions_keep_mib in petsem.toml is more than transactions_max_mib; lower "
            "the one or raise the other"
        )
    return config


def check_binds(config: Config, insecure: bool) -> tuple[str, ...]:
    """Refuse plain text off loopback, unless `insecure`: then one warning for each such port."""
    warnings = []
    for section, door in (("http", config.http), ("grpc", config.grpc)):
        if door.bind.is_loopback or door.tls is not None:
            continue
        what = f"[{section}] bind = {door.bind} is reachable from other machines without TLS"
        if not insecure:
            raise invalid(
                f"{what}; set [{section}] cert and key, bind to 127.0.0.1, or run with --insecure"
            )
        warnings.append(f"{what}: tokens and secrets cross the network in plain text")
    return tuple(warnings)


def render_default(
    region: str,
    *,
    http: Address | None = None,
    grpc: Address | None = None,
    peer: Address | None = None,
    upstream: Address | None = None,
    keyring_file: Path | None = None,
) -> str:
    """The text of a new `petsem.toml`: every key explained, those with a default commented out."""
    chosen: dict[tuple[str, str], str] = {("node", "region"): region}
    for section, address in (("http", http), ("grpc", grpc), ("peer", peer)):
        if address is not None:
            chosen[section, "bind"] = str(address)
    if upstream is not None:
        chosen["peer", "upstream"] = str(upstream)
    if keyring_file is not None:
        chosen["keyring", "file"] = str(keyring_file)
    lines = ["# Petsem node. Relative paths are resolved against this directory."]
    for section in _SECTIONS:
        lines += ["", f"[{section}]"]
        for key in (key for key in KEYS if key.section == section):
            lines += _render_key(key, chosen.get((section, key.name)))
    return "\n".join(lines) + "\n"


def _render_key(key: Key, value: str | None) -> Iterator[str]:
    about = f"{key.about} ({f'{key.unit}, {key.bounds}' if key.bounds else key.unit})"
    yield from textwrap.wrap(
        about.replace("`", ""), 96, initial_indent="# ", subsequent_indent="# "
    )
    if value is None:
        yield f"# {key.name} = {key.default or key.example}"
    else:
        # A JSON string is a TOML basic string too, once DEL is escaped.
        yield f"{key.name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")


def _refuse_unknown(document: dict[str, Any]) -> None:
    known = {section: [k.name for k in KEYS if k.section == section] for section in _SECTIONS}
    for section, table in document.items():
        if section not in known:
            raise _unknown(f"section [{_shown(section)}]", section, list(known))
        if not isinstance(table, dict):
            raise invalid(f"{section} in petsem.toml must be a section, written [{section}]")
        for name in table:
            if name not in known[section]:
                raise _unknown(f"key {_shown(name)} in [{section}]", name, known[section])


def _unknown(what: str, name: str, known: list[str]) -> PetsemError:
    near = difflib.get_close_matches(name[:40], known, 1)
    advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return invalid(f"unknown {what} of petsem.toml; {advice}")


def _shown(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else "(of an unusual name)"


def _read(key: Key, document: dict[str, Any], base: Path) -> Any:
    section = document.get(key.section, {})
    if key.name in section:
        value = section[key.name]
    elif key.default:
        value = tomllib.loads(f"value = {key.default}")["value"]
    elif key.name == "region":
        raise invalid("[node] region is missing from petsem.toml")
    else:
        return None
    try:
        return key.read(value, base)
    except PetsemError as error:
        raise invalid(f"[{key.section}] {key.name} in petsem.toml: {error.message}") from None
    except ValueError:
        bounds = f", {key.bounds}" if key.bounds else ""
        raise invalid(
            f"[{key.section}] {key.name} in petsem.toml: expected {key.unit}{bounds}"
        ) from None


def _tls(section: str, values: dict[str, Any]) -> TlsFiles | None:
    """Take the three TLS keys out of `values` as one value, or None for plain text."""
    cert, key, client_ca = (values.pop(name) for name in ("cert", "key", "client_ca"))
    if (cert is None) != (key is None):
        raise invalid(f"[{section}] cert and key in petsem.toml are set together or not at all")
    if cert is None and client_ca is not None:
        raise invalid(f"[{section}] client_ca in petsem.toml needs cert and key as well")
    return None if cert is None else TlsFiles(cert, key, client_ca)


def _refuse_shared_binds(config: Config) -> None:
    binds = [config.http.bind, config.grpc.bind, config.peer.bind]
    fixed = [bind for bind in binds if bind.port]
    if len(set(fixed)) != len(fixed):
        raise invalid("[http], [grpc] and [peer] bind in petsem.toml must differ from each other")
