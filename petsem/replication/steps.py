"""The steps at which a crash must lose nothing, by name.

Each driver says that it is about to take one. In a running node nobody listens; the fault tests
end the process there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Reached = Callable[[str], None]

COMMIT: Final = "commit"
CAPTURE: Final = "capture"
LOG_APPEND: Final = "log-append"
LOG_SYNC: Final = "log-sync"
SEGMENT_CHANGE: Final = "segment-change"
LOG_CUT: Final = "log-cut"
CHECKPOINT: Final = "checkpoint"
APPLY_JOURNAL: Final = "apply-journal"
APPLY_PAGES: Final = "apply-pages"
APPLY_TRUNCATE: Final = "apply-truncate"
JOURNAL_REMOVAL: Final = "journal-removal"
SYNC_DATABASE: Final = "sync-database"
SNAPSHOT_STAGE: Final = "snapshot-stage"
SNAPSHOT_APPLY: Final = "snapshot-apply"
ROLE_DRAIN: Final = "role-drain"
ROLE_TRUNCATE_WAL: Final = "role-truncate-wal"
ROLE_LEAVE_WAL: Final = "role-leave-wal"
ROLE_NORMALISE: Final = "role-normalise"
ROLE_ENTER_WAL: Final = "role-enter-wal"
ROLE_RECORD: Final = "role-record"
ROLE_BEGIN: Final = "role-begin"
ROLE_SETTLE: Final = "role-settle"


def nothing(_step: str) -> None:
    """What production listens with."""
