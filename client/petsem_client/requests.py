"""What a caller asks for, checked before anything is sent.

Guarantees: names and numbers are within the limits of the contract, so a node refuses nothing here
for its form; `invalid` says what is wrong without quoting it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from petsem.errors import invalid
from petsem.limits import APP_MAX_SECRETS, VERSION_MAX
from petsem.model import Position, check_attribute, check_secret_name, split_app
from petsem.tokens.caveats import one_of
from petsem.wire import petsem_pb2 as pb
from petsem_client.bundle import Bundle
from petsem_client.narrowing import FETCH_LIFE_S, WATCH_LIFE_S, Scope

_EPOCH_MAX: Final = 2**32 - 1
_TXID_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Fetch:
    """One fetch, whichever node answers it."""

    org: str
    app: str
    machine: str | None
    version: int = 0
    min_version: int = 0
    min_position: Position | None = None
    names: tuple[str, ...] = ()
    known: Bundle | None = field(default=None)
    durable: bool = False

    @property
    def scope(self) -> Scope:
        """What the token is narrowed to for this fetch."""
        return Scope(self.org, self.app, self.machine, FETCH_LIFE_S)

    @property
    def may_wait(self) -> bool:
        """Whether a healthy node may hold the answer back until it has caught up."""
        return bool(self.version or self.min_version or self.min_position or self.durable)

    def encode(self) -> bytes:
        """The FetchRequest, serialised."""
        request = pb.FetchRequest(
            org=self.org,
            app=self.app,
            machine=self.machine or "",
            version=self.version,
            min_version=self.min_version,
            known_etag=b"" if self.known is None else self.known.etag,
            names=self.names,
            durable=self.durable,
        )
        if self.min_position is not None:
            request.min_position.epoch = self.min_position.epoch
            request.min_position.txid = self.min_position.txid
        return request.SerializeToString()


@dataclass(frozen=True, slots=True)
class Watch:
    """One app watched, over as many streams as it takes."""

    org: str
    app: str
    machine: str | None
    after_version: int = 0

    @property
    def scope(self) -> Scope:
        """What the token is narrowed to for each stream."""
        return Scope(self.org, self.app, self.machine, WATCH_LIFE_S)

    def encode(self, after_version: int) -> bytes:
        """The WatchRequest for what is newer than `after_version`, serialised."""
        return pb.WatchRequest(
            org=self.org, app=self.app, machine=self.machine or "", after_version=after_version
        ).SerializeToString()


def checked_fetch(
    app: str,
    *,
    machine: str | None,
    version: int,
    min_version: int,
    min_position: Position | None,
    names: Sequence[str],
    known: Bundle | None,
    durable: bool,
) -> Fetch:
    """The fetch that these arguments of `SecretReader.fetch` describe."""
    org, name = split_app(app)
    if isinstance(names, str) or len(names) > APP_MAX_SECRETS:
        raise invalid(f"names is a list of at most {APP_MAX_SECRETS} secrets' names")
    wanted = tuple(check_secret_name(each) for each in names)
    if len(set(wanted)) != len(wanted):
        raise invalid("names has one name twice")
    if known is not None and known.app != app:
        raise invalid("the known bundle is another app's")
    if min_position is not None and not (
        0 <= min_position.epoch <= _EPOCH_MAX and 0 <= min_position.txid <= _TXID_MAX
    ):
        raise invalid("min_position is out of range")
    return Fetch(
        org,
        name,
        _checked_machine(machine),
        _checked_version(version, "version"),
        _checked_version(min_version, "min_version"),
        min_position,
        wanted,
        known,
        durable,
    )


def checked_watch(app: str, *, machine: str | None, after_version: int) -> Watch:
    """The watch that these arguments of `SecretReader.watch` describe."""
    org, name = split_app(app)
    return Watch(
        org, name, _checked_machine(machine), _checked_version(after_version, "after_version")
    )


def _checked_machine(machine: str | None) -> str | None:
    if machine is not None:
        one_of("machine", check_attribute(machine, "machine"))
    return machine


def _checked_version(version: int, what: str) -> int:
    if not 0 <= version <= VERSION_MAX:
        raise invalid(f"{what} is 0 to {VERSION_MAX}")
    return version
