"""The data directory: names, identity, state and its lock."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
from pathlib import Path

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.datadir import DataDir, NodeIdentity, NodeState, check_region
from petsem.server.files import FileOps

IDENTITY = NodeIdentity("0123456789abcdef", bytes(range(16)), "ams")
STATE = NodeState("leader", 7, "0123456789abcdef", 2**64 - 1, 1_800_000_000_000, "closed")


@pytest.fixture
def datadir(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "node")
    made.create()
    made.write_identity(IDENTITY)
    made.write_state(STATE)
    return made


def message_of(call: object, code: Code) -> str:
    with pytest.raises(PetsemError) as caught:
        call()  # type: ignore[operator]
    assert caught.value.code is code
    return caught.value.message


def test_every_file_has_the_name_that_the_design_gives_it() -> None:
    """The keyring and the operator's token lie beside the directory, not in it."""
    datadir = DataDir(Path("/var/lib/petsem"))
    inside = {
        *(datadir.config_file, datadir.database, datadir.log, datadir.node_file),
        *(datadir.state_file, datadir.tls, datadir.lock_file, datadir.ballast),
        *(datadir.checksums, datadir.audit, datadir.lost),
    }
    assert {str(path.relative_to(datadir.path)) for path in inside} == {
        *("petsem.toml", "petsem.db", "ltx", "node.json", "state.json", "tls", "lock", "ballast"),
        *("checksums", "audit", "lost"),
    }
    assert datadir.default_keyring == Path("/var/lib/petsem.keyring.json")
    assert datadir.default_operator_token == Path("/var/lib/petsem.operator.token")


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even `.` has a name, and so a keyring beside it."""
    monkeypatch.chdir(tmp_path)
    assert DataDir(".").default_keyring == tmp_path.with_name(tmp_path.name + ".keyring.json")


def test_create_makes_private_directories(tmp_path: Path) -> None:
    """0700, the directory itself and each in it."""
    datadir = DataDir(tmp_path / "node")
    datadir.create()
    for path in (datadir.path, datadir.log, datadir.tls, datadir.audit, datadir.lost):
        assert path.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in datadir.path.iterdir()} == {"audit", "ltx", "lost", "tls"}


def test_create_takes_an_empty_directory_and_no_other(datadir: DataDir, tmp_path: Path) -> None:
    """What is in a directory is never mixed with a new node."""
    empty = tmp_path / "empty"
    empty.mkdir(mode=0o700)
    DataDir(empty).create()
    assert "is not empty" in message_of(datadir.create, Code.CONFLICT)


def test_a_directory_that_cannot_be_listed_is_a_plain_error(
    datadir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback."""

    def denied(_path: Path) -> None:
        raise PermissionError(13, "")

    monkeypatch.setattr(Path, "iterdir", denied)
    message = message_of(datadir.create, Code.INVALID)
    assert message == f"cannot read {datadir.path}: Permission denied"


def test_an_identity_with_a_bad_region_is_not_written(tmp_path: Path) -> None:
    """What is written can be read again."""
    datadir = DataDir(tmp_path / "node")
    datadir.create()
    message_of(lambda: datadir.write_identity(NodeIdentity("n", bytes(16), "A")), Code.INVALID)
    assert not datadir.node_file.exists()


def test_identity_and_state_come_back_as_written(datadir: DataDir) -> None:
    """Every field, with its bounds reached, and unknown ones as None."""
    assert datadir.read_identity() == IDENTITY
    assert datadir.read_state() == STATE
    datadir.write_state(NodeState("replica"))
    assert datadir.read_state() == NodeState("replica", 0, None, None, None)
    for path in (datadir.node_file, datadir.state_file):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_promotion_that_is_not_finished_comes_back(datadir: DataDir) -> None:
    """What it is to be undone to is there only until then."""
    unfinished = dataclasses.replace(STATE, undo_epoch=3, undo_leader="fra-1")
    datadir.write_state(unfinished)
    assert datadir.read_state() == unfinished
    datadir.write_state(STATE)
    assert b"undo" not in datadir.state_file.read_bytes()


@pytest.mark.parametrize(
    "changed", [{"bound_epoch": 2**32}, {"undo_epoch": 2**32}, {"synced_txid": -1}]
)
def test_a_state_that_could_not_be_read_again_is_not_written(
    datadir: DataDir, changed: dict[str, int]
) -> None:
    """Whoever asked for it hears so, and the node starts again."""
    state = dataclasses.replace(STATE, **changed)  # type: ignore[arg-type]
    message_of(lambda: datadir.write_state(state), Code.INVALID)
    assert datadir.read_state() == STATE


def test_an_identity_is_written_once(datadir: DataDir) -> None:
    """A second init over a node would orphan its data."""
    message_of(lambda: datadir.write_identity(IDENTITY), Code.CONFLICT)
    assert datadir.read_identity() == IDENTITY


def test_state_that_cannot_be_written_leaves_the_old(datadir: DataDir) -> None:
    """A node that could not bind an epoch durably has not bound it."""

    class NoSync(FileOps):
        def fsync(self, fd: int) -> None:
            raise OSError(5, "")

    message_of(lambda: datadir.write_state(NodeState("replica", 8), ops=NoSync()), Code.UNAVAILABLE)
    assert datadir.read_state() == STATE


