"""The other implementation: npm's `macaroon` in a process of its own, asked question by question.

It is started only where `ops/interop` installed it, and reads nothing from anywhere else.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from petsem.tokens.macaroon import Macaroon, encode, parse

HERE: Final = Path(__file__).parent
INSTALLED: Final = HERE / "node_modules" / "made-from"
"""Written last by `ops/interop`."""
_LOUD: Final = "INTEROPERABILITY IS NOT TESTED"


class TheirError(Exception):
    """What the other implementation threw."""


def why_absent() -> str | None:
    """Why it cannot run here; None if it can."""
    if shutil.which("node") is None:
        return f"{_LOUD}: there is no node here; install it and npm, then run ops/interop"
    if not INSTALLED.exists():
        return f"{_LOUD}: run ops/interop, which installs npm's macaroon"
    return None


class Theirs:
    """Its operations, on the bytes of macaroons. Every method raises TheirError for its errors."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            ["node", str(HERE / "theirs.js")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.communicate()

    def read(self, binary: bytes) -> dict[str, Any]:
        """What it finds in a V2 binary, and the binary that it writes of it."""
        return self._ask("read", binary=_text(binary))

    def mint(
        self, secret: bytes, identifier: bytes, cids: Iterable[bytes] = (), location: str = ""
    ) -> bytes:
        """A macaroon of its own; a discharge is one too."""
        return self._made(
            "mint",
            secret=_text(secret),
            identifier=_text(identifier),
            location=location,
            caveats=[_text(cid) for cid in cids],
        )

    def attenuate(self, macaroon: Macaroon, *predicates: str) -> bytes:
        """With first-party caveats added."""
        caveats = [_text(predicate.encode()) for predicate in predicates]
        return self._made("attenuate", binary=_text(encode(macaroon)), caveats=caveats)

    def require(self, macaroon: Macaroon, key: bytes, ticket: bytes, location: str) -> bytes:
        """With a third-party caveat added."""
        return self._made(
            "require",
            binary=_text(encode(macaroon)),
            key=_text(key),
            ticket=_text(ticket),
            location=location,
        )

    def bind(self, root: Macaroon, discharge: Macaroon) -> Macaroon:
        """A discharge bound to a root."""
        binary = self._made("bind", root=_text(encode(root)), discharge=_text(encode(discharge)))
        return parse(binary)

    def verify(
        self, root: Macaroon, secret: bytes, discharges: Sequence[Macaroon] = ()
    ) -> list[str]:
        """The conditions of a token that it takes for good, in the order in which it meets them."""
        answer = self._ask(
            "verify",
            root=_text(encode(root)),
            secret=_text(secret),
            discharges=[_text(encode(each)) for each in discharges],
        )
        found: list[str] = answer["conditions"]
        return found

    def _made(self, question: str, **given: Any) -> bytes:
        return base64.b64decode(self._ask(question, **given)["binary"])

    def _ask(self, question: str, **given: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps({"ask": question, **given}) + "\n")
        self._child.stdin.flush()
        answer: dict[str, Any] = json.loads(self._child.stdout.readline())
        if "error" in answer:
            raise TheirError(answer["error"])
        return answer


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
