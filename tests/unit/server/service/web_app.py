"""The app acme/web in tests of its secrets: how a write is refused, and what it counts then."""

from __future__ import annotations

from typing import Any

import pytest

from petsem.errors import Code, PetsemError
from petsem.server import policy
from petsem.server.principal import Names
from petsem.server.service.batches import Batch, check_batch
from petsem.wire import http
from tests.support.nodes import Running, refusal

INVALID, CONFLICT, NOT_FOUND = Code.INVALID, Code.CONFLICT, Code.NOT_FOUND


async def refused(write: Any) -> tuple[Code, str | None, str | None]:
    """How a write is refused."""
    with pytest.raises(PetsemError) as error:
        await write
    return refusal(error.value)


def counts(node: Running) -> tuple[int, int, int]:
    """(version, secrets, size) of acme/web."""
    found = node.rows("SELECT version, secrets, size FROM apps WHERE name = 'web'")[0]
    return found[0], found[1], found[2]


def batch(**body: Any) -> Batch:
    return check_batch(http.SecretsPatch(**body))


def diff(node: Running, values: dict[str, str], **more: Any) -> http.SecretsDiff:
    """What a reader is told."""
    may_read = more.pop("may_read", True)
    operator = node.principal(policy.SECRETS_WRITE, Names("acme", "web"))
    body = batch(set=values, **more)
    return node.node.secrets.diff(operator, "acme", "web", body, may_read=may_read)
