"""Marked secrets, and everything that was said or written while they were about.

A `Canary` is looked for as it is and in the encodings that programs use without thinking: base64
at each of its three offsets, hexadecimal, percent-encoding and JSON leave the mark's letters alone.
"""

from __future__ import annotations

import base64
import random
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_LETTERS: Final = "bcdfghjkmnpqrstvwxz"


class Canary:
    """Text that is nowhere else; values hold it and are told apart by what follows."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.mark = "cnry" + "".join(chance.choice(_LETTERS) for _ in range(20))
        raw = self.mark.encode()
        self.needles = {raw, raw.hex().encode(), raw.hex().upper().encode(), raw[::-1]}
        for offset in range(3):
            coded = base64.b64encode(b"_" * offset + raw).rstrip(b"=")
            # Without the letters that neighbours have a part in.
            inner = coded[-(-offset * 8 // 6) + (1 if offset else 0) : -1]
            self.needles |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}

    def value(self, what: str) -> str:
        """A value that says by which path it went."""
        return f"{self.mark}-{what}"

    def found_in(self, data: bytes) -> bool:
        """Whether it is there, in any of its encodings."""
        return any(needle in data for needle in self.needles)


@dataclass
class Record:
    """What was said, by whom; `tokens` are texts that must not be repeated either."""

    canary: Canary
    said: list[tuple[str, bytes]] = field(default_factory=list)
    tokens: set[bytes] = field(default_factory=set)

    def keep_token(self, token: str) -> str:
        """Watch for the end of a token, which holds its signature."""
        body = token.rpartition(".")[0] or token
        self.tokens.add(body[-24:].encode())
        return token

    def note(self, who: str, what: bytes | str) -> None:
        """Somebody said something."""
        self.said.append((who, what.encode() if isinstance(what, str) else what))

    def leaks(self, more: Iterable[tuple[str, bytes]] = (), *, tokens: bool = True) -> list[str]:
        """Who said what he should not have."""
        return [who for who, what in (*self.said, *more) if self.betrays(what, tokens=tokens)]

    def betrays(self, what: bytes, *, tokens: bool = True) -> bool:
        """Whether a value is in it, or a token."""
        if self.canary.found_in(what):
            return True
        return tokens and any(token in what for token in self.tokens)


def files_in(directory: Path) -> dict[str, bytes]:
    """Every file under a directory."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


class ProcessWatch(threading.Thread):
    """Looks at what every process that descends from this one shows in /proc, again and again.

    `exempt` are those whose command line or environment was given a value by the test itself.
    """

    def __init__(self, record: Record, own: int) -> None:
        super().__init__(daemon=True)
        self._record = record
        self._own = own
        self._ended = threading.Event()
        self.exempt: set[int] = set()
        self.looks = 0
        self._found: list[tuple[int, str]] = []

    @property
    def leaks(self) -> list[str]:
        """What showed something. Judged now: a process is often seen before whoever started it
        could exempt it."""
        return [f"{file} of {pid}" for pid, file in self._found if pid not in self.exempt]

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.is_set():
            self.look()
            time.sleep(0.01)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self.join()

    def look(self) -> None:
        """Once, at all of them."""
        parents = _parents()
        for pid in parents:
            if pid not in self.exempt and _descends(pid, self._own, parents):
                for file in ("cmdline", "environ"):
                    self._judge(pid, file)
        self.looks += 1

    def _judge(self, pid: int, file: str) -> None:
        with suppress(OSError):
            shown = shown_by(pid, file)
            if self._record.betrays(shown):
                self._found.append((pid, file))


def shown_by(pid: int, file: str) -> bytes:
    """What the kernel shows of a process."""
    return Path(f"/proc/{pid}/{file}").read_bytes()


def _parents() -> Mapping[int, int]:
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text()
                found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def _descends(pid: int, ancestor: int, parents: Mapping[int, int]) -> bool:
    while pid not in (0, 1):
        pid = parents.get(pid, 0)
        if pid == ancestor:
            return True
    return False
