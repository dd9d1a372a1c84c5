"""The nouns that every layer shares: names, positions, freshness.

Guarantees: a value of these types is within its bounds. It does not know about storage or wire.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from petsem import limits
from petsem.errors import PetsemError, invalid

_ORG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,254}", re.ASCII)
_ATTRIBUTE = re.compile(rf"[\x21-\x2b\x2d-\x7e]{{1,{limits.MACHINE_MAX_CHARS}}}", re.ASCII)
_HOST_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_POSITION = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})(?:-([0-9a-f]{16}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=False)
class Position:
    """Where a database stands: epoch (32 bits), TXID (64 bits), and after capture a checksum.

    Text: `EPOCH-TXID` or `EPOCH-TXID-CHECKSUM`, 8, 16 and 16 lower-case hexadecimal digits.
    """

    epoch: int
    txid: int
    checksum: int | None = None

    def __str__(self) -> str:
        head = f"{self.epoch:08x}-{self.txid:016x}"
        return head if self.checksum is None else f"{head}-{self.checksum:016x}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that `text` spells; `invalid` for any other spelling."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise invalid("a position is EPOCH-TXID or EPOCH-TXID-CHECKSUM in hexadecimal digits")
        epoch, txid, checksum = match.groups()
        return cls(int(epoch, 16), int(txid, 16), None if checksum is None else int(checksum, 16))


class Role(enum.IntEnum):
    """What a node is; the numbers are the wire's."""

    UNKNOWN = 0
    LEADER = 1
    REPLICA = 2


class Source(enum.IntEnum):
    """Where an answer came from; the numbers are the wire's."""

    UNKNOWN = 0
    DISK = 1
    UPSTREAM = 2


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh an answer is. What is unknown is None, never 0."""

    node: str
    region: str
    role: Role
    position: Position
    server_time_ms: int
    source: Source = Source.DISK
    lag_ms: int | None = None
    leader_seen_ms_ago: int | None = None
    replicated: Position | None = None


class Kind(enum.IntEnum):
    """What a token stands for: one byte in its identifier."""

    OPERATOR = 1
    ORG = 2
    DEPLOY = 3
    READ_ONLY = 4
    HOST = 5
    SERVICE = 6
    PERSON = 7

    @property
    def text(self) -> str:
        """The kind as JSON, the CLI and subjects spell it, such as `read-only`."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def from_text(cls, text: str) -> Kind:
        for kind in cls:
            if kind.text == text:
                return kind
        raise invalid("kind must be one of " + ", ".join(kind.text for kind in cls))


_HOUR_S: Final = 3600
LIFE_DEFAULT_S: Final = {
    Kind.OPERATOR: 24 * _HOUR_S,
    Kind.ORG: 90 * 24 * _HOUR_S,
    Kind.DEPLOY: 90 * 24 * _HOUR_S,
    Kind.READ_ONLY: 90 * 24 * _HOUR_S,
    Kind.HOST: 90 * 24 * _HOUR_S,
    Kind.SERVICE: _HOUR_S // 4,
    Kind.PERSON: 12 * _HOUR_S,
}
"""How long a token of each kind lives if nobody says."""


def check_org(name: str) -> str:
    """`name`, if it may name an org."""
    if _ORG.fullmatch(name) is None:
        raise _bad_tenant("an org")
    return name


def check_app(name: str) -> str:
    """`name`, if it may name an app."""
    if _ORG.fullmatch(name) is None:
        raise _bad_tenant("an app")
    return name


def check_node(name: str) -> str:
    """`name`, if it may name a node."""
    if _ORG.fullmatch(name) is None:
        raise _bad_tenant("a node")
    return name


def check_secret_name(name: str) -> str:
    """`name`, if it may name a secret."""
    if _SECRET.fullmatch(name) is None:
        raise invalid(
            "a secret's name is a letter or underscore followed by letters, digits, '_', '.' or "
            f"'-', at most {limits.SECRET_NAME_MAX_CHARS} characters"
        )
    return name


def check_attribute(value: str, what: str) -> str:
    """`value`, if a caveat could name it: printable ASCII, no comma, no space."""
    if _ATTRIBUTE.fullmatch(value) is None:
        raise invalid(
            f"{what} must be 1 to {limits.MACHINE_MAX_CHARS} printable ASCII characters without "
            "comma or space"
        )
    return value


def is_host_key(text: str) -> bool:
    """Whether `text` may name a host's public key: a SHA-256 in lower-case hexadecimal digits."""
    return _HOST_KEY.fullmatch(text) is not None


def split_app(text: str) -> tuple[str, str]:
    """`ORG/APP` as its two checked names."""
    org, slash, app = text.partition("/")
    if not slash:
        raise invalid("an app is written ORG/APP")
    return check_org(org), check_app(app)


def _bad_tenant(what: str) -> PetsemError:
    return invalid(
        f"{what}'s name is 1 to {limits.ORG_NAME_MAX_CHARS} lower-case letters, digits and "
        "hyphens, with no hyphen first or last"
    )
