"""The health service, without its port."""

from __future__ import annotations

from contextlib import aclosing

import pytest
from grpc_health.v1 import health_pb2

from petsem.errors import Code, PetsemError
from petsem.server.principal import Request
from petsem.server.rpc import health
from petsem.server.rpc.health import Health

NOBODY = Request(None, None)
_Response = health_pb2.HealthCheckResponse


def _asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", "petsem.v1.Secrets", health.NAME])
@pytest.mark.parametrize("ready", [True, False])
async def test_serving_is_being_ready(service: str, ready: bool) -> None:
    """For the node and for each of its services."""
    found = Health(lambda: ready, ("petsem.v1.Secrets",))
    raw = await found.unary.answer(NOBODY, _asked(service))
    assert _Response.FromString(raw).status == (
        _Response.SERVING if ready else _Response.NOT_SERVING
    )


async def test_an_unknown_service_is_not_found() -> None:
    """As the health protocol wants it."""
    with pytest.raises(PetsemError) as refused:
        await Health(lambda: True, ()).unary.answer(NOBODY, _asked("x"))
    assert refused.value.code is Code.NOT_FOUND


async def test_a_watcher_is_told_once_of_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """First the state now, then nothing until it changes."""
    monkeypatch.setattr(health, "LOOK_S", 0)
    states = iter([True, True, True, False, False, True])
    said = []
    async with aclosing(
        Health(lambda: next(states), ()).stream.answer(NOBODY, _asked())
    ) as replies:
        async for raw in replies:
            said.append(_Response.FromString(raw).status)
            if len(said) == 3:
                break
    assert said == [_Response.SERVING, _Response.NOT_SERVING, _Response.SERVING]


async def test_a_watcher_of_an_unknown_service_is_told_so() -> None:
    """And stays, because it may be known to the next version."""
    async with aclosing(Health(lambda: True, ()).stream.answer(NOBODY, _asked("x"))) as replies:
        raw = await anext(replies)
    assert _Response.FromString(raw).status == _Response.SERVICE_UNKNOWN
