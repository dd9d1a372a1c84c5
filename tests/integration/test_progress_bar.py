"""A new replica's snapshot on a terminal: `petsem serve` whose stderr is one."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import ROOT, SERVE, clean_environ, until
from tests.support.fleet import fleet

ERASE = b"\r\x1b[2K"


@contextmanager
def on_a_terminal(directory: Path) -> Iterator[bytearray]:
    """The node, and what its terminal gets."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                got = os.read(ours, 65_536)
            except OSError:
                return
            shown.extend(got)

    child = subprocess.Popen(
        [*SERVE, str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=clean_environ(TERM="xterm"),
        cwd=ROOT,
    )
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield shown
        child.terminate()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        reader.join()
        os.close(ours)


def test_a_bar_while_the_snapshot_comes(tmp_path: Path) -> None:
    """It is drawn, comes to its end, and is erased before the record that says so; elsewhere there
    are records only."""
    with fleet(tmp_path, 0) as cluster:
        new = cluster.join("fra")
        with on_a_terminal(new.directory) as shown:
            until(lambda: b"snapshot_applied" in shown, "snapshot on the terminal", 30)
        drawn = bytes(shown)
        assert drawn.count(b"snapshot ") >= 1
        assert b"100%" in drawn
        assert b"MiB/s" in drawn
        last_bar = drawn.rindex(b"MiB/s")
        assert drawn.index(ERASE, last_bar) < drawn.index(b"snapshot_applied")
        assert ERASE not in drawn[drawn.index(b"snapshot_applied") :]
        other = cluster.join("nrt")
        other.daemon.start()
        other.says("snapshot_applied")
        assert "\x1b" not in other.daemon.said()
