"""`petsem serve`: the composition root of a node.

One process, one event loop: Litestar and Connect under uvicorn, grpc.aio, the writer. Guarantees:
SIGTERM or SIGINT stops taking work, finishes what was accepted within `drain_s`, and exits 0; a
start that cannot work says why in one sentence and exits with the error's code.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from petsem import __version__
from petsem.errors import unavailable
from petsem.replication.steps import Reached, nothing
from petsem.server import policy
from petsem.server.address import Address
from petsem.server.api.app import create_app
from petsem.server.config import HttpConfig, check_binds, load_config
from petsem.server.datadir import DataDir
from petsem.server.forward import forward_method
from petsem.server.http_server import http_server
from petsem.server.live_tls import LiveTls, TlsWatch
from petsem.server.logs import configure_logging, loop_exception_handler
from petsem.server.node import Node, build_node
from petsem.server.notify import notify
from petsem.server.peer.membership import Members
from petsem.server.peer.methods import membership_methods
from petsem.server.peer.renewal import Renewal, asking
from petsem.server.peer.server import start_peer
from petsem.server.rpc.connect import connect_app
from petsem.server.rpc.server import start_grpc

log = structlog.get_logger(__name__)

_GC_AFTER_ALLOCATIONS: Final = 50_000


def serve(
    data_dir: Path,
    *,
    insecure: bool,
    environ: Mapping[str, str],
    vfs: str | None = None,
    reached: Reached = nothing,
) -> int:
    """Run the node until it is told to stop; the exit code.

    `vfs` names the SQLite VFS, for whoever measures or breaks what SQLite does to its files;
    `reached` listens to the steps of `petsem.replication.steps`.
    """
    os.umask(0o077)
    # A core dump would hold keys and secrets.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The usual soft limit is less than the connections that a node takes.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    datadir = DataDir(data_dir)
    config = load_config(datadir)
    configure_logging(config.log, sys.stderr)
    for warning in check_binds(config, insecure):
        log.warning("insecure", message=warning)
    with datadir.lock():
        uvloop.run(_serve(datadir, dict(environ), vfs, reached))
    return 0


async def _serve(
    datadir: DataDir, environ: dict[str, str], vfs: str | None, reached: Reached
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(loop_exception_handler)
    # Until the keyring can be read again: whoever sends it too early must not end the node.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    node = build_node(datadir, environ, vfs=vfs, reached=reached)
    await node.start()
    for warning in node.status.warnings():
        log.warning("needs_attention", message=warning)
    try:
        await _doors(node, stopping, environ.get("NOTIFY_SOCKET"))
    finally:
        await node.stop()
        log.info("stopped")


async def _doors(node: Node, stopping: asyncio.Event, notify_socket: str | None) -> None:
    """Open the doors, wait for the end, and close them in order."""
    listener = _listen(node.config.http)
    app = _route(create_app(node), connect_app(node))
    http_files = node.config.http.tls
    http_tls = None if http_files is None else LiveTls("http", http_files)
    http = http_server(app, node.config.limits, http_tls)
    grpc = await start_grpc(node)
    own = node.replication.certificate
    peer = await start_peer(
        [
            *membership_methods(node.nodes),
            *node.replication.methods,
            node.lost_revocations.method,
            node.last_seen.method,
            forward_method(app),
        ],
        bind=node.config.peer.bind,
        own=own,
        members=Members(node.pool, lambda: node.view.removed),
        clock=node.clock,
    )
    renewal = Renewal(own, node.clock, asking(own, node.nodes, node.replication.leader_at))
    renewal.start()
    watch = TlsWatch([tls for tls in (http_tls, grpc.tls) if tls is not None])
    watch.start()
    node.nodes.peer_address = node.config.peer.advertise or Address(
        node.config.peer.bind.host, peer.port
    )
    serving = asyncio.create_task(http.serve([listener]), name="http")
    stop = asyncio.create_task(stopping.wait())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(node.keyring.reload()))
    host, port = listener.getsockname()[:2]
    node.authenticator.public_url = node.config.public_url(port)
    log.info(
        "serving",
        version=__version__,
        node=node.identity.node_id,
        region=node.identity.region,
        role=node.view.role.name.lower(),
        position=node.replication.position(),
        http=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        grpc=grpc.address,
        peer=peer.address,
    )
    # What is alive now stays; the collector need not walk over it at every request's garbage.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_AFTER_ALLOCATIONS)
    notify(notify_socket, "READY=1")
    await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    notify(notify_socket, "STOPPING=1")
    log.info("draining")
    node.status.draining = True
    # Long polls look, see it and answer.
    node.changes.publish_all()
    await watch.stop()
    await renewal.stop()
    http.should_exit = True
    await asyncio.gather(
        grpc.stop(node.config.limits.drain_s), peer.stop(node.config.limits.drain_s), serving
    )


def _route(api: Any, connect: Any) -> Any:
    """Connect's paths go past the router: it is the cheap way in."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(policy.RPC_PATHS):
            await connect(scope, receive, send)
        else:
            await api(scope, receive, send)

    return app


def _listen(http: HttpConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in http.bind.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (http.bind.host, http.bind.port),
            family=family,
            backlog=1024,
            dualstack_ipv6=http.bind.host == "::",
        )
    except OSError as error:
        raise unavailable(
            f"the HTTP port {http.bind} cannot be opened ({os.strerror(error.errno or 0)}); "
            "is another process listening there?"
        ) from error
    listener.setblocking(False)
    return listener
