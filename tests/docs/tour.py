"""Tours, of the README and of other pages: their steps, and a shell that takes them.

`python -m tests.docs.tour PAGE` takes the tour of a page and writes what was printed into it.
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
_INIT: Final = "petsem init ams --region ams"
_DEFAULT_DOORS: Final = "--http 127.0.0.1:7400 --grpc 127.0.0.1:7401 --peer 127.0.0.1:7402"
_PORT: Final = re.compile(r"(127\.0\.0\.1:|--port |\bPORT=)(\d{4})\b")

VARIABLE: Final = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{16}(?:-[0-9a-f]{16})?\b"), "POSITION"),
    (re.compile(r"(?<=  )[0-9a-f]{1,8}-[0-9a-f]{1,16} +"), "POSITION "),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\bams-[0-9a-f]{8}\b"), "NODE"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"(?<=\s)/\S*/(?=(?:ams|fra)\.)"), "DIRECTORY/"),
    (re.compile(r"\bfra-[0-9a-f]{8}\b"), "NODE"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\bflow=[\w-]+"), "flow=FLOW"),
    (re.compile(r"\b[B-Z]{4}-[B-Z]{4}\b"), "CODE"),
    (re.compile(r"\b\d+\.\d s\b"), "SECONDS"),
    (re.compile(r'(?<=_ms":)\d+|(?<=_ms_ago":)\d+'), "MILLISECONDS"),
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
        self._ports: dict[str, int] = {}
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
        command = command.replace(_INIT, f"{_INIT} {_DEFAULT_DOORS}")
        command = _PORT.sub(lambda found: f"{found[1]}{self._free(found[2])}", command)
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

    def as_shown(self, output: str) -> str:
        """The output with the page's ports in it."""
        for shown, used in self._ports.items():
            output = output.replace(f"127.0.0.1:{used}", f"127.0.0.1:{shown}")
        return output

    def _free(self, port: str) -> int:
        """A free port that stands for one of the page's, the same each time."""
        if port not in self._ports:
            self._ports[port] = free_port()
        return self._ports[port]

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


def _write(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        shell = Shell(Path(scratch))
        try:
            outputs = [shell.as_shown(shell.run(step.command)) for step in steps(text)]
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
    _write(ROOT / sys.argv[1])
