"""What a verifier's memory costs: the same text again, and a narrower copy, against five HMACs.

The token has five caveats and a discharge, as a person's has; the copy adds two caveats, and its
discharge is bound anew. Each call is one `await verifier.verify(…)`, of text that was just read.
"""

from __future__ import annotations

import asyncio
import hmac
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from petsem.clock import SystemClock, rfc3339
from petsem.model import Freshness, Kind, Position, Role
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import Macaroon, attenuate, bind_discharge
from petsem.tokens.mint import ThirdParty, mint
from petsem.tokens.text import encode_token
from petsem.tokens.ticket import discharge
from petsem_client import TokenVerifier
from petsem_client.feed import News
from petsem_client.verdicts import Answer, Question, Verdict, VerdictSource

_CALLS: Final = 2_000
_ROUNDS: Final = 41
_USER: Final = "alice@example.com"
_NONCE: Final = b"n" * 16
_TICKET: Final = b"t" * 141
_CAVEAT_KEY: Final = b"x" * 32
_BARS: Final = {"same text": 1.5, "narrower copy": 4.0}
_ACCESS: Final = {
    "org": "acme",
    "action": "secrets:list",
    "app": "web",
    "region": "ams",
    "ip": "192.0.2.7",
}


def run() -> None:
    """Print both ratios with the figures behind them."""
    asyncio.run(_run())


async def _run() -> None:
    now_ms = SystemClock().unix_ms()
    root, unbound = _person(now_ms)
    text = encode_token(root, [bind_discharge(root, unbound)])
    copy = attenuate(root, ["app = web", f"time < {rfc3339(now_ms + 60_000)}"])
    narrower = encode_token(copy, [bind_discharge(copy, unbound)])
    async with TokenVerifier(["127.0.0.1:1"], token=text) as verifier:
        _remember(verifier, text, unbound.signature, now_ms)
        cids = [caveat.cid for caveat in root.caveats[:5]]
        kinds: dict[str, Callable[[], Coroutine[Any, Any, float]]] = {
            "five HMACs": lambda: _chain(cids),
            "same text": lambda: _verify(verifier, text),
            "narrower copy": lambda: _verify(verifier, narrower),
        }
        spent: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(_ROUNDS + 1):
            _heard(verifier)
            for kind, calls in kinds.items():
                took_s = await calls()
                if turn:  # the first round warms up
                    spent[kind].append(took_s / _CALLS * 1e6)
        assert verifier.stats().misses == 1
    for kind, figures in spent.items():
        print(
            f"{kind:<14} {statistics.median(figures):6.2f} µs a call"
            f"  (min {min(figures):.2f}, max {max(figures):.2f})"
        )
    for kind, bar in _BARS.items():
        ratios = [a / b for a, b in zip(spent[kind], spent["five HMACs"], strict=True)]
        print(f"{kind} / five HMACs: {statistics.median(ratios):.2f}  (bar: {bar})")


def _person(now_ms: int) -> tuple[Macaroon, Macaroon]:
    """A person's token, and its discharge, not bound."""
    identifier = Identifier(b"c" * 16, Kind.PERSON, b"k" * 16, _NONCE, 3, 99)
    caveats = [
        "org = acme",
        "action in secrets:list, secrets:write",
        f"time < {rfc3339(now_ms + 43_200_000)}",
        f"user = {_USER}",
        "app in web, api",
    ]
    root = mint(b"r" * 32, identifier, caveats, [ThirdParty("petsem", _CAVEAT_KEY, _TICKET)])
    limits = [f"user = {_USER}", f"time < {rfc3339(now_ms + 3_600_000)}"]
    return root, discharge(_TICKET, _CAVEAT_KEY, limits)


def _freshness() -> Freshness:
    now_ms = SystemClock().unix_ms()
    return Freshness("n1", "ams", Role.LEADER, Position(3, 100), now_ms, lag_ms=0)


def _heard(verifier: TokenVerifier) -> None:
    """A sign of life, as a node's feed gives it."""
    state = verifier._verifying
    state.opened()
    state.take(News(None, _freshness(), Position(3, 100)))


def _remember(verifier: TokenVerifier, text: str, signature: bytes, now_ms: int) -> None:
    """The answer that a node gives; which node that is makes no difference to what follows."""
    _heard(verifier)
    state = verifier._verifying
    question = state.ask(text, _ACCESS, None)
    assert isinstance(question, Question)
    allowed = Verdict(
        True, VerdictSource.NODE, _NONCE.hex(), "acme", f"person:{_USER}", now_ms + 3_600_000
    )
    state.learned(question, Answer(allowed, _freshness(), (signature,)))


async def _chain(cids: list[bytes]) -> float:
    digest = hmac.digest
    began_s = time.perf_counter()
    for _ in range(_CALLS):
        signature = _CAVEAT_KEY
        for cid in cids:
            signature = digest(signature, cid, "sha256")
    return time.perf_counter() - began_s


async def _verify(verifier: TokenVerifier, text: str) -> float:
    # A text of its own for each call, as a request brings it: none has its hash computed already.
    texts = [text[:-1] + text[-1:] for _ in range(_CALLS)]
    began_s = time.perf_counter()
    for each in texts:
        verdict = await verifier.verify(each, _ACCESS)
        assert verdict.allowed
    return time.perf_counter() - began_s
