"""A node of one process as a replica, without a stream: what its view of the cluster would say."""

from __future__ import annotations

import asyncio
from typing import Any

from petsem.errors import PetsemError
from petsem.model import Role
from petsem.server.forward import AsgiApp, Upstream, asgi_call
from petsem.server.node import Node
from petsem.wire import petsem_pb2 as pb


def follow(node: Node, *, heard_s: float | None = 0.0, upstream: Upstream | None = None) -> None:
    """The node has data, leads no more, and heard its leader so long ago, or never."""
    view = node.freshness.view
    view.role = Role.REPLICA
    view.synced = True
    view.replicated = None
    if heard_s is not None:
        view.remember_leader(round(heard_s * 1000))
    if upstream is not None:
        node.replication.upstream = upstream  # type: ignore[assignment]


class Line:
    """A way upstream to an application in this process, which can be cut."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self.asked: list[pb.ForwardRequest] = []
        self.connected = True
        self.failure: PetsemError | None = None

    async def forward(
        self, request: pb.ForwardRequest, timeout_s: float, *, changes: bool = True
    ) -> pb.ForwardResponse:
        passed = pb.ForwardRequest()
        passed.CopyFrom(request)
        passed.hops += 1
        self.asked.append(passed)
        if self.failure is not None:
            raise self.failure
        return await asgi_call(self.app, passed, asyncio.Event())


def doors(api: Any, connect: Any) -> AsgiApp:
    """Both HTTP doors of a node as one application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        door = connect if scope["path"].startswith("/petsem.v1.") else api
        await door(scope, receive, send)

    return app
