"""How far a snapshot has come, in the log."""

from __future__ import annotations

from typing import Final

import structlog

from petsem.clock import Clock
from petsem.replication.image import PAGE_SIZE

log = structlog.get_logger(__name__)

EVERY_S: Final = 5.0
_MIB: Final = 1024 * 1024


class Progress:
    """One snapshot of `pages` pages, from `first_page` on."""

    def __init__(self, clock: Clock, pages: int, first_page: int) -> None:
        self._clock = clock
        self._pages = pages
        self._first_page = first_page
        self._began_s = self._said_s = clock.boot_s()
        log.info("snapshot_begins", mib=pages * PAGE_SIZE // _MIB, resumed=first_page > 1)

    def reached(self, next_page: int) -> None:
        """Every page before this one is here."""
        now_s = self._clock.boot_s()
        if now_s - self._said_s >= EVERY_S:
            self._said_s = now_s
            done = next_page - 1
            log.info(
                "snapshot_comes",
                percent=100 * done // self._pages,
                mib=done * PAGE_SIZE // _MIB,
                of_mib=self._pages * PAGE_SIZE // _MIB,
                mib_per_s=self._rate(next_page, now_s),
            )

    def done(self) -> None:
        """It is in place."""
        now_s = self._clock.boot_s()
        log.info(
            "snapshot_applied",
            mib=self._pages * PAGE_SIZE // _MIB,
            mib_per_s=self._rate(self._pages + 1, now_s),
        )

    def _rate(self, next_page: int, now_s: float) -> int:
        seconds = max(now_s - self._began_s, 0.001)
        return round((next_page - self._first_page) * PAGE_SIZE / _MIB / seconds)
