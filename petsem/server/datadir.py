"""The data directory: what each file in it is called, who the node is, and who may use it.

Guarantees: `node.json` and `state.json` are read strictly (anything not understood is refused) and
written whole; one process at a time holds `lock`. It does not open the database: closing any
descriptor of that file would drop SQLite's own locks on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from petsem import limits
from petsem.errors import Code, PetsemError, conflict, invalid
from petsem.server import files

_JSON_MAX_BYTES: Final = 16 * 1024
_TXID_MAX: Final = 2**64 - 1
_NODE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_REGION = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_CLUSTER_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_BOOT_ID = re.compile(r"[0-9a-f-]{36}:[0-9]{1,20}", re.ASCII)
_PID = re.compile(rb"[0-9]{1,10}\n?")
CLOSED: Final = "closed"
"""Of a database that is on the disk as it is and has not been written to since."""
DOUBTED: Final = "doubted"
"""Of one that may be torn: only the checksum of all its pages, or a snapshot, makes it good."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who this node is: fixed when the directory was made. `cluster_id` is 16 bytes."""

    node_id: str
    cluster_id: bytes
    region: str


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the node must not forget. Unknown is None.

    `bound_epoch` and `bound_leader` are the epoch that this node last bound itself to (0: none)
    and whose it is; `synced_txid` is how far the database file is known to be on the disk;
    `leader_heard_ms` is the wall time at which the leader was last heard. `whole_in` is the boot of
    the machine, and the number of the file, in which a replica's database was whole when it was
    opened, so that without a loss of power it still is; `CLOSED` after a stop in order, `DOUBTED`
    while no start could show it.

    `undo_epoch` and `undo_leader` are there while a promotion is not finished: what this node was
    bound to before it. Until they are gone nobody was answered from the epoch that it began.
    """

    role: Literal["leader", "replica"]
    bound_epoch: int = 0
    bound_leader: str | None = None
    synced_txid: int | None = None
    leader_heard_ms: int | None = None
    whole_in: str | None = None
    undo_epoch: int | None = None
    undo_leader: str | None = None


class _NodeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    node_id: str
    cluster_id: str
    region: str


class _StateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    role: Literal["leader", "replica"]
    bound_epoch: int
    bound_leader: str | None
    synced_txid: int | None
    leader_heard_ms: int | None
    whole_in: str | None = None
    undo_epoch: int | None = None
    undo_leader: str | None = None


@dataclass(frozen=True, slots=True, init=False)
class DataDir:
    """A data directory by its absolute path; nothing is touched until a method is called."""

    path: Path

    def __init__(self, path: Path | str) -> None:
        # Not resolved through symbolic links: the keyring lies beside the name that was given.
        object.__setattr__(self, "path", Path(os.path.abspath(path)))  # noqa: PTH100

    @property
    def config_file(self) -> Path:
        return self.path / "petsem.toml"

    @property
    def database(self) -> Path:
        return self.path / "petsem.db"

    @property
    def log(self) -> Path:
        return self.path / "ltx"

    @property
    def node_file(self) -> Path:
        return self.path / "node.json"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def tls(self) -> Path:
        return self.path / "tls"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    @property
    def ballast(self) -> Path:
        return self.path / "ballast"

    @property
    def checksums(self) -> Path:
        return self.path / "checksums"

    @property
    def audit(self) -> Path:
        return self.path / "audit"

    @property
    def lost(self) -> Path:
        return self.path / "lost"

    @property
    def joining(self) -> Path:
        """There while a `petsem join` is under way, or was cut short; then it may be repeated."""
        return self.path / "joining"

    @property
    def default_keyring(self) -> Path:
        """`DIR.keyring.json`: beside the directory, so that a copy of it does not hold its keys."""
        return self.path.with_name(self.path.name + ".keyring.json")

    @property
    def default_operator_token(self) -> Path:
        """`DIR.operator.token`, beside the directory."""
        return self.path.with_name(self.path.name + ".operator.token")

    def create(self) -> None:
        """Make the directory and those in it, 0700; `conflict` if something is in it already."""
        self.require_empty()
        self.make_directories()

    def require_empty(self) -> None:
        """Make the directory, 0700, or accept one that is private and empty; else `conflict`."""
        files.make_directory(self.path)
        try:
            occupied = any(self.path.iterdir())
        except OSError as error:
            raise files.cannot("read", self.path, error) from error
        if occupied:
            raise conflict(f"{self.path} is not empty; choose a directory that is new or empty")

    def make_directories(self) -> None:
        """Make the directories in it, 0700, that are not there."""
        for directory in (self.log, self.tls, self.audit, self.lost):
            files.make_directory(directory)

    def require(self) -> None:
        """Refuse a path that is no data directory, or one that others can enter."""
        if not files.present(self.node_file):
            if files.present(self.joining):
                raise invalid(
                    f"{self.path} has not joined its cluster yet; run petsem join again, with the "
                    "same join token or a new one"
                )
            raise invalid(
                f"{self.path} is not a Petsem data directory; "
                f"run: petsem init {shlex.quote(str(self.path))} --region REGION"
            )
        files.require_private(self.path)

    def read_identity(self) -> NodeIdentity:
        """Who this node is. `corrupt` if `node.json` is not what was written."""
        self.require()
        found = _decode(self.node_file, _NodeFile)
        identity_holds = (
            _NODE_ID.fullmatch(found.node_id)
            and _REGION.fullmatch(found.region)
            and _CLUSTER_ID.fullmatch(found.cluster_id)
        )
        if not identity_holds:
            raise _damaged(self.node_file)
        return NodeIdentity(found.node_id, bytes.fromhex(found.cluster_id), found.region)

    def write_identity(self, identity: NodeIdentity) -> None:
        """Write `node.json`, once: an identity is never replaced."""
        assert _NODE_ID.fullmatch(identity.node_id)
        assert len(identity.cluster_id) == 16
        check_region(identity.region)
        body = _NodeFile(identity.node_id, identity.cluster_id.hex(), identity.region)
        files.write_new(self.node_file, _encode(body))

    def read_state(self) -> NodeState:
        """What the node must not forget. `corrupt` if `state.json` is not what was written."""
        found = _decode(self.state_file, _StateFile)
        if not _holds(found):
            raise _damaged(self.state_file)
        return NodeState(**msgspec.structs.asdict(found))

    def write_state(self, state: NodeState, *, ops: files.FileOps = files.SYSTEM) -> None:
        """Write `state.json`, on the disk when this returns. `invalid`, and nothing is written, for
        what could not be read again."""
        body = _StateFile(
            state.role,
            state.bound_epoch,
            state.bound_leader,
            state.synced_txid,
            state.leader_heard_ms,
            state.whole_in,
            state.undo_epoch,
            state.undo_leader,
        )
        if not _holds(body):
            raise invalid("an epoch or a transaction is none that this node's state.json can hold")
        files.write_atomic(self.state_file, _encode(body), ops=ops)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that uses this directory; `conflict` naming the pid that does."""
        try:
            fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise files.cannot("open", self.lock_file, error) from error
        try:
            _lock_or_name_holder(fd, self.path)
            files.sweep_temporaries(self.path)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            # Never unlinked: a waiter could lock the old inode while another makes a new file.
            os.close(fd)


