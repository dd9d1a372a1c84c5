"""Reading WALs against a plain second reading, against SQLite's own recovery, and live."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import apsw
from hypothesis import given, settings
from hypothesis import strategies as st

from petsem.replication.drivers.wal_tail import WalLost, WalTail
from petsem.replication.wal import WalCommit, WalError, WalHeader, WalScanner, frame_page
from petsem.replication.wal_checksum import add_page
from tests.support.wal_files import (
    FRAME,
    PAGE,
    Image,
    Order,
    Plain,
    Rig,
    build,
    plain_read,
    words_sum,
)

WORD = st.integers(0, 2**32 - 1)
ORDERS: st.SearchStrategy[Order] = st.sampled_from(("little", "big"))


def scan(wal: bytes, chunk: int, hold: int) -> Plain:
    """What the scanner finds, fed with `chunk` frames at a time."""

    def fetch(salts: bytes, pgno: int, offset: int) -> bytes:
        page = frame_page(wal[offset - 24 : offset + PAGE], salts, pgno)
        assert page is not None
        return page

    try:
        header = WalHeader.parse(wal)
    except WalError:
        return []
    scanner = WalScanner(header, header.start, fetch, verify=True, hold=hold)
    while not scanner.done:
        data = wal[scanner.offset : scanner.offset + chunk * FRAME]
        scanner.feed(data)
        if len(data) < FRAME:
            break
    return [(c.size, c.end.frames, {n: c.page(n) for n in c.found}) for c in scanner.commits]


@settings(max_examples=200)
@given(st.binary(min_size=1, max_size=100), st.integers(0, 2**64), WORD, WORD, ORDERS)
def test_the_checksum_of_any_page(start: bytes, seed: int, s0: int, s1: int, order: Order) -> None:
    """The folded sum is that of the loop, for pages that repeat themselves and for random ones."""
    rest = start * PAGE if seed % 2 else random.Random(seed).randbytes(PAGE)
    page = (start + rest)[:PAGE]
    assert add_page((s0, s1), page, order) == words_sum(page, order, s0, s1)


FRAMES = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1) | st.integers(1, 5),
        st.just(0) | st.integers(1, 2**32 - 1),
        st.integers(0, 255).map(lambda b: bytes((b,)) * PAGE),
    ),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_to_any_wal(data: st.DataObject) -> None:
    """Cut, altered and followed by an older generation: the same commits as by a plain reading."""
    wal = build(data.draw(ORDERS), data.draw(FRAMES))
    wal = wal[: data.draw(st.integers(0, len(wal)) | st.just(len(wal)))]
    older = build(
        data.draw(ORDERS),
        data.draw(FRAMES),
        salts=data.draw(st.sampled_from((b"saltsalt", b"old1old2"))),
    )
    wal += older[len(wal) :] if data.draw(st.booleans()) else b""
    if wal and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(wal) - 1))
        wal = wal[:at] + bytes((wal[at] ^ data.draw(st.integers(1, 255)),)) + wal[at + 1 :]
    chunk, hold = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 9))
    assert scan(wal, chunk, hold) == plain_read(wal)


STATEMENTS: st.SearchStrategy[tuple[str, tuple[Any, ...]]] = st.one_of(
    st.tuples(st.just("INSERT INTO t (x) VALUES (zeroblob(?))"), st.tuples(st.integers(0, 60_000))),
    st.tuples(
        st.just("UPDATE t SET x = CAST(hex(x) AS BLOB) WHERE id % 5 = ? AND length(x) < 50000"),
        st.tuples(st.integers(0, 4)),
    ),
    st.tuples(st.just("DELETE FROM t WHERE id % 4 = ?"), st.tuples(st.integers(0, 3))),
)
TRANSACTIONS = st.tuples(
    st.sampled_from(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")),
    st.lists(STATEMENTS, min_size=1, max_size=4),
)
TURNS = st.lists(
    TRANSACTIONS
    | st.sampled_from(
        (
            "vacuum", "read", "count", "passive", "restart", "truncate", "careless", "new",
        )
    ),
    max_size=25,
)  # fmt: skip
MODES = {
    "passive": apsw.SQLITE_CHECKPOINT_PASSIVE,
    "restart": apsw.SQLITE_CHECKPOINT_RESTART,
    "truncate": apsw.SQLITE_CHECKPOINT_TRUNCATE,
}


def transact(rig: Rig, end: str, statements: list[tuple[str, tuple[Any, ...]]]) -> None:
    rig.run("BEGIN")
    for sql, args in statements:
        rig.run(sql, *args)
    rig.run(end)


@settings(max_examples=60, deadline=None)
@given(TURNS)
def test_a_live_wal(turns: list[Any]) -> None:
    """Whatever is committed, rolled back and checkpointed, and whenever it is read: after each
    reading the pages make the database, or WalLost says that they cannot."""
    with tempfile.TemporaryDirectory(prefix="petsem-wal-") as directory:
        rig = Rig(Path(directory))
        rig.run("PRAGMA cache_size = 5")
        rig.table()
        image = Image()
        tail = WalTail(rig.wal)
        lost_for_a_reason = False

        def read(frames: int | None) -> None:
            nonlocal tail, lost_for_a_reason
            try:
                commits: list[WalCommit] = tail.read(frames)
            except WalLost:
                assert lost_for_a_reason
                tail.close()
                tail = WalTail(rig.wal)
                tail.read(rig.counted())
                assert tail.allow_restart(rig.counted())
                image.data[:] = rig.image()
                lost_for_a_reason = False
                return
            for commit in commits:
                image.apply(commit.pages(), commit.size)
            assert bytes(image.data) == rig.image()

        read(rig.counted())
        for turn in turns:
            if isinstance(turn, tuple):
                transact(rig, *turn)
            elif turn == "vacuum":
                rig.run("VACUUM")
            elif turn == "read":
                read(None)
            elif turn == "count":
                read(rig.counted())
            elif turn == "careless":
                # Nobody asked the reader; it may have to assume that something is missing.
                read(rig.counted())
                rig.checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
                lost_for_a_reason = True
            elif turn == "new":
                read(rig.counted())
                tail.close()
                tail = WalTail(rig.wal)
                tail.read(rig.counted())
                assert tail.allow_restart(rig.counted())
            else:
                if not tail.allow_restart(rig.counted()):
                    read(rig.counted())
                    assert tail.allow_restart(rig.counted())
                rig.checkpoint(MODES[turn])
        read(rig.counted())
        tail.close()
        rig.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(TRANSACTIONS, min_size=1, max_size=5), ORDERS, st.data())
def test_sqlite_recovers_the_same(
    transactions: list[Any], order: Order, data: st.DataObject
) -> None:
    """After a crash with a WAL that was cut or altered anywhere, SQLite counts the frames that
    were read here, and its database is that of the pages."""
    with tempfile.TemporaryDirectory(prefix="petsem-wal-") as directory:
        rig = Rig(Path(directory))
        before = rig.image()
        rig.table()
        for transaction in transactions:
            transact(rig, *transaction)
        wal = rig.wal.read_bytes()
        rig.close()
        frames = [
            (int.from_bytes(wal[at : at + 4], "big"), int.from_bytes(wal[at + 4 : at + 8], "big"),
             wal[at + 24 : at + FRAME])
            for at in range(32, len(wal), FRAME)
        ]  # fmt: skip
        wal = build(order, frames)
        at = data.draw(st.integers(0, len(wal) - 1))
        if data.draw(st.booleans()):
            wal = wal[:at]
        else:
            wal = wal[:at] + bytes((wal[at] ^ data.draw(st.integers(1, 255)),)) + wal[at + 1 :]

        crashed = Path(directory) / "crashed.db"
        crashed.write_bytes(before)
        Path(f"{crashed}-wal").write_bytes(wal)
        image = Image(before)
        tail = WalTail(Path(f"{crashed}-wal"))
        for commit in tail.read():
            image.apply(commit.pages(), commit.size)

        db = apsw.Connection(str(crashed))
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        assert bytes(db.serialize("main")) == bytes(image.data)
        counted = db.wal_checkpoint(None, apsw.SQLITE_CHECKPOINT_NOOP)[0]
        assert tail.frames == max(counted, 0)
        tail.close()
        db.close(True)
