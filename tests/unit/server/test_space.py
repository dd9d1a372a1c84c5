"""The reserve and the ballast: when writes stop, and how the node finds its way back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from petsem.errors import Code, PetsemError
from petsem.server.space import Space, free_bytes

RESERVE, BALLAST = 8_000, 16_000


class _Disk:
    """A disk whose free space is what the test says, less what the ballast takes."""

    def __init__(self, directory: Path, free: int) -> None:
        self.ballast = directory / "ballast"
        self.free = free
        self.space = Space(
            directory, reserve_bytes=RESERVE, ballast_bytes=BALLAST, free=lambda _: self.left
        )

    @property
    def left(self) -> int:
        return self.free - (self.ballast.stat().st_size if self.ballast.exists() else 0)


@pytest.fixture
def disk(tmp_path: Path) -> _Disk:
    disk = _Disk(tmp_path, RESERVE + BALLAST)
    disk.space.restore()
    return disk


def test_the_ballast_is_laid_when_there_is_room_for_it_and_the_reserve(tmp_path: Path) -> None:
    """It takes real blocks, mode 0600, and not the last ones."""
    disk = _Disk(tmp_path, RESERVE + BALLAST - 1)
    disk.space.restore()
    assert not disk.ballast.exists()
    disk.free += 1
    disk.space.restore()
    status = disk.ballast.stat()
    assert (status.st_size, status.st_mode & 0o777) == (BALLAST, 0o600)
    assert status.st_blocks * 512 >= BALLAST
    assert not disk.space.low


def test_writes_stop_below_the_reserve_before_they_start(disk: _Disk) -> None:
    """One byte below the reserve a write is refused, with a sentence that says what to do."""
    disk.space.check()
    disk.free -= 1
    with pytest.raises(PetsemError) as refused:
        disk.space.check()
    assert (refused.value.code, refused.value.detail.retry_after_s) == (Code.UNAVAILABLE, 5)
    disk.free += 1
    disk.space.check()


def test_a_full_disk_gives_the_ballast_back_until_there_is_room_again(disk: _Disk) -> None:
    """Writes stay refused though the ballast's room is free now, and come back by themselves."""
    disk.free = BALLAST
    disk.space.exhausted()
    assert not disk.ballast.exists()
    assert disk.left >= RESERVE
    assert disk.space.low
    disk.space.restore()
    assert disk.space.low
    disk.free = RESERVE + BALLAST
    disk.space.restore()
    assert disk.ballast.exists()
    assert not disk.space.low


def test_a_ballast_that_was_cut_is_laid_again(disk: _Disk) -> None:
    """One of another size (an interrupted one) is not taken for it."""
    disk.ballast.write_bytes(b"\0" * 10)
    disk.free += 10
    disk.space.restore()
    assert disk.ballast.stat().st_size == BALLAST


def test_a_ballast_that_cannot_be_laid_leaves_no_half_of_it(
    disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota that statvfs does not know of is no reason to fail."""

    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "quota")

    disk.space.exhausted()
    monkeypatch.setattr(os, "posix_fallocate", full)
    disk.space.restore()
    assert not disk.ballast.exists()


def test_a_disk_that_fails_in_everything_only_refuses_writes(
    disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a ballast that cannot be removed nor a disk that does not answer raises."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Path, "unlink", fail)
    disk.space.exhausted()
    assert disk.space.low
    monkeypatch.setattr(os, "statvfs", fail)
    assert free_bytes(disk.ballast.parent) == 0


def test_free_space_is_what_the_system_says(tmp_path: Path) -> None:
    """The default asks the file system, for what others than root may still take."""
    found = os.statvfs(tmp_path)
    assert abs(free_bytes(tmp_path) - found.f_bavail * found.f_frsize) < 2**30
