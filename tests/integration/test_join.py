"""A machine joins, with the commands that an operator types, against a node that runs."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from petsem.crypto.keys import Purpose
from petsem.errors import PetsemError
from petsem.server.datadir import DataDir
from petsem.server.peer.dial import RENEW, ask, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.peer.join_token import JoinToken
from petsem.wire import petsem_pb2 as pb
from tests.support import cluster
from tests.support.daemon import Daemon, Ran, run
from tests.support.doors import Doors
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("join")
"""In one process, so that what is made once for this file is."""


@dataclass(frozen=True)
class Leader:
    """A node that runs, and the commands at it."""

    daemon: Daemon
    doors: Doors

    def invite(self, region: str = "fra") -> str:
        ran = self.doors.cli("node", "invite", "--region", region)
        assert ran.code == 0, ran.err
        return ran.out.decode().strip()

    def members(self) -> dict[str, dict[str, Any]]:
        return {each["node"]: each for each in self.doors.done("GET", "/v1/nodes")["nodes"]}


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leader]:
    made = cluster.make(tmp_path_factory.mktemp("join"))
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        yield Leader(daemon, doors)


def _join(directory: Path, token: str, *options: str, region: str = "fra") -> Ran:
    environ = {"PETSEM_JOIN_TOKEN": token}
    return run("join", directory, "--region", region, *options, environ=environ)


def _renew(directory: Path, address: str) -> bytes:
    """What the leader answers to the node that the directory is."""
    datadir = DataDir(directory)
    own = OwnCertificate(datadir, datadir.read_identity())

    async def call() -> bytes:
        channel = peer_channel(own.tls, own.cluster_id, address)
        try:
            request = pb.RenewRequest(csr=own.csr())
            reply = await ask(channel, RENEW, request, pb.RenewResponse, timeout_s=PATIENCE_S)
        finally:
            await channel.close(None)
        own.replace(reply.certificate)
        return reply.certificate

    return asyncio.run(call())


def test_from_invitation_to_removal(leader: Leader, tmp_path: Path) -> None:
    """Invited, joined, a member; the keys to place are named; removed, and refused from then on."""
    token = leader.invite()
    address = str(JoinToken.parse(token).addresses[0])
    directory = tmp_path / "replica"
    ran = _join(directory, token, "--http", "127.0.0.1:7410", "-o", "json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    node = told["node"]
    assert told["upstream"] == address
    assert [(each["purpose"], each["held"]) for each in told["keys"]] == [
        (each.value, False) for each in Purpose
    ]
    assert "3 of these keys are not in" in ran.err
    member = leader.members()[node]
    assert (member["region"], member["voter"], member["http"]) == ("fra", False, "127.0.0.1:7410")
    assert _renew(directory, address)
    refused = leader.doors.cli("node", "remove", node)
    assert refused.code == 2
    assert node in leader.members()
    removed = leader.doors.cli("node", "remove", node, "--yes", node)
    assert removed.code == 0, removed.err
    assert node not in leader.members()
    with pytest.raises(PetsemError) as gone:
        _renew(directory, address)
    assert gone.value.code.value == "denied"
    (own,) = leader.members()
    assert leader.doors.cli("node", "remove", own, "--yes", own).code == 5
    assert leader.doors.cli("node", "remove", node, "--yes", node).code == 4


def test_once(leader: Leader, tmp_path: Path) -> None:
    """Of many machines with one token, at the same time, one joins; the others learn its name."""
    token = leader.invite()
    before = leader.members().keys()
    with ThreadPoolExecutor(3) as pool:
        ran = list(pool.map(lambda n: _join(tmp_path / f"r{n}", token), range(3)))
    assert sorted(each.code for each in ran) == [0, 3, 3]
    (joined,) = leader.members().keys() - before
    for each in ran:
        if each.code:
            assert f"the join token was used already, by {joined}" in each.err
            assert each.err.count("\n") == 1


def test_killed_and_run_again(leader: Leader, tmp_path: Path) -> None:
    """A node that comes back from `kill -9` knows its members and its invitations."""
    token, spent = leader.invite(), leader.invite()
    assert _join(tmp_path / "one", spent).code == 0
    members = leader.members()
    leader.daemon.signal(signal.SIGKILL)
    leader.daemon.wait()
    # Nobody there: said so, with the way on.
    ran = _join(tmp_path / "two", token)
    assert ran.code == 6
    assert "run the same command again" in ran.err
    leader.daemon.start()
    with Doors(leader.daemon, leader.doors.operator) as doors:
        again = Leader(leader.daemon, doors)
        assert again.members() == members
        address = str(JoinToken.parse(again.invite()).addresses[0])
        assert _join(tmp_path / "three", spent, "--leader", address).code == 3
        ran = _join(tmp_path / "two", token, "--leader", address)
        assert ran.code == 0, ran.err
        assert len(again.members()) == len(members) + 1


def test_the_token_is_nowhere(leader: Leader, tmp_path: Path) -> None:
    """Not in the leader's directory or log, not in the replica's, and in no output but one."""
    with Doors(leader.daemon, leader.doors.operator) as doors:
        token = Leader(leader.daemon, doors).invite()
        ran = _join(tmp_path / "replica", token)
    assert ran.code == 0, ran.err
    parsed = JoinToken.parse(token)
    marks = [token[20:60].encode(), parsed.key.reveal()[40:80]]
    text = ran.out + ran.err.encode() + leader.daemon.said().encode()
    directories = (leader.daemon.directory, tmp_path / "replica")
    files = [path for each in directories for path in each.rglob("*") if path.is_file()]
    for mark in marks:
        assert mark not in text
        assert [path for path in files if mark in path.read_bytes()] == []
    assert "node_joined" in leader.daemon.said()


def test_serve_before_the_join_is_done(tmp_path: Path) -> None:
    """A directory whose join was broken off is told from a node and from any other directory."""
    now_nobody = _join(tmp_path / "x", "petsem_join_AA.000000")
    assert now_nobody.code == 2
    directory = DataDir(tmp_path / "half")
    directory.require_empty()
    directory.joining.touch(0o600)
    served = run("serve", directory.path)
    assert served.code == 2
    assert "has not joined its cluster yet; run petsem join again" in served.err
