"""CPU of the server for one boot fetch: gRPC and Connect against a bare grpc.aio handler."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Awaitable, Callable

from petsem.wire import petsem_pb2 as pb
from tests.bench import load
from tests.support import cluster, processes

_CALLS = 3_000
_ROUNDS = 7
_AT_ONCE = 16
_METHOD = "/petsem.v1.Secrets/Fetch"


def run() -> None:
    """Print both ratios with the figures behind them."""
    with processes.temporary() as root:
        made = cluster.make(root)
        with processes.node(made.directory) as node:
            api = cluster.Api(node.http, made.operator)
            api.org_and_app()
            names = {f"SECRET_{i:02d}": "v" * 64 for i in range(20)}
            api.call("PATCH", "/v1/orgs/acme/apps/web/secrets", {"set": names})
            token = cluster.narrowed(api.host_token(), "app = web", "machine = 3d8d9014")
            _measure(node, token)


def _measure(node: processes.Process, token: str) -> None:
    request = pb.FetchRequest(org="acme", app="web", machine="3d8d9014").SerializeToString()
    metadata = (("authorization", f"Bearer {token}"),)
    answer = asyncio.run(load.unary(node.grpc, _METHOD, iter([request]), metadata, 1))
    connect = load.post(_METHOD, token, "application/proto", request)

    def grpc_calls(port: int) -> Callable[[], Awaitable[object]]:
        return lambda: load.unary(
            port, _METHOD, itertools.repeat(request, _CALLS), metadata, _AT_ONCE
        )

    async def connect_calls() -> None:
        statuses = await load.http(node.http, itertools.repeat(connect, _CALLS), _AT_ONCE)
        assert statuses == {200: _CALLS}, statuses

    with processes.bare("grpc", str(answer)) as bare:
        kinds: dict[str, tuple[processes.Process, Callable[[], Awaitable[object]]]] = {
            "bare grpc.aio": (bare, grpc_calls(bare.grpc)),
            "gRPC Fetch": (node, grpc_calls(node.grpc)),
            "Connect Fetch": (node, connect_calls),
        }
        spent: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(_ROUNDS + 1):
            for kind, (process, calls) in kinds.items():
                before = process.cpu_s()
                asyncio.run(calls())  # type: ignore[arg-type]
                if turn:  # the first round warms up
                    spent[kind].append((process.cpu_s() - before) / _CALLS * 1e6)
    for kind, figures in spent.items():
        print(
            f"{kind:<16} {statistics.median(figures):7.0f} µs CPU a call"
            f"  (min {min(figures):.0f}, max {max(figures):.0f})"
        )
    base = spent["bare grpc.aio"]
    for kind, bar in (("gRPC Fetch", 1.5), ("Connect Fetch", 0.6)):
        ratio = statistics.median(a / b for a, b in zip(spent[kind], base, strict=True))
        print(f"{kind} / bare grpc.aio: {ratio:.2f}  (bar: {bar})")
