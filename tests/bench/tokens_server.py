"""CPU of the server for verifying a token, against a bare grpc.aio echo and a bare HMAC chain, with
and without 1,000,000 revocations.

The token has five caveats and one discharge, as a person's has. *Seen* is the same text again;
*new* is another narrowing each time, so that every signature is computed.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from petsem.clock import rfc3339
from petsem.server import sql
from petsem.server.database import open_writer
from petsem.server.datadir import DataDir
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge, new_caveat_key
from petsem.wire import petsem_pb2 as pb
from tests.bench import load
from tests.support import cluster, processes

_CALLS: Final = 3_000
_BATCHES: Final = 30
_BATCH: Final = 512
_ROUNDS: Final = 7
_AT_ONCE: Final = 16
_STEPS: Final = 5
_REVOKED: Final = 1_000_000
_VERIFY: Final = "/petsem.v1.Tokens/Verify"
_VERIFY_BATCH: Final = "/petsem.v1.Tokens/VerifyBatch"

_ACCESS: Final = {"org": "acme", "app": "web", "action": "secrets:read", "machine": "3d8d9014"}


def run() -> None:
    """Print each figure with its bar."""
    with processes.temporary() as root:
        made = cluster.make(root)
        with processes.node(made.directory) as node:
            api = cluster.Api(node.http, made.operator)
            api.org_and_app()
            asker = _asker(api)
            tokens = _Tokens(api.host_token())
            few = _measure(node, asker, tokens)
        _revoke(made.directory, _REVOKED)
        with processes.node(made.directory) as node:
            many = _measure(node, asker, tokens, quiet=True)
    for kind, spent in many.items():
        ratio = spent / few[kind]
        print(f"{kind}, with {_REVOKED:,} revocations / with none: {ratio:.2f}  (bar: at most 1.2)")


class _Tokens:
    """Tokens of five caveats and a discharge: one, and as many others as are asked for."""

    def __init__(self, token: str) -> None:
        # The token has three caveats and gets one for a third party and one of the caller's.
        secret, ticket = new_caveat_key(), os.urandom(160)
        self._root = require_discharge(parse_token(token).root, b"petsem", secret, ticket)
        self._discharge: Macaroon = discharge(ticket, secret, ["machine = 3d8d9014"])
        self._numbers = itertools.count()

    def new(self) -> str:
        """One that nobody has seen."""
        moment = time.time() + 3600 + next(self._numbers)
        root = attenuate(self._root, [f"time < {rfc3339(int(moment) * 1000)}"])
        return encode_token(root, [bind_discharge(root, self._discharge)])


def _asker(api: cluster.Api) -> str:
    caveats = ["action = tokens:verify", f"time < {cluster.in_a_day()}"]
    body = {"org": "acme", "kind": "service", "caveats": [caveats[0], _soon()]}
    return str(api.call("POST", "/v1/tokens", body)["token"])


def _soon() -> str:
    return f"time < {rfc3339(int(time.time() + 6 * 3600) * 1000)}"


def _measure(
    node: processes.Process, asker: str, tokens: _Tokens, *, quiet: bool = False
) -> dict[str, float]:
    """By kind, CPU against what was measured beside it, so that two of these compare though the
    machine has changed its pace between them; with `quiet` nothing is printed."""
    spent: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    chains: list[float] = []
    with processes.bare("grpc", str(len(_question("x" * 900)))) as bare:
        for turn in range(_ROUNDS + 1):
            one = _question(tokens.new())
            many = [_question(tokens.new()) for _ in range(_CALLS)]
            batch = _batch([tokens.new() for _ in range(_BATCH)])
            # Once before it counts as seen.
            asyncio.run(_post(node, _VERIFY_BATCH, asker, iter([batch]), 1))
            figures = {
                "bare grpc.aio": _cpu(bare, lambda o=one: _bare(bare, o), _CALLS),
                "seen": _cpu(
                    node,
                    lambda o=one: _post(
                        node, _VERIFY, asker, itertools.repeat(o, _CALLS), _AT_ONCE
                    ),
                    _CALLS,
                ),
                "new": _cpu(
                    node, lambda m=many: _post(node, _VERIFY, asker, iter(m), _AT_ONCE), _CALLS
                ),
                "batch": _cpu(
                    node,
                    lambda b=batch: _post(
                        node, _VERIFY_BATCH, asker, itertools.repeat(b, _BATCHES), 1
                    ),
                    _BATCHES * _BATCH,
                ),
            }
            chain = _chain_us()
            if turn:
                chains.append(chain)
                for kind, figure in figures.items():
                    spent.setdefault(kind, []).append(figure)
                for kind in ("seen", "new"):
                    ratios.setdefault(kind, []).append(figures[kind] / figures["bare grpc.aio"])
                ratios.setdefault("batch", []).append(figures["batch"] / chain)
    medians = {kind: statistics.median(each) for kind, each in spent.items()}
    if not quiet:
        for kind, each in spent.items():
            print(
                f"{kind:<14} {medians[kind]:6.1f} µs CPU a token"
                f"  (min {min(each):.1f}, max {max(each):.1f})"
            )
        print(f"bare HMAC chain of {_STEPS} steps: {statistics.median(chains):.1f} µs")
        for kind, against, bar in (
            ("seen", "bare grpc.aio", 0.6),
            ("new", "bare grpc.aio", 1.2),
            ("batch", "bare chain", 2.5),
        ):
            print(
                f"{kind} / {against}: {statistics.median(ratios[kind]):.2f}  (bar: at most {bar})"
            )
    return {kind: statistics.median(each) for kind, each in ratios.items()}


def _cpu(process: processes.Process, calls: Callable[[], Awaitable[None]], count: int) -> float:
    before = process.cpu_s()
    asyncio.run(calls())  # type: ignore[arg-type]
    return (process.cpu_s() - before) / count * 1e6


def _question(token: str) -> bytes:
    return pb.VerifyRequest(token=token, access=_ACCESS).SerializeToString()


def _batch(tokens: list[str]) -> bytes:
    requests = [pb.VerifyRequest(token=token, access=_ACCESS) for token in tokens]
    return pb.VerifyBatchRequest(requests=requests).SerializeToString()


async def _bare(process: processes.Process, question: bytes) -> None:
    await load.unary(process.grpc, _VERIFY, itertools.repeat(question, _CALLS), (), _AT_ONCE)


async def _post(
    node: processes.Process, method: str, asker: str, bodies: Iterator[bytes], at_once: int
) -> None:
    requests = (load.post(method, asker, "application/proto", body) for body in bodies)
    statuses = await load.http(node.http, requests, at_once)
    assert statuses.keys() == {200}, statuses


def _chain_us() -> float:
    """A macaroon of five caveats, signed and nothing else."""
    caveats = [b"app = web", b"machine = 3d8d9014", b"action = secrets:read", b"x = y", b"z = a"]
    digest, key, times = hmac.digest, os.urandom(32), 20_000
    began_s = time.process_time()
    for _ in range(times):
        signature = key
        for caveat in caveats:
            signature = digest(signature, caveat, "sha256")
    return (time.process_time() - began_s) / times * 1e6


def _revoke(directory: Path, count: int) -> None:
    """As many revocations of tokens that once were; the node must not run."""
    db = open_writer(DataDir(directory).database)
    org = sql.rows(db, "SELECT id FROM orgs")[0][0]
    db.execute("BEGIN")
    for _ in range(count // 10_000):
        rows = [(os.urandom(16), org) for _ in range(10_000)]
        db.executemany(
            "INSERT INTO revocations (nonce, org, at, subject, token, epoch, txid)"
            " VALUES (?, ?, 0, 'operator:bench', x'', 1, 1)",
            rows,
        )
    db.execute("COMMIT")
    db.wal_checkpoint()
    db.close()
