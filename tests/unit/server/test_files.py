"""Files that are whole, durable and private."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.server import files
from petsem.server.files import FileOps


class FailingOps(FileOps):
    """Fails the named step, and notes every step that was asked for."""

    def __init__(self, step: str = "", number: int = errno.EIO) -> None:
        self.step = step
        self.number = number
        self.steps: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _STEPS:
            return found
        self.steps.append(name)
        return self._fail if name == self.step else found

    def _fail(self, *_: object) -> None:
        raise OSError(self.number, "quoted by nobody")


_STEPS = {name for name in vars(FileOps) if not name.startswith("_")}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def refused(code: Code, call: Callable[[], object]) -> str:
    with pytest.raises(PetsemError) as caught:
        call()
    assert caught.value.code is code
    return caught.value.message


def test_a_write_replaces_the_file_whole(tmp_path: Path) -> None:
    """Content and mode are those of the last write, and no temporary file stays."""
    path = tmp_path / "f"
    files.write_atomic(path, b"first and longer")
    files.write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert mode(path) == 0o600
    files.write_atomic(path, b"", 0o644)
    assert (path.read_bytes(), mode(path)) == (b"", 0o644)
    assert names(tmp_path) == ["f"]


def test_a_private_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """The mode does not depend on who starts the process."""
    before = os.umask(0)
    try:
        files.write_atomic(tmp_path / "f", b"x")
        files.make_directory(tmp_path / "d")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "f"), mode(tmp_path / "d")) == (0o600, 0o700)


def test_the_steps_of_a_write_come_in_the_order_that_makes_it_durable(tmp_path: Path) -> None:
    """Content is synced before it gets its name, and the name before the caller goes on."""
    ops = FailingOps()
    files.write_atomic(tmp_path / "f", b"x", ops=ops)
    assert ops.steps == [
        *("create_temporary", "write", "set_mode", "fsync", "rename", "fsync_directory")
    ]


def test_file_and_directory_really_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps reach fsync(2): the content's descriptor first, then the directory's."""
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    files.write_atomic(tmp_path / "f", b"x")
    assert synced == [False, True]
    files.write_new(tmp_path / "g", b"x")
    assert synced == [False, True] * 2
    files.make_directory(tmp_path / "d")
    assert synced == [*[False, True] * 2, True]


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """Neither after success nor after any failed step."""
    open_before = names(Path("/proc/self/fd"))
    for step in ("", *_STEPS):
        with contextlib.suppress(PetsemError):
            files.write_atomic(tmp_path / "f", b"x", ops=FailingOps(step))
    files.read_bounded(tmp_path / "f", 9)
    with contextlib.suppress(PetsemError):
        files.read_bounded(tmp_path / "f", 0)
    assert names(Path("/proc/self/fd")) == open_before


