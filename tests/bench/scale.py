"""Fetch, start and memory with 1,000,000 secrets over 50,000 apps, against 1,000 over 50."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import apsw

from petsem.clock import SystemClock
from petsem.crypto.digest import secret_digest
from petsem.crypto.envelope import Record
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import random_id
from petsem.model import Kind, Position
from petsem.server import sql
from petsem.server.bundles import Bundles
from petsem.server.database import open_writer, read_position
from petsem.server.datadir import DataDir
from petsem.server.keys import Keys
from petsem.server.principal import Verified
from petsem.server.service.tokens import add_root_key
from petsem.server.store import orgs, secrets
from petsem.server.store.secrets import SecretRow, VersionRow
from petsem.server.writer import Txn
from petsem.wire import petsem_pb2 as pb
from tests.bench import load
from tests.support import cluster, processes

_PER_APP = 20
_APPS_A_TRANSACTION = 500
_CALLS = 4_000
_ROUNDS = 5
_SMALL, _LARGE = 50, 50_000
_METHOD = "/petsem.v1.Secrets/Fetch"
_NOBODY = Verified(bytes(16), bytes(16), Kind.OPERATOR, "operator:bench", None, None, 0, 0, ())


def run() -> None:
    """Print the ratio of fetch times, time to ready, and resident memory."""
    with processes.temporary() as root:
        made = {apps: fill(root / str(apps), apps) for apps in (_SMALL, _LARGE)}
        with (
            processes.node(made[_SMALL].directory) as small,
            processes.node(made[_LARGE].directory) as large,
        ):
            nodes = {_SMALL: small, _LARGE: large}
            tokens = {n: cluster.Api(nodes[n].http, made[n].operator).host_token() for n in nodes}
            for door, calls in (("gRPC", _over_grpc), ("Connect", _over_connect)):
                _compare(door, calls, nodes, tokens)
            print(f"start to ready, 1,000,000 secrets: {large.ready_s:.2f} s  (bar: under 2)")
            print(f"resident after the fetches: {large.resident_mib():.0f} MiB  (bar: under 200)")


_Calls = Callable[[processes.Process, str, int, int], Awaitable[None]]


def _compare(
    door: str, calls: _Calls, nodes: dict[int, processes.Process], tokens: dict[int, str]
) -> None:
    """Fetches of apps chosen at random, in turn from the small and the large database."""
    spent: dict[int, list[float]] = {apps: [] for apps in nodes}
    for turn in range(_ROUNDS + 1):
        for apps, node in nodes.items():
            before = node.cpu_s()
            asyncio.run(calls(node, tokens[apps], apps, turn))  # type: ignore[arg-type]
            if turn:
                spent[apps].append((node.cpu_s() - before) / _CALLS * 1e6)
    for apps, figures in spent.items():
        middle = statistics.median(figures)
        print(f"{apps * _PER_APP:>9,} secrets: {middle:5.0f} µs CPU a {door} fetch")
    pairs = zip(spent[_LARGE], spent[_SMALL], strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{door} fetch with 1,000,000 / with 1,000: {ratio:.2f}  (bar: at most 1.2)")


async def _over_connect(node: processes.Process, token: str, apps: int, seed: int) -> None:
    requests = (
        load.post(_METHOD, token, "application/proto", asked) for asked in _asked(apps, seed)
    )
    statuses = await load.http(node.http, requests, 16)
    assert statuses == {200: _CALLS}, statuses


async def _over_grpc(node: processes.Process, token: str, apps: int, seed: int) -> None:
    metadata = (("authorization", f"Bearer {token}"),)
    assert await load.unary(node.grpc, _METHOD, _asked(apps, seed), metadata, 16) > 0


def _asked(apps: int, seed: int) -> Iterator[bytes]:
    chosen = random.Random(seed)
    for _ in range(_CALLS):
        app = f"app-{chosen.randrange(apps)}"
        yield pb.FetchRequest(org="acme", app=app, machine="m1").SerializeToString()


def _small_value() -> bytes:
    return b"v" * 64


def fill(
    root: Path,
    apps: int,
    *,
    per_app: int = _PER_APP,
    at_once: int = _APPS_A_TRANSACTION,
    value: Callable[[], bytes] = _small_value,
) -> cluster.Cluster:
    """A cluster with so many apps of so many secrets, written with the server's own rows and keys,
    so many apps a transaction."""
    root.mkdir()
    made = cluster.make(root)
    keyring = DataDir(made.directory).default_keyring.read_bytes()
    keys = Keys(Keyring.parse(keyring))
    bundles = Bundles(keys)
    with_writer = open_writer(DataDir(made.directory).database)
    now_ms = SystemClock().unix_ms()
    for first in range(0, apps, at_once):
        values = {
            n: [value() for _ in range(per_app)] for n in range(first, min(first + at_once, apps))
        }
        _transaction(with_writer, keys, bundles, values, now_ms)
    with_writer.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_TRUNCATE)
    with_writer.close()
    return made


def _transaction(
    db: apsw.Connection,
    keys: Keys,
    bundles: Bundles,
    values: Mapping[int, Sequence[bytes]],
    now_ms: int,
) -> None:
    """Add apps with these values, by the apps' numbers."""
    db.execute("BEGIN IMMEDIATE")
    before = read_position(db)
    txn = Txn(db, Position(before.epoch, before.txid + 1), now_ms)
    org = orgs.find_org(db, "acme")
    if org is None:
        org = orgs.insert_org(db, random_id(), "acme", now_ms)
        keys.create(db, org.tokens_owner, now_ms)
        add_root_key(db, keys, org.tokens_owner, now_ms)
    for number, of_app in values.items():
        app = orgs.insert_app(db, org, random_id(), f"app-{number}", now_ms)
        owner = app.owner(org.uid)
        key = keys.create(db, owner, now_ms)
        size = 0
        for index, value in enumerate(of_app):
            name = f"SECRET_{index:02d}"
            size += len(name) + len(value)
            place = owner.place(Record.VALUE, name.encode(), 1)
            digest = secret_digest(key, app.incarnation, name, value)
            envelope = keys.seal(db, owner, place, value)
            secrets.insert(db, app.id, SecretRow(name, 1, 1, digest, envelope, len(value)))
        version = VersionRow(1, now_ms, _NOBODY.subject, _NOBODY.nonce, "set", None)
        secrets.add_version(db, app, version, len(of_app), size)
        txn.changed[app.id] = None
    for topic in txn.changed:
        bundles.finish(txn, topic, [None])
    sql.run(db, "UPDATE position SET txid = ?", (txn.position.txid,))
    db.execute("COMMIT")
