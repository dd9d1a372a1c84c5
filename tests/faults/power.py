"""A replica whose machine loses power again and again, while it follows and while it recovers.

What was not synced is torn at random: the log, the database, and the rollback journal, which nobody
ever syncs and whose removal may be undone. What the replica had said to be durable is there after
each loss, and its own log makes the database whole again, without help.
"""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path
from typing import Final

from petsem.replication.drivers import rollback
from petsem.replication.drivers.log_reader import LogReader
from tests.faults.kills import TOLD_EVERY, Tell
from tests.support import losing_node, stock
from tests.support.daemon import Daemon, until
from tests.support.doors import Doors
from tests.support.fleet import Fleet, Member, fleet

CALLS: Final = (25, 120)
"""Until the power goes: within a start, or some transactions later."""
WRITES_MAX: Final = 200
SHRINK_EVERY: Final = 7
HOT_WITHIN: Final = 25
"""Losses, of which about one in three leaves a hot journal; of a few perhaps none."""
LOOK_EVERY: Final = 3
"""Else the next loss finds what this one left."""


async def of_losses(root: Path, losses: int, seed: int, tell: Tell = print) -> list[str]:
    """So many losses of power."""
    return await asyncio.to_thread(_losses, root, losses, seed, tell)


def _losses(root: Path, losses: int, seed: int, tell: Tell) -> list[str]:
    chance = random.Random(seed)
    promised = hot = 0
    with fleet(root, 1) as cluster:
        (replica,) = cluster.replicas
        replica.daemon.kill()
        for number in range(1, losses + 1):
            calls = chance.randrange(1, chance.choice(CALLS))
            program = losing_node.command(chance.randrange(2**32), calls)
            losing = _member(replica, Daemon(replica.directory, command=program))
            before = _connections(cluster)
            losing.daemon.begin()
            if number % SHRINK_EVERY == 0:
                _shrink(cluster, chance)
            until(
                lambda: not losing.daemon.alive or _connections(cluster) > before,  # noqa: B023
                "connection or loss of power",
                30,
            )
            promised = max(promised, _write_until(losing, cluster, chance))
            assert losing.daemon.wait() == -signal.SIGKILL, losing.daemon.said()
            end = LogReader.open_read_only(replica.directory / "ltx").end
            assert end is not None
            assert end.txid >= promised, "what was said to be durable is gone"
            hot += rollback.is_hot(rollback.journal_path(replica.database))
            if number % LOOK_EVERY == 0 or number == losses:
                _whole(cluster, replica)
            if number % TOLD_EVERY == 0 or number == losses:
                tell(f"{number} of {losses} losses of power, {hot} with a hot journal left")
        at = cluster.position()
        # Without these the losses would have shown little.
        assert promised > 0
        assert hot > 0 or losses < HOT_WITHIN
        told = replica.daemon.log.read_text()
        for event in ("replica_needs_snapshot", "log_damaged", "replay_failed", "scan_failed"):
            assert f'"{event}"' not in told, told
    return [
        f"the power went {losses} times, and left a torn journal that is hot {hot} times",
        f"nothing that was said to be durable was lost, up to transaction {promised:,}",
        f"byte-identical with the leader's canonical image at {at}; its own log had "
        "put everything right that was torn",
    ]


def _member(like: Member, daemon: Daemon) -> Member:
    return Member(daemon, like.directory, like.operator, like.ports)


def _connections(cluster: Fleet) -> int:
    return len(cluster.leader.logged("follower_connected"))


def _write_until(losing: Member, cluster: Fleet, chance: random.Random) -> int:
    """Write until the power goes; the last transaction that it had on its disk, as it said."""
    promised = 0
    with cluster.leader.doors() as doors:
        for _ in range(WRITES_MAX):
            if not losing.daemon.alive:
                break
            promised = max(promised, _write(doors, chance))
    until(lambda: not losing.daemon.alive, f"loss of power:\n{losing.daemon.said()}", 30)
    return promised


def _write(doors: Doors, chance: random.Random) -> int:
    values = {f"N{chance.randrange(9)}": "x" * chance.choice((10, 900, 30_000))}
    body = {"set": values, "durability": {"replicated": 1}}
    answer = doors.done("PATCH", "/v1/orgs/acme/apps/web/secrets", body)
    return int(answer["position"].split("-")[1], 16) if answer["durability"]["met"] else 0


def _shrink(cluster: Fleet, chance: random.Random) -> None:
    """Of the leader's database, so that the replica takes a snapshot and becomes shorter."""
    org = f"gone-{chance.randrange(2**32):x}"
    with cluster.leader.doors() as doors:
        doors.furnish(org, "web")
        for number in range(6):
            doors.set(f"{org}/web", **{f"N{number}": chance.randbytes(9_000)})
        doors.done("DELETE", f"/v1/orgs/{org}?now=true")
        stock.ask(stock.commands(cluster.leader.database)[0], "VACUUM")
        # The leader hears of it with its next transaction, and until then has other pages than its
        # replica at one position. The power may go before any other.
        doors.set("acme/web", SHRUNK=org)


def _whole(cluster: Fleet, replica: Member) -> None:
    """A healthy process recovers, and gets the rest."""
    healthy = _member(replica, Daemon(replica.directory))
    healthy.daemon.start()
    cluster.converged(healthy)
    assert healthy.daemon.stop() == 0