def check_region(name: str) -> str:
    """`name`, if it may name a region."""
    if _REGION.fullmatch(name) is None:
        raise invalid(
            f"a region's name is 1 to {limits.REGION_MAX_CHARS} lower-case letters, digits and "
            "hyphens, with no hyphen first or last"
        )
    return name


def _lock_or_name_holder(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # The pid is for people; the lock alone decides.
        text = os.pread(fd, 16, 0)
        holder = f"process {int(text)}" if _PID.fullmatch(text) else "another process"
        raise conflict(f"{path} is in use by {holder}; stop it first") from None
    except OSError as error:
        raise files.cannot("lock", path, error) from error


def _holds(state: _StateFile) -> bool:
    return bool(
        0 <= state.bound_epoch <= limits.EPOCH_MAX
        and 0 <= (state.undo_epoch or 0) <= limits.EPOCH_MAX
        and 0 <= (state.synced_txid or 0) <= _TXID_MAX
        and 0 <= (state.leader_heard_ms or 0) <= _TXID_MAX
        and (state.bound_leader is None or _NODE_ID.fullmatch(state.bound_leader))
        and (state.undo_leader is None or _NODE_ID.fullmatch(state.undo_leader))
        and (state.whole_in in (None, CLOSED, DOUBTED) or _BOOT_ID.fullmatch(state.whole_in))
    )


_File = TypeVar("_File", _NodeFile, _StateFile)


def _encode(body: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def _decode(path: Path, kind: type[_File]) -> _File:
    data = files.read_bounded(path, _JSON_MAX_BYTES)
    try:
        # The standard parser first, because msgspec keeps the last of two equal keys.
        pairs = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        return msgspec.convert(pairs, kind)
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _damaged(path: Path) -> PetsemError:
    return PetsemError(
        Code.CORRUPT,
        f"{path} is not as Petsem wrote it; restore the directory from a backup or join it again",
    )
