"""64 concurrent writers of one small secret each: throughput against a bare route, and fsyncs."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Iterator

from tests.bench import load
from tests.support import cluster, processes

_WRITERS = 64
_WRITES = 6_000
_ROUNDS = 5
_PATH = "/v1/orgs/acme/apps/{app}/secrets"


def run() -> None:
    """Print writes a second, the ratio to the bare route, and fsyncs a write."""
    with processes.temporary() as root:
        made = cluster.make(root)
        with processes.node(made.directory) as node, processes.bare("litestar") as bare:
            token = _prepare(node, made.operator)
            rates: dict[str, list[float]] = {"bare Litestar": [], "Petsem": []}
            spent: dict[str, list[float]] = {"bare Litestar": [], "Petsem": []}
            for turn in range(_ROUNDS + 1):
                for kind, process in (("bare Litestar", bare), ("Petsem", node)):
                    before = process.cpu_s()
                    rate = asyncio.run(_round(process.http, token))
                    if turn:
                        rates[kind].append(rate)
                        spent[kind].append((process.cpu_s() - before) / _WRITES * 1e6)
        for kind, figures in rates.items():
            print(
                f"{kind:<14} {statistics.median(figures):7.0f} writes/s"
                f"  (min {min(figures):.0f}, max {max(figures):.0f});"
                f" {statistics.median(spent[kind]):.0f} µs of the server's CPU a write"
            )
        pairs = zip(rates["Petsem"], rates["bare Litestar"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        print(f"throughput / bare Litestar route: {ratio:.2f}  (bar: at least 0.5)")
        counted = (sys.executable, "-m", "tests.bench.counted")
        with processes.node(made.directory, *counted) as node:
            asyncio.run(_round(node.http, token))
        syncs = int((made.directory / "syncs").read_text())
        print(f"fsyncs / acknowledged write: {syncs / _WRITES:.3f}  (bar: at most 0.1)")


def _prepare(node: processes.Process, operator: str) -> str:
    api = cluster.Api(node.http, operator)
    api.call("POST", "/v1/orgs", {"org": "acme"})
    for number in range(_WRITERS):
        api.call("POST", "/v1/orgs/acme/apps", {"app": f"app-{number}"})
    caveats = ["action = secrets:write", f"time < {cluster.in_a_day()}"]
    body = {"org": "acme", "kind": "deploy", "caveats": caveats}
    return str(api.call("POST", "/v1/tokens", body)["token"])


async def _round(port: int, token: str) -> float:
    """One run; acknowledged writes a second."""
    started_s = time.perf_counter()
    statuses = await load.http(port, _requests(token), _WRITERS)
    assert sum(count for status, count in statuses.items() if status < 300) == _WRITES, statuses
    return _WRITES / (time.perf_counter() - started_s)


def _requests(token: str) -> Iterator[bytes]:
    each = [
        load.request(
            "PATCH",
            _PATH.format(app=f"app-{number}"),
            token,
            "application/json",
            b'{"set": {"DATABASE_URL": "postgres://app:secret@db.internal:5432/app"}}',
        )
        for number in range(_WRITERS)
    ]
    return itertools.islice(itertools.cycle(each), _WRITES)
