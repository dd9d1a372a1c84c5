"""A replica's disk whose process is killed at each named step: nothing durable is missing, and the
file is what the leader had."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from petsem.replication import steps
from tests.support.leader_source import LeaderSource
from tests.support.storing import Script, replay
from tests.unit.server.replica.store_rig import Rig

STEPS = [
    (steps.LOG_APPEND, 1),
    (steps.LOG_APPEND, 30),
    (steps.LOG_SYNC, 9),
    (steps.SEGMENT_CHANGE, 2),
    (steps.APPLY_JOURNAL, 1),
    (steps.APPLY_JOURNAL, 12),
    (steps.APPLY_PAGES, 1),
    (steps.APPLY_PAGES, 14),
    (steps.APPLY_TRUNCATE, 2),
    (steps.JOURNAL_REMOVAL, 1),
    (steps.JOURNAL_REMOVAL, 8),
    (steps.SYNC_DATABASE, 1),
    (steps.SYNC_DATABASE, 3),
    (steps.SNAPSHOT_STAGE, 1),
    (steps.SNAPSHOT_APPLY, 1),
]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Script, dict[int, str]]:
    """What the replica is sent, and what its file must be after each transaction."""
    directory = tmp_path_factory.mktemp("source")
    leader = LeaderSource(directory / "leader")
    leader.fill(400)
    at, image = leader.position, leader.image()
    images = {at.txid: _hash(image)}
    for count in range(45):
        if count % 11 == 5:
            leader.run("DELETE FROM t WHERE id > 300")
            images[leader.position.txid] = _hash(leader.image())
            leader.vacuum()
        elif count % 11 == 4:
            leader.fill(4_000)
        else:
            leader.run("UPDATE t SET x = randomblob(900) WHERE id % 50 = ?", count)
        images[leader.position.txid] = _hash(leader.image())
    made = Script(at, image, leader.after(at.txid))
    leader.close()
    file = directory / "script"
    file.write_bytes(pickle.dumps(made))
    return file, made, images


def _hash(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def _run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.support.storing", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=False)


@pytest.mark.parametrize(("step", "calls"), STEPS)
async def test_a_kill_at_a_step_loses_nothing(
    tmp_path: Path, script: tuple[Path, Script, dict[int, str]], step: str, calls: int
) -> None:
    """What was said to be durable is there, the database is at the end of the log, and the rest
    follows from there."""
    file, made, images = script
    directory = tmp_path / "replica"
    done = await asyncio.to_thread(_run, str(directory), str(file), step, str(calls))
    assert done.returncode == -signal.SIGKILL, f"{step} was not reached {calls} times"
    promised = int((done.stdout.split() or [b"0"])[-1])
    rig = Rig(directory)
    store = await rig.open()
    if promised or store.durable is not None:
        assert store.durable is not None
        assert store.durable.txid >= promised
        assert store.applied == store.durable
        assert _hash(rig.image()) == images[store.durable.txid]
    await replay(rig, made)
    assert _hash(rig.image()) == images[made.at.txid + len(made.records)]
    assert rig.read("PRAGMA integrity_check") == [("ok",)]
    await rig.close()
    rig.helper.shutdown()
