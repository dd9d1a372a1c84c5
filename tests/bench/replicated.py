"""A leader and its replicas as processes that stamp what they do, and small writes for them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from petsem.server.join import join_cluster
from tests.bench import load
from tests.support import cluster, processes

APPS: Final = 64
_COMMAND: Final = (sys.executable, "-m", "tests.bench.stamped")
_WITHIN_S: Final = 60.0


class Stamps:
    """What a stamping node has written; see `tests.bench.stamped`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory.with_name(directory.name + ".stamps")

    def of(self, word: str) -> list[tuple[int, ...]]:
        """The numbers of each line that begins with `word`, in order."""
        if not self._path.exists():
            return []
        *lines, _unfinished = self._path.read_text().split("\n")
        return [tuple(map(int, line.split()[1:])) for line in lines if line.split()[0] == word]

    def forget(self) -> None:
        """Begin anew; the node must not run."""
        self._path.unlink(missing_ok=True)

    def seen(self, txid: int) -> int:
        """When a reader of the replica saw `txid`, once one has."""
        deadline_s = time.monotonic() + _WITHIN_S
        while time.monotonic() < deadline_s:
            for position, at in self.of("visible"):
                if position >= txid:
                    return at
            time.sleep(0.05)
        raise RuntimeError(f"the replica does not reach {txid}")


@dataclass(frozen=True, slots=True)
class Leader:
    """A running leader."""

    made: cluster.Cluster
    process: processes.Process
    api: cluster.Api
    stamps: Stamps

    @property
    def txid(self) -> int:
        """The last that was committed."""
        return self.stamps.of("commit")[-1][0]

    def join(self, name: str) -> Path:
        """The directory of a new replica, with the leader's keyring."""
        directory = self.made.directory.with_name(name)
        invited = self.api.call("POST", "/v1/nodes/invite", {"region": "fra"})
        shutil.copy(f"{self.made.directory}.keyring.json", f"{directory}.keyring.json")
        join_cluster(
            directory,
            str(invited["join_token"]),
            region="fra",
            http=cluster.ANY_PORT,
            grpc=cluster.ANY_PORT,
            peer=cluster.ANY_PORT,
            environ={},
        )
        return directory


@contextlib.contextmanager
def leader(made: cluster.Cluster) -> Iterator[Leader]:
    """The cluster's first node, which leads."""
    with processes.node(made.directory, *_COMMAND) as node:
        yield Leader(made, node, cluster.Api(node.http, made.operator), Stamps(made.directory))


@contextlib.contextmanager
def replica(directory: Path) -> Iterator[Stamps]:
    """A joined node."""
    with processes.node(directory, *_COMMAND):
        yield Stamps(directory)


def small_writes(leads: Leader) -> Iterator[bytes]:
    """Requests without end that set one secret of one app after the other, of apps made here."""
    api = leads.api
    api.call("POST", "/v1/orgs", {"org": "acme"})
    for number in range(APPS):
        api.call("POST", "/v1/orgs/acme/apps", {"app": f"app-{number}"})
    caveats = ["action = secrets:write", f"time < {cluster.in_a_day()}"]
    body = {"org": "acme", "kind": "deploy", "caveats": caveats}
    token = str(api.call("POST", "/v1/tokens", body)["token"])
    return itertools.cycle(
        [
            load.request(
                "PATCH",
                f"/v1/orgs/acme/apps/app-{number}/secrets",
                token,
                "application/json",
                b'{"set": {"DATABASE_URL": "postgres://app:secret@db.internal:5432/app"}}',
            )
            for number in range(APPS)
        ]
    )
