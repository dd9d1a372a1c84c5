"""The rules of the format by name, and the error that says which one was broken.

The names are stable: logs, alarms and tests use them. `docs/formats/ltx.md` lists them.
"""

from __future__ import annotations

import enum


class Rule(enum.StrEnum):
    """What a file, a name or a chain of files must obey."""

    # Header
    TRUNCATED = "truncated"
    MAGIC = "magic"
    RESERVED = "reserved"
    FIELD_RANGE = "field-range"
    FLAGS = "flags"
    PAGE_SIZE = "page-size"
    COMMIT_LIMIT = "commit-limit"
    MIN_TXID_REQUIRED = "min-txid-required"
    MAX_TXID_REQUIRED = "max-txid-required"
    TXID_ORDER = "txid-order"
    WAL_OFFSET_NEGATIVE = "wal-offset-negative"
    WAL_SIZE_NEGATIVE = "wal-size-negative"
    WAL_SALT_WITHOUT_OFFSET = "wal-salt-without-offset"
    WAL_SIZE_WITHOUT_OFFSET = "wal-size-without-offset"
    PRE_APPLY_ON_SNAPSHOT = "pre-apply-on-snapshot"
    PRE_APPLY_NOT_ALLOWED = "pre-apply-not-allowed"
    PRE_APPLY_REQUIRED = "pre-apply-required"
    PRE_APPLY_FORMAT = "pre-apply-format"

    # Pages
    PAGE_NUMBER_REQUIRED = "page-number-required"
    PAGE_ORDER = "page-order"
    PAGE_BEYOND_COMMIT = "page-beyond-commit"
    LOCK_PAGE = "lock-page"
    SNAPSHOT_PAGES = "snapshot-pages"
    PAGE_FLAGS = "page-flags"
    PAGE_LENGTH = "page-length"
    BLOCK_SIZE = "block-size"
    BLOCK = "block"
    DECODED_SIZE = "decoded-size"
    INDEX = "index"

    # Trailer
    POST_APPLY_NOT_ALLOWED = "post-apply-not-allowed"
    POST_APPLY_REQUIRED = "post-apply-required"
    POST_APPLY_FORMAT = "post-apply-format"
    POST_APPLY_OF_NOTHING = "post-apply-of-nothing"
    FILE_CHECKSUM_REQUIRED = "file-checksum-required"
    FILE_CHECKSUM_FORMAT = "file-checksum-format"
    FILE_CHECKSUM = "file-checksum"
    POST_APPLY_OF_SNAPSHOT = "post-apply-of-snapshot"
    TRAILING = "trailing"

    # Several files
    CHAIN_EMPTY = "chain-empty"
    CHAIN_UNTRACKED = "chain-untracked"
    CHAIN_PAGE_SIZE = "chain-page-size"
    CHAIN_TXID = "chain-txid"
    CHAIN_CHECKSUM = "chain-checksum"
    CHAIN_GROWTH = "chain-growth"

    # Names
    NAME = "name"


class LtxError(ValueError):
    """A rule of the format is broken; `rule` says which, `detail` holds numbers only."""

    def __init__(self, rule: Rule, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail else str(rule))
        self.rule = rule
