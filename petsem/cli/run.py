"""What one invocation knows: its environment, its clock, and the options common to all commands.

Guarantees: commands learn of the world only through a `Run` (and the standard streams), so tests
hand them another. It does not read anything by itself; each reader names what it takes.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from petsem.clock import Clock, SystemClock

if TYPE_CHECKING:
    import httpx


class Format(enum.StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(slots=True)
class Run:
    """One invocation. Not frozen: options set their fields while the command line is parsed."""

    environ: Mapping[str, str]
    clock: Clock
    transport: httpx.BaseTransport | None = None
    """In tests, what answers instead of the network."""
    output: Format = Format.TABLE
    debug: bool = False
    insecure: bool = False
    failure_code: int | None = None
    """The exit code of any failure, for a command whose own codes are another program's."""

    @classmethod
    def of_process(cls) -> Run:
        """The run of this process."""
        return cls(os.environ, SystemClock())

    @property
    def is_json(self) -> bool:
        return self.output is Format.JSON
