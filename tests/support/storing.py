"""A process that is a replica's disk and ends itself at a named step, as `kill -9` does.

`python -m tests.support.storing DIRECTORY FILE [STEP N]`: from wherever the directory stands, takes
the snapshot that `FILE` has and the transactions that follow, a few at a time, and says on its
output what is durable.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

from petsem.model import Position
from petsem.replication.image import PAGE_SIZE
from tests.support.applying import killing_step
from tests.support.leader_source import Record
from tests.unit.server.replica.store_rig import Rig

RUN_BYTES = 64 * PAGE_SIZE


@dataclass(frozen=True)
class Script:
    """A snapshot at `at`, and what follows."""

    at: Position
    image: bytes
    records: list[Record]


async def replay(rig: Rig, script: Script, *, batch: int = 3) -> None:
    """From wherever the store stands to the end of the script."""
    store = rig.store
    if store.durable is None:
        first = 1
        if store.resume is not None and store.resume[0] == script.at:
            first = store.resume[1]
        await store.begin_snapshot(script.at, len(script.image) // PAGE_SIZE, first)
        for offset in range((first - 1) * PAGE_SIZE, len(script.image), RUN_BYTES):
            data = script.image[offset : offset + RUN_BYTES]
            await store.snapshot_pages(offset // PAGE_SIZE + 1, data)
        await store.end_snapshot(script.at, b"")
    count = 0
    while store.durable is not None:
        print(store.durable.txid, flush=True)
        due = script.records[store.durable.txid - script.at.txid :][:batch]
        if not due:
            return
        await rig.follow(due)
        count += 1
        if count % 3 == 0:
            await store.sync()
            await store.trim(None)


async def main(script: Script, directory: str, step: str = "", calls: str = "0") -> None:
    rig = Rig(Path(directory))
    rig.segment_bytes = 2**20
    await rig.open(killing_step(step, int(calls)))
    await replay(rig, script)
    await rig.close()


if __name__ == "__main__":
    # Under its own name, because that is how a script was pickled.
    from tests.support import storing

    _, at, script, *fatal = sys.argv
    asyncio.run(storing.main(pickle.loads(Path(script).read_bytes()), at, *fatal))
