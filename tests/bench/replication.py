"""How soon a replica has what the leader committed, how fast one catches up or begins, and what
followers cost the leader. All over loopback, every node a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import os
import shutil
import statistics
import tracemalloc
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain, islice
from typing import Final

from petsem.replication.image import PAGE_SIZE
from petsem.replication.ltx import page_checksum
from petsem.replication.rolling import PageChecksums
from tests.bench import load, paced, scale
from tests.bench.replicated import Leader, Stamps, leader, replica, small_writes
from tests.support import cluster, processes

_PER_S: Final = 200
_ROUNDS: Final = 5
_ROUND: Final = 400
_AWAY: Final = 6_000
_APPS, _PER_APP, _VALUE_BYTES = 160, 16, 60 * 1024
_REPLICAS: Final = 3
_LIGHT: Final = 8
_LIGHT_ROUNDS: Final = 3
_WITHOUT, _WITH = 600, 1_600
_TABLE_PAGES: Final = 200_000


def run() -> None:
    """Print each figure with its bar."""
    _following()
    _catching_up()
    _snapshots()
    _light_followers()
    _table()


def _following() -> None:
    """A commit's way to a reader of a replica, and what the leader reads for it."""
    with processes.temporary() as root, leader(cluster.make(root)) as leads:
        writes = small_writes(leads)
        with replica(leads.join("fra")) as follows:
            first = leads.txid
            asyncio.run(paced.http(leads.process.http, islice(writes, _ROUND), _PER_S))
            follows.seen(leads.txid)
            sizes = [size for txid, size in leads.stamps.of("message") if txid > first]
            size = int(statistics.median(sizes))
            hops, ways = [], []
            with processes.bare("stream", str(size)) as bare:
                for _ in range(_ROUNDS):
                    hops.append(asyncio.run(paced.hops(bare.grpc, _ROUND)))
                    first = leads.txid
                    asyncio.run(paced.http(leads.process.http, islice(writes, _ROUND), _PER_S))
                    ways.append(_ways(leads, follows, first))
        ratios = [
            statistics.median(way) / statistics.median(hop)
            for way, hop in zip(ways, hops, strict=True)
        ]
        hop, way = (statistics.median(chain.from_iterable(each)) * 1e3 for each in (hops, ways))
        print(f"bare grpc.aio hop of {size:,} bytes: {hop:.2f} ms; commit to visible: {way:.2f} ms")
        print(
            f"commit to visible / hop: {statistics.median(ratios):.1f}  (bar: at most 8;"
            f" rounds {min(ratios):.1f} to {max(ratios):.1f})"
        )
        p99 = _percentile(list(chain.from_iterable(ways)), 0.99)
        tails = [_percentile(each, 0.99) * 1e3 for each in ways]
        print(
            f"commit to visible, p99: {p99 * 1e3:.1f} ms"
            f"  (bar: 20; rounds {min(tails):.1f} to {max(tails):.1f})"
        )
        commits = [spent for _txid, spent, _ended in leads.stamps.of("commit")]
        reads = leads.stamps.of("read")
        read, commit = (
            statistics.median(spent for spent, count in reads if count == 1),
            statistics.median(commits),
        )
        mean = sum(spent for spent, _ in reads) / sum(count for _, count in reads)
        print(
            f"reading the frames / COMMIT: {read / commit:.1%}  (bar: at most 15 %;"
            f" medians {read / 1e3:.0f} and {commit / 1e3:.0f} µs;"
            f" of the means {mean / statistics.mean(commits):.1%})"
        )


def _ways(leads: Leader, follows: Stamps, first: int) -> list[float]:
    """Seconds from the end of each COMMIT after `first` until a reader saw it."""
    follows.seen(leads.txid)
    visible = follows.of("visible")
    commits = [each for each in leads.stamps.of("commit") if each[0] > first]
    return [
        (visible[bisect_left(visible, (txid, 0))][1] - ended) / 1e9
        for txid, _spent, ended in commits
    ]


def _catching_up() -> None:
    """Replicas that were away while another followed, so that the log has single transactions."""
    with processes.temporary() as root, leader(cluster.make(root)) as leads:
        writes = small_writes(leads)
        away = [leads.join(f"away-{number}") for number in range(_REPLICAS)]
        light = leads.join("light")
        behind = leads.txid
        with contextlib.ExitStack() as running:
            for follows in [running.enter_context(replica(each)) for each in away]:
                follows.seen(behind)
        with processes.light_followers(leads.process.peer, [light]):
            asyncio.run(load.http(leads.process.http, islice(writes, _AWAY), 1))
        count, rates = leads.txid - behind, []
        for directory in away:
            Stamps(directory).forget()
            with replica(directory) as follows:
                seen = follows.seen(leads.txid)
                assert not follows.of("begun"), "it took a snapshot"
                rates.append(count / (seen - follows.of("welcomed")[0][0]) * 1e9)
        print(
            f"catch-up of {count:,} transactions: {statistics.median(rates):,.0f} a second"
            f"  (bar: at least 5,000; {min(rates):,.0f} to {max(rates):,.0f})"
        )


