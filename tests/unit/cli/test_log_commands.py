"""`petsem log list`, `export` and `verify`."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from petsem.clock import rfc3339
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.ltx import decode
from tests.support.ltx_files import Chain
from tests.unit.cli.support import run
from tests.unit.replication.drivers.log_support import (
    SMALL,
    Quick,
    all_files,
    filled,
    flip,
    segment_files,
)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's directory with an empty log."""
    directory = tmp_path / "ams"
    assert run("init", str(directory), "--region", "ams").exit_code == 0
    for path in (directory / "ltx").iterdir():
        path.unlink()
    return directory


def write(node: Path, count: int = 20) -> tuple[list[bytes], Chain]:
    """`count` transactions of epoch 1, in a log that is still open."""
    log = TransactionLog.open(node / "ltx", segment_bytes=SMALL, ops=Quick())
    chain = Chain()
    files = filled(log, chain, count)
    log.sync()
    return files, chain


def test_list(node: Path) -> None:
    """One row a file; JSON has the positions at both ends."""
    files, chain = write(node, 3)
    result = run("log", "list", str(node))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == [
        *("FIRST", "LAST", "EPOCH", "BYTES", "TIME", "CHECKSUM", "AFTER"),
    ]
    assert result.stdout.splitlines()[3].split() == [
        f"{3:016x}",
        f"{3:016x}",
        "1",
        str(len(files[2])),
        rfc3339(3_000),
        f"{chain.at.checksum:016x}",
    ]
    told = json.loads(run("log", "list", str(node), "-o", "json").stdout)
    assert (told["base"], told["end"]) == (
        "00000000-0000000000000000-0000000000000000",
        str(chain.at),
    )
    assert (told["gaps"], len(told["records"])) == ([], 3)
    assert told["records"][2] == {
        "first": f"{3:016x}",
        "last": f"{3:016x}",
        "epoch": 1,
        "bytes": len(files[2]),
        "time": rfc3339(3_000),
        "checksum": f"{chain.at.checksum:016x}",
    }


def firsts(*args: str) -> list[int]:
    result = run("log", "list", *args, "-o", "json")
    assert result.exit_code == 0
    return [int(each["first"], 16) for each in json.loads(result.stdout)["records"]]


def test_list_takes_a_range(node: Path) -> None:
    """Sixteen digits are hexadecimal, fewer decimal; both ends count."""
    write(node)
    assert firsts(str(node), "--from", "17") == [17, 18, 19, 20]
    assert firsts(str(node), "--from", "0000000000000011") == [17, 18, 19, 20]
    assert firsts(str(node), "--from", "3", "--to", "5") == [3, 4, 5]
    assert firsts(str(node), "--from", "21") == []
    for bad in ("x", "-1", "0x11", "11111111111111111", "１"):
        result = run("log", "list", str(node), f"--from={bad}")
        assert (result.exit_code, bad in result.stderr) == (2, False)


def test_list_stops_after_so_many_rows(node: Path) -> None:
    """And says how to go on."""
    write(node)
    result = run("log", "list", str(node), "--limit", "5")
    assert len(result.stdout.splitlines()) == 6
    assert result.stderr == (
        "stopped after 5 rows; to go on, run the same command with --from 0000000000000006\n"
    )
    assert run("log", "list", str(node), "--limit", "20").stderr == ""


def test_list_of_an_empty_log(node: Path) -> None:
    """No rows and no positions."""
    result = run("log", "list", str(node), "-o", "json")
    assert json.loads(result.stdout) == {"base": None, "end": None, "gaps": [], "records": []}
    assert run("log", "list", str(node)).exit_code == 0


def test_export(node: Path, tmp_path: Path) -> None:
    """Files under the names of the public tool, byte for byte."""
    files, _ = write(node)
    out = tmp_path / "out"
    result = run("log", "export", str(node), str(out))
    assert result.exit_code == 0
    assert result.stdout == f"in {out}: 20 files, {sum(map(len, files)):,} bytes\n"
    assert all_files(out) == {f"{i:016x}-{i:016x}.ltx": data for i, data in enumerate(files, 1)}
    assert decode((out / f"{7:016x}-{7:016x}.ltx").read_bytes()).header.min_txid == 7
    some = tmp_path / "some"
    told = run("log", "export", str(node), str(some), "--from", "4", "--to", "6", "-o", "json")
    assert json.loads(told.stdout) == {
        "directory": str(some),
        "files": 3,
        "bytes": sum(map(len, files[3:6])),
        "first": f"{4:016x}",
        "last": f"{6:016x}",
    }
    assert sorted(all_files(some)) == [f"{i:016x}-{i:016x}.ltx" for i in (4, 5, 6)]


