"""A node as its supervisor has it: started, told to stop, killed, and started again."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

from tests.support.patience import PATIENCE_S

T = TypeVar("T")

PETSEM: Final = (sys.executable, "-c", "from petsem.cli.main import main; main()")
"""The command line."""
SERVE: Final = (*PETSEM, "serve")
START_WITHIN_S: Final = PATIENCE_S
STOP_WITHIN_S: Final = PATIENCE_S
ROOT: Final = Path(__file__).parents[2]
"""Where nodes and commands run, so that they are of the same tree as the tests."""


class Ran(NamedTuple):
    """How a command that came to an end came out."""

    code: int
    out: bytes
    err: str


def clean_environ(**more: str) -> dict[str, str]:
    """This process's environment without what Petsem would take from it, and `more`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PETSEM_")}
    for name in ("CREDENTIALS_DIRECTORY", "PYTHONDONTWRITEBYTECODE"):
        kept.pop(name, None)
    return {**kept, "PYTHONPYCACHEPREFIX": _compiled(), **more}


@functools.cache
def _compiled() -> str:
    """Where Python keeps what it compiled for the hundred processes of a run, outside the tree:
    half of the time of a start."""
    directory = tempfile.mkdtemp(prefix="petsem-compiled-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def run(
    *arguments: str | Path,
    stdin: bytes = b"",
    timeout_s: float = 2 * PATIENCE_S,
    environ: Mapping[str, str] | None = None,
) -> Ran:
    """One `petsem` command, from start to end. Its stdin is a pipe."""
    done = subprocess.run(
        [*PETSEM, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=clean_environ(**(environ or {})),
        cwd=ROOT,
        timeout=timeout_s,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode())


def until(found: Callable[[], T | None], what: str, within_s: float = PATIENCE_S) -> T:
    """What `found` returns once it is neither None nor False; AssertionError if that never is."""
    deadline_s = time.monotonic() + within_s
    while True:
        value = found()
        if value is not None and value is not False:
            return value
        assert time.monotonic() < deadline_s, f"after {within_s} s: no {what}"
        time.sleep(0.005)


def configure(directory: Path, section: str, **keys: object) -> None:
    """Set keys of one section of `petsem.toml`. JSON is TOML enough for what is set here."""
    path = directory / "petsem.toml"
    kept: list[str] = []
    at = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            at = line
        if at == f"[{section}]" and line.partition(" = ")[0] in keys:
            continue
        kept.append(line)
        if line == f"[{section}]":
            kept += [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    path.write_text("\n".join(kept) + "\n")


class Daemon:
    """`petsem serve DIR`, or another program that does the same over a disk that fails.

    What it says goes to `DIR.log`, run after run. As a context it is started, and ended if it has
    not ended by then.
    """

    def __init__(
        self,
        directory: Path,
        *,
        command: tuple[str, ...] = SERVE,
        options: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.log = directory.with_name(directory.name + ".log")
        self.http = 0
        self.grpc = 0
        self.ready_s = 0.0
        self._command = (*command, str(directory), *options)
        self._environ = clean_environ(**(environ or {}))
        self._child: subprocess.Popen[bytes] | None = None
        self._began_at = 0

    def start(self) -> Self:
        """Until it serves; AssertionError with its log if it does not."""
        started_s = time.monotonic()
        child = self._spawn()

        def serving() -> dict[str, Any] | None:
            if child.poll() is not None:
                raise AssertionError(f"the node ended ({child.returncode}):\n{self.said()}")
            return next((e for e in self.events() if e["event"] == "serving"), None)

        event = until(serving, f"serving node:\n{self.said()}", START_WITHIN_S)
        self.ready_s = time.monotonic() - started_s
        self.http, self.grpc = (int(event[d].rpartition(":")[2]) for d in ("http", "grpc"))
        return self

    def begin(self) -> None:
        """Start it, and do not wait for anything: it may end before it serves."""
        self._spawn()

    def refuse(self) -> Ran:
        """Start it where it cannot start, and see it end by itself."""
        child = self._spawn()
        try:
            code = child.wait(START_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the node started after all:\n{self.said()}") from None
        self._child = None
        return Ran(code, b"", self.said())

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._child is not None
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._child is not None and self._child.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self._child is not None
        self._child.send_signal(number)

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """Its exit code, once it ended."""
        assert self._child is not None
        code = self._child.wait(within_s)
        self._child = None
        return code

    def stop(self, within_s: float = STOP_WITHIN_S) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s)

    def kill(self) -> None:
        """SIGKILL: it learns nothing of its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def said(self) -> str:
        """What this run wrote to stderr so far."""
        with self.log.open("rb") as log:
            log.seek(self._began_at)
            return log.read().decode()

    def events(self) -> list[dict[str, Any]]:
        """The whole lines of this run's log."""
        return list(_objects(self.said()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is None:
            return
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            if error is None:
                raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert self._child is None, "it runs already"
        with self.log.open("ab") as sink:
            self._began_at = sink.tell()
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=self._environ,
                cwd=ROOT,
            )
        return self._child


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "event" in found:
                yield found