def _snapshots() -> None:
    """The first snapshot of new replicas."""
    with processes.temporary() as root:
        made = scale.fill(
            root / "full",
            _APPS,
            per_app=_PER_APP,
            at_once=8,
            value=lambda: os.urandom(_VALUE_BYTES),
        )
        mib = (made.directory / "petsem.db").stat().st_size / 2**20
        whole, transfer = [], []
        with leader(made) as leads:
            for number in range(_REPLICAS):
                directory = leads.join(f"new-{number}")
                with replica(directory) as follows:
                    follows.seen(leads.txid)
                    begun, received, installed = (
                        follows.of(word)[-1][0] for word in ("begun", "received", "installed")
                    )
                whole.append(mib / (installed - begun) * 1e9)
                transfer.append(mib / (received - begun) * 1e9)
                shutil.rmtree(directory)
        print(
            f"snapshot of {mib:.0f} MiB: {statistics.median(whole):.0f} MiB/s until it is applied"
            f"  (bar: at least 150; {min(whole):.0f} to {max(whole):.0f}),"
            f" {statistics.median(transfer):.0f} MiB/s of transfer"
            f" ({min(transfer):.0f} to {max(transfer):.0f})"
        )


def _light_followers() -> None:
    """The leader's writes with followers, one of which stands still, and without."""
    with processes.temporary() as root, leader(cluster.make(root)) as leads:
        port, writes = leads.process.http, small_writes(leads)
        asyncio.run(paced.http(port, islice(writes, _ROUND), _PER_S))
        directories = [leads.join(f"light-{number}") for number in range(_LIGHT)]
        alone, followed = [], []
        for _ in range(_LIGHT_ROUNDS):
            alone.append(asyncio.run(paced.http(port, islice(writes, _WITHOUT), _PER_S)))
            with processes.light_followers(leads.process.peer, directories):
                followed.append(asyncio.run(paced.http(port, islice(writes, _WITH), _PER_S)))
        alone.append(asyncio.run(paced.http(port, islice(writes, _WITHOUT), _PER_S)))
    without = statistics.median(chain.from_iterable(alone))
    # Each run is held against those before and after it: the machine may have other work too.
    ratios = [
        statistics.median(took) / statistics.median(around)
        for took, around in zip(followed, map(operator.add, alone, alone[1:]), strict=True)
    ]
    p99 = [_percentile(list(chain.from_iterable(each)), 0.99) * 1e3 for each in (followed, alone)]
    print(
        f"a write with {_LIGHT} followers, one stopped / with none:"
        f" {statistics.median(ratios):.2f}  (bar: at most 2; {min(ratios):.2f} to"
        f" {max(ratios):.2f}; {without * 1e3:.2f} ms with none; p99 {p99[0]:.1f} and"
        f" {p99[1]:.1f} ms)"
    )
    quarter = _WITH // 4
    growth = [
        statistics.median(took[-quarter:]) / statistics.median(took[:quarter]) for took in followed
    ]
    print(
        f"its last quarter / its first: {statistics.median(growth):.2f}"
        f"  (bar: no growth; {min(growth):.2f} to {max(growth):.2f})"
    )


def _table() -> None:
    """Memory for the checksums, of a table that has grown page by page and of a loaded one."""
    page = bytes(PAGE_SIZE)
    held = []
    for grown in (True, False):
        tracemalloc.start()
        if grown:
            table = PageChecksums()
            for pgno in range(1, _TABLE_PAGES + 1):
                table.accept(table.plan([(pgno, page)], pgno))
        else:
            table = PageChecksums.all_unknown(_TABLE_PAGES, page_checksum(1, page))
        held.append(tracemalloc.get_traced_memory()[0] / _TABLE_PAGES)
        tracemalloc.stop()
        del table
    print(
        f"memory for checksums: {held[0]:.2f} bytes a page after growing page by page"
        f"  (bar: at most 8; {held[1]:.2f} in one that was loaded)"
    )


def _percentile(figures: Sequence[float], share: float) -> float:
    return sorted(figures)[int(share * (len(figures) - 1))]
