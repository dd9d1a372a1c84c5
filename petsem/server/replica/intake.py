"""Taking a snapshot in: from its first page to the database that it becomes.

Guarantees: one snapshot at a time; what a broken stream or a crash left of it is gone on with if
the sender still has the same one, and thrown away otherwise. Until the end has been verified the
database is not touched.
"""

from __future__ import annotations

from concurrent.futures import Executor

from petsem import limits
from petsem.model import Position
from petsem.replication.drivers.apply import Applier
from petsem.replication.drivers.log import TransactionLog
from petsem.replication.image import PAGE_SIZE
from petsem.replication.rolling import PageChecksums
from petsem.replication.steps import Reached
from petsem.server.datadir import DataDir
from petsem.server.replica import staging as staged_files
from petsem.server.replica.errors import BadFrame, NotContiguous, OwnDisk
from petsem.server.replica.install import install
from petsem.server.replica.offload import offload
from petsem.server.replica.staging import Progress, Staging
from petsem.server.space import free_bytes

_LARGE_BYTES = 256 * 1024


class Intake:
    """`left` is what an earlier run of the node received."""

    def __init__(
        self, datadir: DataDir, helper: Executor, left: Progress | None, reached: Reached
    ) -> None:
        self._datadir = datadir
        self._helper = helper
        self._left = left
        self._reached = reached
        self._staging: Staging | None = None

    @property
    def resume(self) -> tuple[Position, int] | None:
        """What can be gone on with: the position of its pages, and the next one."""
        if self._staging is not None:
            return self._staging.begun, self._staging.next_page
        return None if self._left is None else (self._left.at, self._left.next_page)

    async def begin(self, at: Position, pages: int, first_page: int) -> None:
        """The pages of `at` come, from `first_page` on. Raises `NotContiguous`, OSError, and
        `OwnDisk` without room on the disk."""
        if first_page > 1:
            await self._go_on(at, pages, first_page)
            return
        self.discard()
        if free_bytes(self._datadir.path) < pages * PAGE_SIZE + limits.FREE_SPACE_RESERVE_BYTES:
            raise OwnDisk("its disk has no room for a snapshot; free space on it")
        self._staging = Staging.begin(self._datadir.path, at, pages)

    async def pages(self, first_page: int, data: bytes) -> None:
        """The next of them."""
        staging = self._begun()
        staging.add(first_page, data)
        if staging.unnoted_bytes >= limits.SNAPSHOT_NOTE_BYTES:
            await offload(self._helper, staging.note)

    async def changes(self, end: Position, ltx: bytes) -> None:
        """The transactions since then up to `end`; any number of such files, each next to the
        one before."""
        staging = self._begun()
        try:
            if len(ltx) > _LARGE_BYTES:
                await offload(self._helper, staging.change, end, ltx)
            else:
                staging.change(end, ltx)
        except BadFrame:
            self.discard()
            raise

    async def install(
        self, at: Position, applier: Applier, transactions: TransactionLog
    ) -> PageChecksums:
        """Nothing more comes, and it is of `at`: verify it and put it into the database."""
        staging = self._begun()
        if staging.at != at:
            raise NotContiguous(f"the snapshot ends at {staging.at} and not at {at}")
        self._staging = None
        return await install(
            staging, applier, transactions, self._datadir, self._helper, self._reached
        )

    async def stop(self) -> None:
        """Keep what was received for the next run."""
        staging, self._staging = self._staging, None
        if staging is not None:
            try:
                await offload(self._helper, staging.note)
            finally:
                staging.close()

    def discard(self) -> None:
        """Throw away what was received."""
        if self._staging is not None:
            self._staging.close()
        self._staging = self._left = None
        staged_files.discard(self._datadir.path)

    async def _go_on(self, at: Position, pages: int, first_page: int) -> None:
        if self.resume != (at, first_page):
            raise NotContiguous(f"there is no snapshot of {at} that goes on at {first_page}")
        if self._staging is None:
            assert self._left is not None
            self._staging = await offload(
                self._helper, Staging.resume, self._datadir.path, self._left
            )
            self._left = None
        if self._staging.begun_pages != pages:
            self.discard()
            raise NotContiguous("the snapshot has another size now")

    def _begun(self) -> Staging:
        if self._staging is None:
            raise NotContiguous("no snapshot has begun")
        return self._staging
