"""Who is told where a replica is: its readers, those who wait for a position, and the node.

Guarantees: readers are told only of what is applied; whether this program may read what a newer one
wrote is looked at before. All of it runs on the loop. It decides nothing and touches no file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import apsw
import structlog

from petsem.errors import PetsemError
from petsem.model import Position
from petsem.server.changes import Changes
from petsem.server.cluster_view import ClusterView
from petsem.server.database import ReadPool
from petsem.server.replica.lost import Lost
from petsem.server.schema import too_new_to_read

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Listeners:
    """Who is told, on the loop. `jumped`: the database is of another branch or moved by a
    snapshot, so connections and what was cached from them are to be let go. `trouble`: only a
    snapshot helps, and why. `lost`: a branch was given up."""

    durable: list[Callable[[Position], None]] = field(default_factory=list)
    applied: list[Callable[[Position], None]] = field(default_factory=list)
    jumped: list[Callable[[], None]] = field(default_factory=list)
    trouble: list[Callable[[str], None]] = field(default_factory=list)
    lost: list[Callable[[Lost], None]] = field(default_factory=list)


class Telling:
    """Readers learn it from `view`, those who wait from `changes`, and the rest are `listeners`."""

    def __init__(
        self, pool: ReadPool, view: ClusterView, changes: Changes, listeners: Listeners
    ) -> None:
        self._pool = pool
        self._view = view
        self._changes = changes
        self._listeners = listeners

    def durable(self, end: Position) -> None:
        """The log is on the disk up to `end`."""
        for tell in self._listeners.durable:
            tell(end)

    def readable(self, position: Position) -> None:
        """Readers see `position`, if this program is one that may read it."""
        with contextlib.suppress(apsw.Error, PetsemError), self._pool.reading() as db:
            unreadable = too_new_to_read(db)
            if unreadable != self._view.unreadable:
                log.warning("schema_changed", message=unreadable or "the data can be read again")
            self._view.unreadable = unreadable
        self._view.has_applied(position)

    def applied(self, position: Position) -> None:
        """The database has moved on to `position`."""
        self.readable(position)
        self._changes.publish_applied()
        for tell in self._listeners.applied:
            tell(position)

    def jumped(self, at: Position) -> None:
        """Log and database were put to `at` by a snapshot."""
        for jump in self._listeners.jumped:
            jump()
        self.readable(at)
        self._changes.publish_all()
        for tell in (*self._listeners.durable, *self._listeners.applied):
            tell(at)

    def trouble(self, what: str) -> None:
        """Only a snapshot helps, because of `what`."""
        for tell in self._listeners.trouble:
            tell(what)

    def lost(self, given_up: Lost) -> None:
        """A branch was given up."""
        for tell in self._listeners.lost:
            tell(given_up)
