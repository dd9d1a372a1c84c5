"""The wheel as users get it: built, installed apart from the source tree, and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

ROOT: Final = Path(__file__).parents[2]
SERVER_ONLY: Final = ("apsw", "litestar", "nacl", "pymacaroons", "uvicorn", "cryptography")

# What a base install lacks: importing it fails as if it had never been installed.
_WITHOUT: Final = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVER_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the unpacked wheel and nothing else."""
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = made.glob("*.whl")
    unpacked = made / "site"
    with ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` away from the source tree, with the wheel before everything else."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PETSEM_")}
    environ |= {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.parent,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_base_install_holds_the_client_and_the_command_line(site: Path) -> None:
    """Without the server's libraries both import and run, from the wheel itself."""
    code = (
        _WITHOUT
        + "import petsem, petsem_client\n"
        + f"assert petsem.__file__.startswith({str(site)!r}), petsem.__file__\n"
        + "from petsem_client import SecretReader, SyncSecretReader\n"
        + "from petsem.cli.main import main\n"
        + "sys.argv = ['petsem', '--help']\n"
        + "main()\n"
    )
    done = run(site, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: petsem")


def test_a_node_needs_the_extra_and_says_so(site: Path, tmp_path: Path) -> None:
    """One sentence that names the extra, and no traceback."""
    argv = ["petsem", "serve", str(tmp_path)]
    done = run(site, _WITHOUT + f"from petsem.cli.main import main\nsys.argv = {argv!r}\nmain()\n")
    assert done.returncode == 2
    assert "petsem[server]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_both_packages_are_typed_and_nothing_else_is_in(site: Path) -> None:
    """The marker that tells type checkers to believe the annotations; no tests, no scripts."""
    assert (site / "petsem" / "py.typed").is_file()
    assert (site / "petsem_client" / "py.typed").is_file()
    packages = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"petsem", "petsem_client"}