GOOD_STATE = (
    '{"role":"leader","bound_epoch":1,"bound_leader":null,"synced_txid":null,'
    '"leader_heard_ms":null,"whole_in":null}'
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "\xff",
        "[" * 5_000,
        GOOD_STATE + " ,",
        GOOD_STATE[:-1],
        GOOD_STATE.replace('"leader"', '"boss"'),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":-1'),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":4294967296'),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":"1"'),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":1.5'),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":true'),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":1,"bound_epoch":2'),
        GOOD_STATE.replace('"bound_epoch":1,', ""),
        GOOD_STATE.replace('"bound_epoch":1', '"bound_epoch":1,"more":1'),
        GOOD_STATE.replace('"bound_leader":null', '"bound_leader":"../x"'),
        GOOD_STATE.replace('"synced_txid":null', '"synced_txid":-1'),
        GOOD_STATE.replace('"synced_txid":null', '"synced_txid":18446744073709551616'),
        GOOD_STATE.replace('"leader_heard_ms":null', '"leader_heard_ms":NaN'),
        GOOD_STATE.replace('"whole_in":null', '"whole_in":"yesterday"'),
    ],
)
def test_a_state_that_was_not_written_by_us_is_refused(datadir: DataDir, text: str) -> None:
    """Nothing is guessed about which epoch this node was bound to."""
    datadir.state_file.write_bytes(text.encode("latin-1"))
    message = message_of(datadir.read_state, Code.CORRUPT)
    assert message.startswith(f"{datadir.state_file} is not as Petsem wrote it")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_id", "UPPER"),
        ("node_id", ""),
        ("node_id", "a" * 64),
        ("cluster_id", "00"),
        ("cluster_id", "G" * 32),
        ("cluster_id", "0" * 33),
        ("region", "a b"),
        ("region", "-a"),
    ],
)
def test_an_identity_out_of_bounds_is_refused(datadir: DataDir, field: str, value: str) -> None:
    """Each field of `node.json` is checked."""
    fields = {"node_id": "a", "cluster_id": "0" * 32, "region": "r"} | {field: value}
    text = ",".join(f'"{name}":"{found}"' for name, found in fields.items())
    datadir.node_file.write_text("{" + text + "}")
    message_of(datadir.read_identity, Code.CORRUPT)


def test_a_directory_that_is_no_node_says_what_to_run(tmp_path: Path) -> None:
    """Missing, empty, or something else: the same sentence, with the command."""
    (tmp_path / "a b").mkdir(mode=0o700)
    for name in ("missing", "a b"):
        message = message_of(DataDir(tmp_path / name).require, Code.INVALID)
        assert "is not a Petsem data directory; run: petsem init" in message
    assert f"petsem init '{tmp_path}/a b' --region REGION" in message


def test_a_directory_that_others_can_enter_is_refused(datadir: DataDir) -> None:
    """With the command that closes it."""
    datadir.path.chmod(0o755)
    message = message_of(datadir.require, Code.INVALID)
    assert message.endswith(f"run: chmod 700 {datadir.path}")
    message_of(datadir.read_identity, Code.INVALID)


def test_a_second_lock_is_refused_naming_the_holder(datadir: DataDir) -> None:
    """The lock counts in one process as between two, and ends with its block."""
    datadir.lock_file.write_text("12345678901234567890\n")
    with datadir.lock():
        assert datadir.lock_file.read_text() == f"{os.getpid()}\n"
        message = message_of(datadir.lock().__enter__, Code.CONFLICT)
        assert message == f"{datadir.path} is in use by process {os.getpid()}; stop it first"
    with datadir.lock():
        pass


def test_the_lock_is_released_when_its_holder_fails(datadir: DataDir) -> None:
    """Whatever ends the block."""
    with pytest.raises(ZeroDivisionError), datadir.lock():
        raise ZeroDivisionError
    with datadir.lock():
        pass


@pytest.mark.parametrize("text", [b"", b"secret\n", b"1" * 40])
def test_a_lock_without_a_pid_still_locks(datadir: DataDir, text: bytes) -> None:
    """The pid is for people; nothing else in the file is repeated."""
    with datadir.lock():
        datadir.lock_file.write_bytes(text)
        message = message_of(datadir.lock().__enter__, Code.CONFLICT)
        assert message == f"{datadir.path} is in use by another process; stop it first"


def test_the_lock_is_one_that_other_programs_see(datadir: DataDir) -> None:
    """It is flock(2) on the file, so that a shell script can hold it as well."""
    with datadir.lock_file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        message_of(datadir.lock().__enter__, Code.CONFLICT)


def test_a_file_system_without_locks_is_a_plain_error(
    datadir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node never runs where nothing keeps a second one away."""

    def no_locks(_fd: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    message = message_of(datadir.lock().__enter__, Code.UNAVAILABLE)
    assert message == f"cannot lock {datadir.path}: No locks available"


def test_whoever_holds_the_lock_sweeps_temporaries(datadir: DataDir) -> None:
    """A write that a crash interrupted leaves nothing for long."""
    left = datadir.path / ".petsem-x.tmp"
    left.write_bytes(b"half")
    with datadir.lock():
        assert not left.exists()


def test_a_lock_in_a_missing_directory_is_a_plain_error(tmp_path: Path) -> None:
    """Not a traceback."""
    message_of(DataDir(tmp_path / "no").lock().__enter__, Code.INVALID)


@pytest.mark.parametrize("name", ["ams", "a", "eu-west-1", "0", "a" * 63])
def test_a_region_may_be(name: str) -> None:
    """Lower-case letters, digits and hyphens."""
    assert check_region(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a b", "a.b", "a" * 64, "å", "a\n"])
def test_a_region_may_not_be(name: str) -> None:
    """And nothing of it is repeated in the error."""
    assert message_of(lambda: check_region(name), Code.INVALID).startswith("a region's name is")
