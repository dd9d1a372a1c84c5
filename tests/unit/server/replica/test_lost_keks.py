"""Which KEKs the branches under `lost/` need."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from petsem.crypto.keys import Purpose
from petsem.server.database import ReadPool
from petsem.server.datadir import DataDir
from petsem.server.replica import lost_keks
from petsem.server.replica.lost_keks import EVERY, FILE, LostKeks
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.cluster import Cluster, call

ONE, OTHER = "11" * 32, "22" * 32


@pytest.fixture
def datadir(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path)
    made.lost.mkdir()
    return made


def keep(datadir: DataDir, name: str, keks: object) -> Path:
    """A branch, with what stands beside it."""
    directory = datadir.lost / name
    directory.mkdir()
    data = keks if isinstance(keks, bytes) else msgspec.json.encode(keks)
    (directory / FILE).write_bytes(data)
    return directory


def needs(secrets: list[str], tokens: list[str] | None = None) -> dict[str, list[str]]:
    return {"secrets": secrets, "tokens": tokens or [], "cluster": []}


def told(keks: LostKeks) -> dict[str, list[str]]:
    return {each.purpose: [key_id.hex() for key_id in each.ids] for each in keks.ids()}


EVERYTHING = {purpose.value: [EVERY.hex()] for purpose in Purpose}


async def test_what_is_noted(cluster: Cluster, tmp_path: Path) -> None:
    """The ids of the KEKs under which the data keys are, and no key."""
    async with cluster.running() as node:
        await cluster.org("acme", "web")
        old, new = cluster.kek(Purpose.SECRETS), cluster.add_kek(Purpose.SECRETS)
        await node.keyring.promote(cluster.operator, call(), new, False)
        lost_keks.write(node.pool, tmp_path)
    noted = msgspec.json.decode((tmp_path / FILE).read_bytes())
    assert noted == {
        "secrets": sorted([old, new]),
        "tokens": [cluster.kek(Purpose.TOKENS)],
        "cluster": [cluster.kek(Purpose.CLUSTER)],
    }


def test_a_database_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is made up."""
    (tmp_path / "petsem.db").write_bytes(b"x" * 8192)
    lost_keks.write(ReadPool(tmp_path / "petsem.db"), tmp_path)
    assert not (tmp_path / FILE).exists()


def test_all_branches_together(datadir: DataDir) -> None:
    """What came and what was deleted since counts at once."""
    keks = LostKeks(datadir)
    assert keks.ids() == []
    keep(datadir, "a", needs([ONE]))
    assert told(keks) == {"secrets": [ONE]}
    second = keep(datadir, "b", needs([ONE, OTHER], [OTHER]))
    assert told(keks) == {"secrets": [ONE, OTHER], "tokens": [OTHER]}
    shutil.rmtree(second)
    assert told(keks) == {"secrets": [ONE]}


def test_no_directory(tmp_path: Path) -> None:
    """A node that never lost anything may have none."""
    assert LostKeks(DataDir(tmp_path)).ids() == []


@pytest.mark.parametrize(
    "keks", [b"", b"{}", b"[1]", {"secrets": [ONE]}, needs(["x"]), needs(["AB" * 32])]
)
def test_a_branch_of_which_it_is_not_known(datadir: DataDir, keks: object) -> None:
    """It may need every key; so may one that has no note at all."""
    keep(datadir, "a", needs([ONE.replace("1", "3")]))
    directory = keep(datadir, "b", keks)
    assert all(EVERY in each.ids for each in LostKeks(datadir).ids())
    assert {each.purpose for each in LostKeks(datadir).ids()} == EVERYTHING.keys()
    (directory / FILE).unlink()
    assert all(EVERY in each.ids for each in LostKeks(datadir).ids())


def test_what_is_told_is_bounded(datadir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """More ids than a report takes, or more branches than are looked at: any key."""
    many = [f"{number:064x}" for number in range(lost_keks.IDS_MAX + 1)]
    keep(datadir, "a", needs(many[:-1]))
    assert told(LostKeks(datadir)) == {"secrets": many[:-1]}
    keep(datadir, "b", needs(many[-1:]))
    assert told(LostKeks(datadir)) == {"secrets": [""]}
    monkeypatch.setattr(lost_keks, "_BRANCHES_MAX", 1)
    assert told(LostKeks(datadir)) == EVERYTHING


def test_it_is_read_once(datadir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others ask each second."""
    keep(datadir, "a", needs([ONE]))
    keks = LostKeks(datadir)
    assert told(keks) == {"secrets": [ONE]}

    def read(*_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr("petsem.server.files.read_bounded", read)
    assert keks.ids() == [pb.KekIds(purpose="secrets", ids=[bytes.fromhex(ONE)])]
