"""The data directory as files: who may read them, what they say, and a copy of the database.

Guarantees: the database is never opened where it lies by anything but SQLite, and not at all for
writing: a copy is checked. It changes nothing in the directory but the pid in `lock`.
"""

from __future__ import annotations

import shlex
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from petsem.counted import counted
from petsem.crypto import ca
from petsem.crypto.keyring import Keyring
from petsem.errors import Code, PetsemError, unavailable
from petsem.server import files
from petsem.server.config import Config, load_config
from petsem.server.database import open_reader, open_writer
from petsem.server.datadir import DataDir, NodeIdentity, NodeState
from petsem.server.findings import Findings, Result
from petsem.server.keyring_source import KeyringSource, load_keyring, warn_if_inside
from petsem.server.space import free_bytes

_SPARE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """What the files of a node say, as far as they could be read."""

    identity: NodeIdentity | None
    state: NodeState | None
    config: Config | None
    keyring: Keyring


def read_files(datadir: DataDir, environ: Mapping[str, str], findings: Findings) -> NodeFiles:
    """Everything beside the database, and what is wrong with it."""
    findings.judge("modes", _modes(datadir), "nobody else can read the data directory")
    identity: NodeIdentity | None = None
    state: NodeState | None = None
    config: Config | None = None
    with findings.part("node.json"):
        identity = datadir.read_identity()
        findings.add("node.json", Result.OK, f"this is {identity.node_id} in {identity.region}")
    with findings.part("state.json"):
        state = datadir.read_state()
        findings.add("state.json", Result.OK, f"the node is a {state.role}")
    with findings.part("petsem.toml"):
        config = load_config(datadir)
        findings.add("petsem.toml", Result.OK, "every key is known and within its bounds")
    keyring = Keyring()
    if config is not None:
        with findings.part("keyring file"):
            keyring = _keyring(datadir, config, environ, findings)
    if identity is not None:
        with findings.part("tls"):
            findings.judge("tls", _certificate(datadir, identity), "the certificate is this node's")
    if not datadir.ballast.is_file():
        findings.add("ballast", Result.WARNING, "there is no ballast; the next start lays it down")
    return NodeFiles(identity, state, config, keyring)


def copy_database(datadir: DataDir, into: Path, *, running: bool) -> Path:
    """A copy of the database in the directory `into`; of a running node, as one transaction saw it.

    `unavailable` if there is no room for it, `corrupt` if SQLite cannot read it.
    """
    sources = [datadir.path / f"{datadir.database.name}{end}" for end in ("", "-wal", "-journal")]
    sources = [path for path in sources if files.present(path)]
    needed = sum(path.stat().st_size for path in sources) + _SPARE_BYTES
    if free_bytes(into) < needed:
        raise unavailable(
            f"a check copies the database, and {into.parent} has no room for {needed:,} bytes; "
            "set TMPDIR to a directory that has"
        )
    target = into / datadir.database.name
    try:
        if running:
            _copy_live(datadir.database, target)
        else:
            # With its log, so that what a crash left there is looked at, and not recovered, in
            # place.
            for path in sources:
                shutil.copyfile(path, into / path.name)
    except OSError as e:
        raise files.cannot("copy", datadir.database, e) from e
    except apsw.Error as e:
        raise PetsemError(
            Code.CORRUPT, f"the database cannot be read as a whole ({type(e).__name__})"
        ) from e
    return target


def open_copy(database: Path) -> apsw.Connection:
    """A reader of it; `corrupt` in the words of a check."""
    try:
        return open_reader(database)
    except PetsemError as e:
        if e.code is not Code.CORRUPT:
            raise
        raise PetsemError(
            Code.CORRUPT,
            "SQLite cannot open the database, because its first pages are damaged: a replica takes "
            "a snapshot from another node, a leader is restored or replaced",
        ) from e


def _copy_live(database: Path, target: Path) -> None:
    source, copy = open_copy(database), open_writer(target, create=True)
    try:
        with copy.backup("main", source, "main") as backup:
            # In one step: after a write in between it would begin again.
            backup.step()
        # The backup counted up the copy's; it is of the pages that are compared with the log.
        ((version,),) = source.execute("PRAGMA schema_version").fetchall()
        copy.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        copy.execute(f"PRAGMA schema_version = {version}")
    finally:
        copy.close()
        source.close()


def _modes(datadir: DataDir) -> list[str]:
    problems = []
    for path in (datadir.path, *sorted(datadir.path.rglob("*"))):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
            private = "700" if stat.S_ISDIR(mode) else "600"
            problems.append(
                f"{path} is open to group or others (mode {stat.S_IMODE(mode):04o}); "
                f"run: chmod {private} {shlex.quote(str(path))}"
            )
    return problems


def _keyring(
    datadir: DataDir, config: Config, environ: Mapping[str, str], findings: Findings
) -> Keyring:
    source = KeyringSource.of(datadir, config.keyring, environ)
    inside = None if source.file is None else warn_if_inside(datadir, source.file)
    if inside is not None:
        findings.add("keyring file", Result.WARNING, inside)
    keyring = load_keyring(source)
    held = len(keyring.keys())
    findings.add("keyring file", Result.OK, f"{counted(held, 'key')} from {source}")
    return keyring


def _certificate(datadir: DataDir, identity: NodeIdentity) -> list[str]:
    found = files.read_bounded(datadir.tls / "node.crt", ca.PEM_MAX_BYTES)
    try:
        named = ca.identity_of(found)
    except PetsemError as e:
        return [e.message]
    if named != ca.Identity(identity.cluster_id, identity.node_id, ca.CertRole.NODE):
        return ["tls/node.crt is not the certificate of the node that node.json names"]
    return []
