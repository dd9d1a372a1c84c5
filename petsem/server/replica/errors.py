"""What a replica's disk may answer to what it is given."""

from __future__ import annotations


class BadFrame(Exception):  # noqa: N818 (what came is bad)
    """What was received does not hold, and nothing of it was written. `reason` is safe to log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotContiguous(Exception):  # noqa: N818
    """What was received does not follow what is there; say anew where that ends."""


class NeedsOperator(Exception):  # noqa: N818
    """The node keeps its branch until a person accepts its loss. `message` says by which
    command."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
