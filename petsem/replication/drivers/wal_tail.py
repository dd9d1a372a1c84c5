"""Following the leader's live WAL.

Guarantees: `read` returns each committed transaction once, in order, or raises `WalLost`; it takes
nothing that SQLite does not count as committed. Where what it expects is not there, path and header
are looked at anew: after a complete checkpoint the next commit starts the file again from the top,
and SQLite's count of frames looks plausible all the same.

What lies behind the last commit is treacherous: a COMMIT that failed in its sync leaves frames with
good checksums which SQLite has forgotten and the next transaction writes over. So SQLite's count
is the bound of what is read, never the place where it begins. Without a count every frame is
verified, which is right only where SQLite has just recovered the WAL by the same rule.

It does not see that a transaction was lost if nobody asks: the owner's transaction numbers must
follow each other. The descriptor is of the `-wal` file alone; SQLite keeps no lock on that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from petsem import limits
from petsem.replication.wal import (
    FRAME_BYTES,
    FRAME_HEADER_BYTES,
    HEADER_BYTES,
    WalCommit,
    WalEnd,
    WalError,
    WalHeader,
    WalScanner,
    frame_page,
)

_EMPTY_TO_SQLITE: Final = ("LENGTH", "MAGIC", "CHECKSUM")
_FIRST_FRAMES: Final = 16


class WalLost(Exception):  # noqa: N818 - it says what became of the WAL
    """Committed frames are gone, or may be: only a snapshot of the database is whole."""


class WalTail:
    """Reads the WAL at `path`, from its first frame on. On the thread that commits."""

    def __init__(self, path: Path) -> None:
        # A string: looked at in each reading, and a Path is taken apart each time.
        self._path = str(path)
        self._fd: int | None = None
        self._inode = (-1, -1)
        self._raw = b""
        self._header: WalHeader | None = None
        self._end: WalEnd | None = None
        self._verified = False
        self._captured = False

    @property
    def end(self) -> WalEnd | None:
        """How far the WAL has been read; None while there is none."""
        return self._end

    @property
    def frames(self) -> int:
        """How many of its frames have been read, as SQLite counts them."""
        return 0 if self._end is None else self._end.frames

    def read(self, frames: int | None = None) -> list[WalCommit]:
        """What was committed since the last call, up to frame `frames`.

        `frames` is how many the WAL holds as SQLite counted them at the last commit (its WAL hook,
        or a NOOP checkpoint): fewer than that cannot be, and what is behind them is not looked at.
        The first reading and the first after a restart of the WAL verify the checksums of what they
        begin with, and one without `frames` verifies all.

        Raises WalLost, and then this object has had its day; WalError (a WAL with another page
        size or version); OSError, after which the call may be repeated.
        """
        commits = self._go_on(frames) if frames is not None and self._verified else []
        if commits and frames == self.frames:
            return commits
        self._follow()
        raw = self._read_header()
        if raw != self._raw:
            self._start(raw)
        if self._header is not None:
            commits += self._scan(self._header, frames)
        # SQLite may count none once the WAL may start again, before its new header is written.
        if frames is not None and frames != self.frames and not (frames == 0 and self._captured):
            raise WalLost(f"SQLite counts {frames} frames in the WAL, of which {self.frames} fit")
        return commits

    def _go_on(self, frames: int) -> list[WalCommit]:
        """What follows in the file that was read last, without a look at the path and the header.

        A WAL that has started again since then has other salts in any frame that SQLite counts, so
        frames with the old ones, as many as it counts, are of the old one and committed.
        """
        if self._fd is None or self._header is None or frames <= self.frames:
            return []
        return self._scan(self._header, frames)

    def allow_restart(self, frames: int) -> bool:
        """Ask this before each checkpoint, with SQLite's count of frames: whether all of them have
        been read, and then the WAL may start again behind this place. If not, read first.

        A new reader asks after its first reading, since the WAL may have been copied before it
        came. A WAL that starts again unasked raises WalLost at the next reading.
        """
        self._follow()
        if self._read_header() != self._raw:
            return False
        # None are left to count if the WAL is about to start again after an earlier permission.
        if frames or not self.frames:
            self._captured = frames == self.frames
        return self._captured

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._inode = (-1, -1)

    def _follow(self) -> None:
        """Have the file open that is at the path now."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - a string
            # The number of an inode that is open here cannot be given to another.
            if (found.st_dev, found.st_ino) == self._inode:
                return
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.close()
            return
        self.close()
        opened = os.fstat(fd)
        self._fd, self._inode = fd, (opened.st_dev, opened.st_ino)

    def _read_header(self) -> bytes:
        return b"" if self._fd is None else os.pread(self._fd, HEADER_BYTES, 0)

    def _start(self, raw: bytes) -> None:
        """Another header than last time: begin at its first frame, if nothing is lost by that."""
        if self.frames and not self._captured:
            raise WalLost("the WAL was started again before it had been read to its end")
        header = None
        try:
            header = WalHeader.parse(raw)
        except WalError as e:
            if e.rule not in _EMPTY_TO_SQLITE:
                raise
        self._header = header
        self._end = None if header is None else header.start
        self._raw = raw
        self._verified = False

    def _scan(self, header: WalHeader, frames: int | None) -> list[WalCommit]:
        assert self._fd is not None
        assert self._end is not None
        verify = frames is None or not self._verified
        scanner = WalScanner(header, self._end, self._fetch, verify=verify)
        left = None if frames is None else frames - self._end.frames
        wanted = _FIRST_FRAMES if left is None or verify else left
        while wanted > 0 and not scanner.done:
            wanted = min(wanted, limits.WAL_READ_FRAMES, sys.maxsize if left is None else left)
            data = os.pread(self._fd, wanted * FRAME_BYTES, scanner.offset)
            scanner.feed(data)
            if len(data) < wanted * FRAME_BYTES:
                break
            if left is None:
                wanted *= 4
            else:
                left -= wanted
                wanted = left
                # The beginning fits, and how far it goes SQLite says.
                scanner.verify = False
        if scanner.commits:
            self._end = scanner.end
            self._captured = False
        self._verified = True
        return scanner.commits

    def _fetch(self, salts: bytes, pgno: int, offset: int) -> bytes:
        """A page of a commit that was not held in memory."""
        data = b""
        if self._fd is not None:
            data = os.pread(self._fd, FRAME_BYTES, offset - FRAME_HEADER_BYTES)
        page = frame_page(data, salts, pgno)
        if page is None:
            raise WalLost(f"page {pgno} is no longer where it was in the WAL")
        return page
