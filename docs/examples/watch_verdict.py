"""Ask about one token again and again, as an API server would, until it is refused.

    python watch_verdict.py HOST:PORT TOKEN_FILE ACTION ORG/APP

`PETSEM_TOKEN_FILE` names this program's own token, with `action = tokens:verify`. It prints each
answer that differs from the one before, and where it came from: a node, or what it remembers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from petsem_client import TokenVerifier


async def watch(endpoint: str, own: str, token: str, action: str, app: str) -> None:
    """Ask until the answer is no."""
    org, _, name = app.partition("/")
    access = {"org": org, "app": name, "action": action}
    said = ""
    async with TokenVerifier([endpoint], token=own, org=org) as verifier:
        while True:
            verdict = await verifier.verify(token, access)
            now = "allowed" if verdict.allowed else f"refused, {verdict.reason}"
            now = f"{now}, says the {verdict.source}"
            if now != said:
                sys.stdout.write(f"{now}\n")
                sys.stdout.flush()
                said = now
            if not verdict.allowed:
                return
            await asyncio.sleep(0.05)


def _token_in(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip()


if __name__ == "__main__":
    endpoint, token_file, action, app = sys.argv[1:]
    own = _token_in(os.environ["PETSEM_TOKEN_FILE"])
    asyncio.run(watch(endpoint, own, _token_in(token_file), action, app))
