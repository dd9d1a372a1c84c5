"""Files that must be whole, durable and private.

Guarantees: `write_atomic` leaves either the old file or the new one, never a mixture, and the new
one is on the disk when it returns; a private file has its mode before it has content; a read never
takes more than it was allowed. It does not lock (the data directory does), and it is not for the
database or the transaction log, which have their own ways to the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import tempfile
from pathlib import Path
from typing import Final

from petsem.errors import Code, PetsemError, invalid, unavailable

TEMPORARY_PREFIX: Final = ".petsem-"
TEMPORARY_SUFFIX: Final = ".tmp"
_OPERATORS_TO_MEND: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
    }
)


class FileOps:
    """Each step of a write by its name, so that a test can make the named one fail."""

    def create_temporary(self, directory: Path) -> tuple[int, Path]:
        """A new empty file of mode 0600 in `directory`: its descriptor and its path."""
        fd, name = tempfile.mkstemp(TEMPORARY_SUFFIX, TEMPORARY_PREFIX, directory)
        return fd, Path(name)

    def write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def set_mode(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def fsync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


SYSTEM: Final = FileOps()


def write_atomic(path: Path, data: bytes, mode: int = 0o600, *, ops: FileOps = SYSTEM) -> None:
    """Put `data` at `path`, replacing what is there. Durable on return.

    Raises `unavailable` if the disk cannot take it and `invalid` if the path cannot be written to;
    the old file is then untouched, unless only the last step (syncing the directory) failed.
    """
    _write(path, data, mode, ops, replace=True)


def write_new(path: Path, data: bytes, mode: int = 0o600, *, ops: FileOps = SYSTEM) -> None:
    """Like `write_atomic`, but `conflict` if anything is at `path` already: for keys and tokens."""
    _write(path, data, mode, ops, replace=False)


def _write(path: Path, data: bytes, mode: int, ops: FileOps, *, replace: bool) -> None:
    temporary: Path | None = None
    try:
        fd, temporary = ops.create_temporary(path.parent)
        try:
            ops.write(fd, data)
            ops.set_mode(fd, mode)
            ops.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            ops.rename(temporary, path)
            temporary = None
        else:
            # A link, because it fails where a rename would replace.
            ops.link(temporary, path)
            ops.unlink(temporary)
        ops.fsync_directory(path.parent)
    except FileExistsError as error:
        raise PetsemError(
            Code.CONFLICT, f"{path} exists already; move it away or choose another name"
        ) from error
    except OSError as error:
        raise cannot("write", path, error) from error
    finally:
        if temporary is not None:
            _discard(temporary, ops)


def _discard(temporary: Path, ops: FileOps) -> None:
    # The error that led here is the one to report; `sweep_temporaries` tries again later.
    with contextlib.suppress(OSError):
        ops.unlink(temporary)


def sweep_temporaries(directory: Path) -> None:
    """Remove what a killed `write_atomic` left; only for whoever holds the directory's lock."""
    for path in directory.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        _discard(path, SYSTEM)


def present(path: Path) -> bool:
    """Whether anything is at `path`; raises if that cannot be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise cannot("read", path, error) from error
    return True


def read_bounded(path: Path, max_bytes: int, *, private: bool = False) -> bytes:
    """The whole of a regular file of at most `max_bytes`.

    With `private`, the mode is that of the very file that is read, not of what the name pointed to
    a moment before. Raises `invalid` for a file that is missing, too large, too open or no file.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer that may never come.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise invalid(f"{path} is not a regular file")
            if private:
                _refuse_loose(path, found.st_mode)
            return _read(fd, path, max_bytes)
        finally:
            os.close(fd)
    except OSError as error:
        raise cannot("read", path, error) from error


def _read(fd: int, path: Path, max_bytes: int) -> bytes:
    data = bytearray()
    while chunk := os.read(fd, max_bytes + 1 - len(data)):
        data += chunk
        if len(data) > max_bytes:
            raise invalid(f"{path} is larger than {max_bytes:,} bytes, the most that is read")
    return bytes(data)


def require_private(path: Path) -> None:
    """Refuse a file or directory that group or others can use, with the command that fixes it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise cannot("read", path, error) from error
    _refuse_loose(path, mode)


def _refuse_loose(path: Path, mode: int) -> None:
    if stat.S_IMODE(mode) & 0o077:
        private = "700" if stat.S_ISDIR(mode) else "600"
        raise invalid(
            f"{path} is open to group or others (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod {private} {shlex.quote(str(path))}"
        )


def make_directory(path: Path) -> None:
    """Make `path` with mode 0700, or accept one that is there and private."""
    try:
        path.mkdir(mode=0o700)
        SYSTEM.fsync_directory(path.parent)
    except FileExistsError:
        if not path.is_dir():
            raise invalid(f"{path} is there and is not a directory") from None
        require_private(path)
    except OSError as error:
        raise cannot("make", path, error) from error


def cannot(verb: str, path: Path, error: OSError) -> PetsemError:
    """`error` as one sentence: `invalid` if the path or its rights are at fault, else the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return unavailable(f"cannot {verb} {path}: the disk or quota is full; free some space")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    message = f"cannot {verb} {path}: {reason}"
    return invalid(message) if error.errno in _OPERATORS_TO_MEND else unavailable(message)
