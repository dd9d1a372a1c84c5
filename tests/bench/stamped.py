"""`petsem serve` that writes down when what happened: `python -m tests.bench.stamped DIR`.

The lines of `DIR.stamps` are a word and numbers; moments are those of `time.monotonic_ns()`, which
all processes of a machine share:

    commit TXID SPENT ENDED           on the leader: a COMMIT
    read SPENT COUNT                  on the leader: reading the frames of so many commits
    message TXID BYTES                on the leader: what carries transactions up to TXID
    welcomed AT                       on a replica: a stream has begun
    begun AT, received AT, installed AT   on a replica: a snapshot
    visible TXID AT                   on a replica: a reader has seen TXID
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from petsem.model import Position
from petsem.replication.drivers.wal_tail import WalTail
from petsem.replication.wal import WalCommit
from petsem.server import main as server
from petsem.server.cluster_view import ClusterView
from petsem.server.database import ReadPool, read_position
from petsem.server.replica.candidates import Candidate
from petsem.server.replica.feed_files import File
from petsem.server.replica.store import ReplicaStore
from petsem.server.replica.upstream import Upstream
from petsem.server.writing_connection import WritingConnection

Stamp = Callable[..., None]
_now = time.monotonic_ns


def _replace(owner: type, name: str, function: Callable[..., object]) -> None:
    setattr(owner, name, function)


def _leader(stamp: Stamp) -> None:
    commit, read, message = WritingConnection.commit, WalTail.read, File.message

    def timed_read(tail: WalTail, frames: int | None = None) -> list[WalCommit]:
        began = _now()
        found = read(tail, frames)
        stamp("read", _now() - began, len(found))
        return found

    def timed_commit(
        connection: WritingConnection, db: apsw.Connection, at: Position, now_ms: int
    ) -> None:
        began = _now()
        commit(connection, db, at, now_ms)
        ended = _now()
        stamp("commit", at.txid, ended - began, ended)

    def sized(file: File) -> bytes:
        made = message(file)
        stamp("message", file.position.txid, len(made))
        return made

    _replace(WritingConnection, "commit", timed_commit)
    _replace(WalTail, "read", timed_read)
    _replace(File, "message", sized)


def _replica(stamp: Stamp) -> None:
    begin, end, told = (
        ReplicaStore.begin_snapshot,
        ReplicaStore.end_snapshot,
        ClusterView.has_applied,
    )
    opened, welcomed = ReadPool.__init__, Upstream.follow
    pools: list[ReadPool] = []

    def open_pool(pool: ReadPool, *args: Any, **options: Any) -> None:
        opened(pool, *args, **options)
        pools.append(pool)

    def has_applied(view: ClusterView, position: Position) -> None:
        told(view, position)
        with pools[0].reading() as db:
            seen = read_position(db)
        stamp("visible", seen.txid, _now())

    def follow(upstream: Upstream, node: Candidate) -> None:
        welcomed(upstream, node)
        stamp("welcomed", _now())

    async def begun(store: ReplicaStore, at: Position, pages: int, first_page: int) -> None:
        stamp("begun", _now())
        await begin(store, at, pages, first_page)

    async def ended(store: ReplicaStore, at: Position, ltx: bytes) -> None:
        stamp("received", _now())
        await end(store, at, ltx)
        stamp("installed", _now())

    _replace(ReadPool, "__init__", open_pool)
    _replace(ClusterView, "has_applied", has_applied)
    _replace(Upstream, "follow", follow)
    _replace(ReplicaStore, "begin_snapshot", begun)
    _replace(ReplicaStore, "end_snapshot", ended)


def main() -> None:
    """Serve, and stamp."""
    directory = Path(sys.argv[1])
    path = directory.with_name(directory.name + ".stamps")
    # Unbuffered, so that whoever measures sees them come: two microseconds each.
    sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def stamp(word: str, *numbers: int) -> None:
        os.write(sink, f"{word} {' '.join(map(str, numbers))}\n".encode())

    _leader(stamp)
    _replica(stamp)
    sys.exit(server.serve(directory, insecure=False, environ=os.environ))


if __name__ == "__main__":
    main()
