"""The standard gRPC health service (`grpc.health.v1`), open to everybody.

Guarantees: SERVING means what `/readyz` means, asked at the moment of the call; a watcher learns of
a change within `LOOK_S`. It says nothing of why a node is not ready, and takes part in no decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final

from grpc_health.v1 import health_pb2

from petsem.errors import not_found
from petsem.server.principal import Request
from petsem.server.rpc.methods import Stream, Unary

LOOK_S: Final = 1.0
NAME: Final = "grpc.health.v1.Health"


class Health:
    """Answers for the node as a whole ("") and for each of its services."""

    def __init__(self, ready: Callable[[], bool], services: tuple[str, ...]) -> None:
        self._ready = ready
        self._services = frozenset(("", NAME, *services))
        asked, said = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        self.unary = Unary(f"/{NAME}/Check", asked, said, self._check)
        self.stream = Stream(f"/{NAME}/Watch", asked, self._watch)

    async def _check(self, _: Request, asked: health_pb2.HealthCheckRequest) -> bytes:
        if asked.service not in self._services:
            raise not_found("there is no such service on this port")
        return self._state(asked.service)

    async def _watch(
        self, _: Request, asked: health_pb2.HealthCheckRequest
    ) -> AsyncGenerator[bytes, None]:
        said = None
        while True:
            state = self._state(asked.service)
            if state != said:
                said = state
                yield state
            await asyncio.sleep(LOOK_S)

    def _state(self, service: str) -> bytes:
        response = health_pb2.HealthCheckResponse
        if service not in self._services:
            status = response.SERVICE_UNKNOWN
        else:
            status = response.SERVING if self._ready() else response.NOT_SERVING
        state: bytes = response(status=status).SerializeToString()
        return state
