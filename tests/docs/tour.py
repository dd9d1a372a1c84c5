"""The tour of the README: its steps, and a shell that takes them.

`python -m tests.docs.tour` takes the tour and writes what was printed into the README.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT
from tests.support.ports import free_port

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END: Final = "~~ end of step"
_PATIENCE_S: Final = 120.0

VARIABLE: Final = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{16}\b"), "POSITION"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\bams-[0-9a-f]{8}\b"), "NODE"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"(?<=\s)/\S*/(?=ams\.)"), "DIRECTORY/"),
)
"""What differs from one tour to the next, and what stands for it in a comparison."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what the page says that it prints."""

    command: str
    output: str


def steps(text: str) -> list[Step]:
    """The steps of all console blocks, in order."""
    found = []
    for block in _BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Step(command, output.rstrip("\n")))
    return found


def normalised(output: str) -> str:
    """The output with what is variable replaced by its name."""
    for pattern, name in VARIABLE:
        output = pattern.sub(name, output)
    return output


class Shell:
    """One bash that takes the commands one after another, in the checkout, with no terminal.

    Ports are free ones in place of the page's, and temporary directories are made in `scratch`.
    """

    def __init__(self, scratch: Path) -> None:
        ports = [free_port() for _ in range(3)]
        doors = ("http", "grpc", "peer")
        flags = " ".join(
            f"--{door} 127.0.0.1:{port}" for door, port in zip(doors, ports, strict=True)
        )
        self._instead = (
            ("petsem init ams --region ams", f"petsem init ams --region ams {flags}"),
            ("127.0.0.1:7400", f"127.0.0.1:{ports[0]}"),
            ("127.0.0.1:7401", f"127.0.0.1:{ports[1]}"),
        )
        environ = {k: v for k, v in os.environ.items() if not k.startswith("PETSEM_")}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        environ |= {"TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}
        self._bash = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=environ,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """What a command prints, on both streams."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        for shown, used in self._instead:
            command = command.replace(shown, used)
        self._bash.stdin.write(f"{{ {command}\n}} < /dev/null\nprintf '\\n%s\\n' '{_END}'\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        patience = threading.Timer(_PATIENCE_S, os.killpg, (self._bash.pid, signal.SIGKILL))
        patience.start()
        try:
            for line in self._bash.stdout:
                if line.rstrip("\n") == _END:
                    return "".join(lines).rstrip("\n")
                lines.append(line)
        finally:
            patience.cancel()
        raise AssertionError(f"the shell ended in {command!r}: {''.join(lines)}")

    def close(self) -> None:
        """End the shell and whatever it has started."""
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        try:
            self._bash.wait(5)
            os.killpg(self._bash.pid, signal.SIGTERM)
        except subprocess.TimeoutExpired:
            os.killpg(self._bash.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        assert self._bash.stdout is not None
        self._bash.stdout.read()
        self._bash.stdout.close()
        self._bash.wait(5)


def _write() -> None:
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        shell = Shell(Path(scratch))
        try:
            outputs = [shell.run(step.command) for step in steps(text)]
        finally:
            shell.close()
        told = iter(outputs)

        def again(block: re.Match[str]) -> str:
            lines = []
            for step in steps(block.group()):
                lines += [f"$ {step.command}", *filter(None, [next(told)])]
            # A directory as `mktemp -d` makes it where nobody says otherwise.
            body = "\n".join(lines).replace(scratch, "/tmp")
            return f"```console\n{body}\n```"

        page.write_text(_BLOCK.sub(again, text), encoding="utf-8")


if __name__ == "__main__":
    _write()
