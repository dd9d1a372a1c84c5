"""The package as others import it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import petsem_client

HEAVY = ("nacl", "pymacaroons", "cryptography", "apsw", "litestar", "uvicorn", "httpx", "click")


def test_importing_it_is_light() -> None:
    """A boot client loads no cryptographic library, no server and no web framework."""
    script = "import sys, petsem_client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert not [name for name in loaded if name.partition(".")[0] in HEAVY]
    assert not [
        name
        for name in loaded
        if name.startswith(("petsem.server", "petsem.crypto", "petsem.cli", "petsem.replication"))
    ]


def test_it_is_typed_and_says_what_it_exports() -> None:
    """`py.typed` is there, and every public name has a docstring."""
    assert (Path(petsem_client.__file__).parent / "py.typed").exists()
    for name in petsem_client.__all__:
        assert getattr(petsem_client, name).__doc__
