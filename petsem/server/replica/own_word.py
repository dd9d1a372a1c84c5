"""This node's own report, so that it can always be given.

Guarantees: it is within `limits`, whatever the node has to say, and there is one also when the
node cannot say how it is. What is left out is left out on the safe side: a key that is not named
counts as lacking, and a lost branch whose keys are not named may need any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw

from petsem import limits
from petsem.errors import PetsemError
from petsem.server.replica.lost_keks import EVERY
from petsem.wire import petsem_pb2 as pb

KEKS_MAX: Final = 64
"""Of a purpose, in a report that would be too long."""
_SPARE_BYTES: Final = 1024
"""For the path, which grows on the way, and what the stream adds."""


def described(describe: Callable[[], pb.NodeReport]) -> pb.NodeReport:
    """What `describe` says, or that it could not."""
    try:
        return describe()
    except (apsw.Error, PetsemError, OSError):
        return pb.NodeReport(warnings=["it cannot say how it is, for want of its database"])


def fit(report: pb.NodeReport) -> None:
    """Cut what makes it longer than it may be."""
    most = limits.NODE_REPORT_MAX_BYTES - _SPARE_BYTES
    if report.ByteSize() <= most:
        return
    report.last_error = ""
    del report.warnings[:]
    report.warnings.append("more warnings than a report holds; ask the node itself")
    if report.ByteSize() <= most:
        return
    for lost in report.lost_keks:
        if lost.ids:
            lost.ids[:] = [EVERY]
    for keks in report.keks:
        del keks.ids[KEKS_MAX:]
