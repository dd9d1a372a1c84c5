"""Real processes: nodes, the bare servers they are measured against, and what the kernel says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

PETSEM: Final = Path(sys.executable).with_name("petsem")
READY_WITHIN_S: Final = 30


@dataclass(frozen=True, slots=True)
class Process:
    """A running server: its pid, and the ports it listens on."""

    pid: int
    http: int
    grpc: int
    ready_s: float = 0.0
    peer: int = 0

    def cpu_s(self) -> float:
        """Seconds of CPU, user and system, of all its threads so far.

        The scheduler's own count in nanoseconds: clock ticks are too coarse for short runs.
        """
        total_ns = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def resident_mib(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def bare(*arguments: str) -> Iterator[Process]:
    """One of the bare servers of `tests.bench.bare`."""
    with _running([sys.executable, "-m", "tests.bench.bare", *arguments]) as child:
        assert child.stdout is not None
        port = json.loads(child.stdout.readline())["port"]
        yield Process(child.pid, port, port)


@contextlib.contextmanager
def light_followers(peer: int, directories: Sequence[Path]) -> Iterator[None]:
    """`tests.bench.light_followers` with these nodes' certificates, once all have all there is."""
    program = [sys.executable, "-m", "tests.bench.light_followers", f"127.0.0.1:{peer}"]
    with _running([*program, *map(str, directories)]) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["following"] == len(directories)
        yield


@contextlib.contextmanager
def node(directory: Path, *command: str) -> Iterator[Process]:
    """`petsem serve DIR`, ready. `command` replaces the program, keeping its output's form.

    What it logs goes to `DIR.log`, beside the directory.
    """
    arguments = [*(command or (str(PETSEM), "serve")), str(directory)]
    log = directory.with_name(directory.name + ".log")
    started_s = time.monotonic()
    with log.open("wb") as sink, _running(arguments, stderr=sink) as child:
        event = _serving(child, log)
        ready_s = time.monotonic() - started_s
        ports = {door: int(event[door].rpartition(":")[2]) for door in ("http", "grpc", "peer")}
        yield Process(child.pid, ports["http"], ports["grpc"], ready_s, ports["peer"])


def _serving(child: subprocess.Popen[str], log: Path) -> dict[str, str]:
    """The event with which a node says that it serves, and where."""
    deadline_s = time.monotonic() + READY_WITHIN_S
    while child.poll() is None and time.monotonic() < deadline_s:
        for line in log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                event: dict[str, str] = json.loads(line)
                if event.get("event") == "serving":
                    return event
        time.sleep(0.005)
    raise RuntimeError(f"the node did not start: {log.read_text()}")


@contextlib.contextmanager
def _running(
    arguments: list[str], *, stderr: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A directory on the same disk as the checkout would be in use, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="petsem-bench-") as name:
        yield Path(name)
