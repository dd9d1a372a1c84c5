"""A small disk that really fills up: a tmpfs in a mount namespace of its own.

Only whoever may make such a namespace (root, mostly) has one. Nobody else on the machine sees the
mount, and it is gone when the process that holds the namespace ends.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.daemon import PETSEM, ROOT, SERVE, Daemon, Ran, clean_environ

_LOCK: Final = """
import apsw, sys
db = apsw.Connection(sys.argv[1], flags=apsw.SQLITE_OPEN_READWRITE)
db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
db.set_busy_timeout(5_000)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
db.execute("ROLLBACK")
"""


@dataclass(frozen=True)
class SmallDisk:
    """The disk is at `path` for the processes inside, and at `seen` for everybody else."""

    path: Path
    seen: Path
    enter: tuple[str, ...]

    def daemon(self, **more: Any) -> Daemon:
        """The node in `node` on this disk. Its log is on another one."""
        daemon = Daemon(self.path / "node", command=(*self.enter, *SERVE), **more)
        daemon.log = self.path.with_name("node.log")
        return daemon

    def run(self, *arguments: str | Path) -> Ran:
        """One `petsem` command inside."""
        done = subprocess.run(
            [*self.enter, *PETSEM, *map(str, arguments)],
            capture_output=True,
            env=clean_environ(TMPDIR=str(self.path.parent)),
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The database's write lock in another process's hand, so that writes queue up for one
        group. The node bears that for two seconds."""
        held = subprocess.Popen(
            [*self.enter, sys.executable, "-c", _LOCK, str(self.path / "node" / "petsem.db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert held.stdin is not None
        assert held.stdout is not None
        try:
            assert held.stdout.readline() == b"locked\n"
            yield
        finally:
            held.stdin.close()
            held.stdout.close()
            held.wait(10)

    @property
    def free_bytes(self) -> int:
        """What is left."""
        return shutil.disk_usage(self.seen).free

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all but so many bytes, on top of what was taken before."""
        with (self.seen / "filler").open("ab", buffering=0) as filler:
            while (size := min(self.free_bytes - leave_bytes, 1 << 20)) > 0:
                try:
                    filler.write(bytes(size))
                except OSError:
                    return

    def clear(self) -> None:
        """Give back what `fill` took."""
        (self.seen / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(root: Path, size_mib: int) -> Iterator[SmallDisk | None]:
    """Such a disk, as long as this lasts; None where it is not to be had."""
    path = root / "disk"
    path.mkdir()
    script = f"mount -t tmpfs -o size={size_mib}m,mode=700 tmpfs '{path}' && echo ready && cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        yield None
        return
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != b"ready\n" or shutil.which("nsenter") is None:
            yield None
            return
        enter = ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--wd={ROOT}", "--")
        yield SmallDisk(path, Path(f"/proc/{holder.pid}/root{path}"), enter)
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait(10)
