"""gRPC without lines of its own on stderr.

Guarantees: what gRPC's core would write there, past every logger, is not written, unless the user
asked for it with `GRPC_VERBOSITY`; what it has to say is in the errors that it raises. The
environment is left as it was, so that no child inherits anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_HOW_MUCH: Final = "GRPC_VERBOSITY"


@contextmanager
def quiet_grpc() -> Iterator[None]:
    """Around the first import of gRPC, which is when its core looks."""
    if _HOW_MUCH in os.environ:
        yield
        return
    os.environ[_HOW_MUCH] = "NONE"
    try:
        yield
    finally:
        del os.environ[_HOW_MUCH]
