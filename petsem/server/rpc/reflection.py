"""The standard reflection service, by which `grpcurl` and the like learn the schema.

Guarantees: open to everybody, as the schema is public anyway; with `open_schema = false` only to
holders of a valid token, whatever it may do. It answers under its present name and its older one,
whose messages are the same bytes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from grpc_reflection.v1alpha import reflection, reflection_pb2

from petsem.server.node import Node
from petsem.server.principal import Request
from petsem.server.rpc.methods import Exchange

NAMES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """Says which `services` there are and what their messages look like."""

    def __init__(self, node: Node, services: tuple[str, ...]) -> None:
        self._open = node.config.http.open_schema
        self._pool = node.pool
        self._auth = node.auth
        self._library = reflection.aio.ReflectionServicer(  # type: ignore[attr-defined]
            (*services, *NAMES)
        )
        self.exchanges = tuple(
            Exchange(
                f"/{name}/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest,
                self._answer,
            )
            for name in NAMES
        )

    async def _answer(
        self,
        request: Request,
        asked: AsyncIterator[reflection_pb2.ServerReflectionRequest],
    ) -> AsyncGenerator[bytes, None]:
        if not self._open:
            with self._pool.reading() as db:
                self._auth.identify(db, request)
        async for reply in self._library.ServerReflectionInfo(asked, None):
            yield reply.SerializeToString()
