"""`python -m tests.bench [NAME…]`: print the figures of some measurements, or of all."""

from __future__ import annotations

import argparse
import platform

import uvloop

from tests.bench import fetch, replication, scale, tokens_client, tokens_server, writes


def _tokens() -> None:
    """The nodes' part, and the verifiers' memory."""
    tokens_server.run()
    tokens_client.run()


_MEASUREMENTS = {
    "fetch": fetch.run,
    "writes": writes.run,
    "scale": scale.run,
    "replication": replication.run,
    "tokens": _tokens,
}


def main() -> None:
    """Run what was named, in order."""
    parser = argparse.ArgumentParser(description="Petsem's figures, as ratios in one run.")
    parser.add_argument("names", nargs="*", choices=[*_MEASUREMENTS, "all"], default=["all"])
    names = parser.parse_args().names
    uvloop.install()
    print(f"Python {platform.python_version()}, {platform.machine()}")
    for name, measure in _MEASUREMENTS.items():
        if name in names or "all" in names:
            print(f"\n{name}")
            measure()


if __name__ == "__main__":
    main()
