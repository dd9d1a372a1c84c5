"""`petsem operator recover`: a new operator token, when none is left.

Guarantees: whoever may read the data directory and the `cluster` KEK gets a token, and nobody else;
it is an ordinary transaction at the next TXID of the same epoch, so the node's next start captures
it like any other. No token is printed or logged. It works on the directory of a leader that is not
running; which of several leaders was the last, the operator must know.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import apsw

from petsem.clock import Clock, SystemClock
from petsem.errors import Code, PetsemError, conflict, unavailable
from petsem.model import Position
from petsem.server import files, sql
from petsem.server.config import load_config
from petsem.server.database import open_writer, read_position
from petsem.server.datadir import DataDir
from petsem.server.keyring_source import KeyringSource, load_keyring
from petsem.server.keys import Keys
from petsem.server.logs import lone_logger
from petsem.server.operator_token import issue_operator_token
from petsem.server.schema import SCHEMA_VERSION, refuse_newer, version_of


def recover(
    data_dir: Path,
    environ: Mapping[str, str],
    out: Path | None = None,
    *,
    clock: Clock | None = None,
) -> Path:
    """Issue an operator token, good for 24 hours, and write it to a file of mode 0600.

    The file is `out`, which must not exist, or `DIR.operator.token`, which is replaced. Raises
    `conflict` while a process uses the directory or if it is a replica's, `unavailable` without the
    `cluster` KEK.
    """
    clock = clock or SystemClock()
    datadir = DataDir(data_dir)
    path = datadir.default_operator_token if out is None else Path.cwd() / out
    replace = path == datadir.default_operator_token
    identity = datadir.read_identity()
    with datadir.lock():
        if datadir.read_state().role != "leader":
            raise conflict("this node is a replica; recover on the directory of the last leader")
        if not replace and files.present(path):
            raise conflict(f"{path} exists already; move it away or choose another name")
        source = KeyringSource.of(datadir, load_config(datadir).keyring, environ)
        keys = Keys(load_keyring(source))
        db = open_writer(datadir.database)
        try:
            token, position = _issue(db, keys, identity.cluster_id, clock.unix_ms())
        finally:
            db.close()
        # After the COMMIT: a token that was issued and lost does no harm, and one that is in a
        # file and was never issued would be refused without a reason that anybody could see.
        text = token.encode() + b"\n"
        if replace:
            files.write_atomic(path, text)
        else:
            files.write_new(path, text)
    _note(position, path)
    return path


def _note(position: Position, path: Path) -> None:
    """One line for the log, which must not be among the command's results."""
    log = lone_logger(__name__, sys.stderr)
    log.warning("operator_recovered", position=str(position), file=str(path))


def _issue(db: apsw.Connection, keys: Keys, cluster_id: bytes, now_ms: int) -> tuple[str, Position]:
    refuse_newer(db)
    if version_of(db) != SCHEMA_VERSION:
        raise conflict("the database is of an older version of petsem; start the node once, first")
    try:
        db.execute("BEGIN IMMEDIATE")
    except apsw.BusyError:
        raise unavailable("another process holds the database's write lock; end it") from None
    try:
        before = read_position(db)
        position = Position(before.epoch, before.txid + 1)
        token = issue_operator_token(db, keys, cluster_id, position, now_ms, created_by="recover")
        sql.run(db, "UPDATE position SET txid = ?", (position.txid,))
        db.execute("COMMIT")
    except (apsw.CorruptError, apsw.NotADBError):
        raise PetsemError(
            Code.CORRUPT, "the database is damaged on disk; run 'petsem check' on its directory"
        ) from None
    except apsw.Error as e:
        raise unavailable(f"the database cannot be written to ({type(e).__name__})") from None
    return token, position