def test_export_overwrites_nothing(node: Path, tmp_path: Path) -> None:
    """A file that is there is a conflict and stays as it is."""
    write(node)
    name = f"{5:016x}-{5:016x}.ltx"
    (tmp_path / name).write_text("mine")
    result = run("log", "export", str(node), str(tmp_path), "--from", "5")
    assert (result.exit_code, name in result.stderr) == (5, True)
    assert (tmp_path / name).read_text() == "mine"


def test_export_of_what_is_not_there(node: Path, tmp_path: Path) -> None:
    """Not found, with what there is; no directory is made."""
    write(node)
    result = run("log", "export", str(node), str(tmp_path / "out"), "--from", "21")
    assert result.exit_code == 4
    assert "goes from 0000000000000001 to 0000000000000014" in result.stderr
    assert not (tmp_path / "out").exists()
    result = run("log", "export", str(node), str(tmp_path / "no" / "out"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_verify(node: Path) -> None:
    """Exit code 0 and one line if all holds."""
    _, chain = write(node)
    result = run("log", "verify", str(node))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"20 files hold, up to {chain.at}\n"
    told = json.loads(run("log", "verify", str(node), "-o", "json").stdout)
    assert told == {
        "ok": True,
        "base": "00000000-0000000000000000-0000000000000000",
        "end": str(chain.at),
        "records": 20,
        "unfinished_bytes": 0,
        "problems": [],
    }


def test_damage_is_exit_8(node: Path, tmp_path: Path) -> None:
    """Whatever looks at it; nothing is mended."""
    write(node)
    path = segment_files(node / "ltx")[0]
    flip(path, 700)
    before = all_files(node)
    result = run("log", "verify", str(node))
    assert result.exit_code == 8
    assert f"of {path.name} are damaged" in result.stdout
    assert json.loads(run("log", "verify", str(node), "-o", "json").stdout)["ok"] is False
    result = run("log", "export", str(node), str(tmp_path / "out"))
    assert (result.exit_code, "petsem log verify" in result.stderr) == (8, True)
    assert {**all_files(node), "lock": b""} == {**before, "lock": b""}


def test_a_gap_is_shown(node: Path, tmp_path: Path) -> None:
    """In the list, on stderr and in the exit code of verify."""
    write(node, 40)
    _, middle, last = (int(path.name[:16], 16) for path in segment_files(node / "ltx")[:3])
    segment_files(node / "ltx")[1].unlink()
    listed = run("log", "list", str(node), "-o", "json")
    (gap,) = json.loads(listed.stdout)["gaps"]
    assert (gap["after"][9:25], gap["until"][9:25]) == (f"{middle:016x}", f"{last:016x}")
    assert "are missing" in listed.stderr
    exported = run("log", "export", str(node), str(tmp_path / "out"))
    assert (exported.exit_code, "are missing" in exported.stderr) == (0, True)
    assert run("log", "verify", str(node)).exit_code == 8


def test_an_unfinished_record_is_only_noted(node: Path) -> None:
    """It was never synced, so nothing is lost."""
    write(node, 3)
    (path,) = segment_files(node / "ltx")
    used = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(used + 8)
        file.write(b"torn")
    result = run("log", "verify", str(node))
    assert result.exit_code == 0
    assert "of a record that was never synced" in result.stderr


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    """One sentence, whatever the command."""
    for command in (("list",), ("verify",), ("export", str(tmp_path / "out"))):
        name, *rest = command
        result = run("log", name, str(tmp_path), *rest)
        assert (result.exit_code, "is not a Petsem data directory" in result.stderr) == (2, True)


def test_without_the_server_extra(monkeypatch: pytest.MonkeyPatch, node: Path) -> None:
    """One sentence says what to install."""
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("petsem.replication."):
            raise ModuleNotFoundError("No module named 'lz4'", name="lz4")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    for arguments in (("list",), ("verify",), ("export", "out")):
        name, *rest = arguments
        result = run("log", name, str(node), *rest)
        assert (result.exit_code, "pip install 'petsem[server]'" in result.stderr) == (2, True)
