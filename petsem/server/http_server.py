"""The HTTP door, put together: uvicorn without what a node does itself, or not at all.

Guarantees: a TLS handshake that is not done within `TLS_HANDSHAKE_S` is ended; no signal is
handled, no header trusted and no request logged here. What a connection may do is up to
`http_protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn

from petsem import limits
from petsem.server.config import LimitsConfig
from petsem.server.http_protocol import HttpLimits, protocol_class
from petsem.server.live_tls import LiveTls


class HttpServer(uvicorn.Server):
    """Uvicorn on sockets that are open already."""

    handshake_s = limits.TLS_HANDSHAKE_S

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections. Uvicorn's own leaves a handshake the minute that asyncio gives it."""
        config = self.config
        protocol: Callable[..., asyncio.BaseProtocol] = config.http_protocol_class
        connection = partial(
            protocol,
            config=config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                connection,
                sock=listener,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=None if config.ssl is None else self.handshake_s,
            )
            for listener in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the node has handlers of its own."""
        yield


def http_server(app: Any, bounds: LimitsConfig, tls: LiveTls | None) -> HttpServer:
    """The server of the ASGI application `app`; give its `serve` the listening socket."""
    config = uvicorn.Config(
        app,
        http=protocol_class(
            HttpLimits(
                connections_max=bounds.http_connections,
                header_deadline_s=bounds.http_header_deadline_s,
                body_deadline_s=bounds.http_body_deadline_s,
            )
        ),
        ws="none",
        lifespan="off",
        loop="none",
        proxy_headers=False,
        server_header=False,
        date_header=True,
        access_log=False,
        log_config=None,
        timeout_keep_alive=int(bounds.http_keep_alive_s),
        timeout_graceful_shutdown=int(bounds.drain_s),
    )
    config.load()
    if tls is not None:
        config.ssl = tls.context
    return HttpServer(config)