@pytest.mark.parametrize("step", ["create_temporary", "write", "set_mode", "fsync", "rename"])
def test_a_failed_step_leaves_the_old_file(tmp_path: Path, step: str) -> None:
    """Up to the rename nothing of a failed write can be seen, nor stays behind."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    ops = FailingOps(step)
    message = refused(Code.UNAVAILABLE, lambda: files.write_atomic(path, b"new", ops=ops))
    assert message == f"cannot write {path}: Input/output error"
    assert names(tmp_path) == ["f"]
    assert path.read_bytes() == b"old"


def test_a_failed_sync_of_the_directory_is_not_reported_as_done(tmp_path: Path) -> None:
    """The new name may not survive a crash, so the caller must know."""
    ops = FailingOps("fsync_directory")
    refused(Code.UNAVAILABLE, lambda: files.write_atomic(tmp_path / "f", b"new", ops=ops))


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """A full disk and a full quota read the same: something must be freed."""
    for number in (errno.ENOSPC, errno.EDQUOT):
        ops = FailingOps("write", number)
        write = functools.partial(files.write_atomic, tmp_path / "f", b"x", ops=ops)
        message = refused(Code.UNAVAILABLE, write)
        assert "full; free some space" in message


def test_a_failure_to_clean_up_does_not_hide_the_first_error(tmp_path: Path) -> None:
    """What is reported is why the write failed."""

    class TwiceFailing(FailingOps):
        def unlink(self, path: Path) -> None:
            raise OSError(errno.EROFS, "second")

    message = refused(
        Code.UNAVAILABLE,
        lambda: files.write_atomic(tmp_path / "f", b"x", ops=TwiceFailing("fsync")),
    )
    assert "Input/output error" in message


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take fewer bytes than offered."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    files.write_atomic(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_a_new_file_never_replaces_one(tmp_path: Path) -> None:
    """A keyring or token that exists is not overwritten, and not touched."""
    path = tmp_path / "f"
    files.write_new(path, b"first")
    assert mode(path) == 0o600
    message = refused(Code.CONFLICT, lambda: files.write_new(path, b"second"))
    assert message == f"{path} exists already; move it away or choose another name"
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["f"])


def test_a_new_file_does_not_follow_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    """A name that is taken is taken, whatever it points to."""
    (tmp_path / "f").symlink_to(tmp_path / "elsewhere")
    refused(Code.CONFLICT, lambda: files.write_new(tmp_path / "f", b"x"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_that_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    """`invalid`, because trying again changes nothing."""
    path = tmp_path / "no" / "f"
    message = refused(Code.INVALID, lambda: files.write_atomic(path, b"x"))
    assert message == f"cannot write {path}: No such file or directory"


def test_temporaries_of_a_killed_write_are_swept(tmp_path: Path) -> None:
    """Only they are: a file of another name stays."""
    fd, left = files.SYSTEM.create_temporary(tmp_path)
    os.close(fd)
    assert mode(left) == 0o600
    (tmp_path / "x.tmp").write_bytes(b"")
    files.sweep_temporaries(tmp_path)
    assert names(tmp_path) == ["x.tmp"]


def test_a_read_takes_no_more_than_it_was_allowed(tmp_path: Path) -> None:
    """The bound is inclusive."""
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert files.read_bounded(path, 5) == b"12345"
    message = refused(Code.INVALID, lambda: files.read_bounded(path, 4))
    assert message == f"{path} is larger than 4 bytes, the most that is read"


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    """Neither a directory nor a FIFO, which would make the reader wait for ever."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        message = refused(Code.INVALID, functools.partial(files.read_bounded, path, 9))
        assert message == f"{path} is not a regular file"
    missing = tmp_path / "missing"
    message = refused(Code.INVALID, lambda: files.read_bounded(missing, 9))
    assert message == f"cannot read {missing}: No such file or directory"


@pytest.mark.parametrize("bits", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_file_open_to_others_is_refused_with_the_command_that_fixes_it(
    tmp_path: Path, bits: int
) -> None:
    """Each bit of group and others counts; the path is quoted for a shell."""
    path = tmp_path / "a key's"
    path.write_bytes(b"k")
    path.chmod(0o600 | bits)
    message = refused(Code.INVALID, lambda: files.require_private(path))
    fix = "chmod 600 '" + str(path).replace("'", "'\"'\"'") + "'"
    assert message == f"{path} is open to group or others (mode 06{bits:02o}); run: {fix}"
    refused(Code.INVALID, lambda: files.read_bounded(path, 9, private=True))
    path.chmod(0o600)
    files.require_private(path)
    assert files.read_bounded(path, 9, private=True) == b"k"
    path.chmod(0o400)
    files.require_private(path)


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    """Directories are 0700, whether made here or found."""
    path = tmp_path / "d"
    files.make_directory(path)
    files.make_directory(path)
    path.chmod(0o750)
    message = refused(Code.INVALID, lambda: files.make_directory(path))
    assert message.endswith(f"(mode 0750); run: chmod 700 {path}")


def test_a_directory_cannot_be_made_where_something_else_is(tmp_path: Path) -> None:
    """A file in the way, or a parent that is missing, is named."""
    (tmp_path / "f").write_bytes(b"")
    assert "is not a directory" in refused(
        Code.INVALID, lambda: files.make_directory(tmp_path / "f")
    )
    assert "No such file" in refused(
        Code.INVALID, lambda: files.make_directory(tmp_path / "no" / "d")
    )


def test_a_missing_file_is_absent_and_no_error(tmp_path: Path) -> None:
    """Also when a parent is missing or a file."""
    (tmp_path / "f").write_bytes(b"")
    assert files.present(tmp_path / "f")
    assert not files.present(tmp_path / "g")
    assert not files.present(tmp_path / "g" / "h")
    assert not files.present(tmp_path / "f" / "h")


def test_what_cannot_be_known_is_not_called_absent(tmp_path: Path) -> None:
    """A loop of links is an error, so that nothing is made beside it."""
    (tmp_path / "loop").symlink_to("loop")
    refused(Code.INVALID, lambda: files.present(tmp_path / "loop"))
    refused(Code.INVALID, lambda: files.require_private(tmp_path / "loop"))
