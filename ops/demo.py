"""The main job on real input: set secrets from a .env, fetch them at boot, compare every byte.

Run it through `ops/demo`. Everything happens on loopback, in a temporary directory that is removed
at the end. Each step prints the command that a person would type, and what it printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PETSEM = Path(sys.executable).with_name("petsem")
ENV_FILE = CHECKOUT / "ops" / "demo.env"
EXPECTED_FILE = CHECKOUT / "ops" / "demo.expected.json"
MACHINE = "3d8d9014"
READY_WITHIN_S = 30


class DemoFailedError(Exception):
    """A step did not do what it is there to show."""


class Demo:
    """A node in a temporary directory, and a shell to talk to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.http, self.grpc, self.peer = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("PETSEM_")}
        self.environ |= {"PETSEM_ADDR": f"http://{self.http}", "PETSEM_GRPC": self.grpc}

    def step(self, text: str) -> None:
        """A headline."""
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")

    def petsem(self, *arguments: str, show: bool = True) -> str:
        """Run the command line as a person would, and show it; its standard output."""
        if show:
            print("$ petsem " + self._for_people(shlex.join(arguments)))
        done = subprocess.run(
            [str(PETSEM), *arguments],
            stdout=subprocess.PIPE,
            env=self.environ,
            cwd=self.root,
            check=False,
        )
        # Decoded here: a text pipe would turn "\r\n" inside a value into "\n".
        output = done.stdout.decode()
        if show and output:
            print(self._for_people(output.rstrip()), flush=True)
        if done.returncode != 0:
            raise DemoFailedError(f"petsem {arguments[0]} ended with {done.returncode}")
        return output

    def use_token(self, file: str) -> None:
        """What `export PETSEM_TOKEN_FILE=…` does."""
        print(f"$ export PETSEM_TOKEN_FILE={file}")
        self.environ["PETSEM_TOKEN_FILE"] = str(self.root / file)

    def _for_people(self, text: str) -> str:
        return text.replace(f"{self.root}/", "").replace(f"{CHECKOUT}/", "")

    @contextlib.contextmanager
    def node(self) -> Iterator[subprocess.Popen[bytes]]:
        """`petsem serve`, ready to be used; SIGTERM at the end."""
        print("$ petsem serve ams 2> ams.log &")
        with (self.root / "ams.log").open("wb") as log:
            child = subprocess.Popen(
                [str(PETSEM), "serve", "ams"], cwd=self.root, env=self.environ, stderr=log
            )
        try:
            self._until_ready(child)
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(20)

    def _until_ready(self, child: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            if child.poll() is not None:
                raise DemoFailedError((self.root / "ams.log").read_text())
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"http://{self.http}/readyz") as answer,
            ):
                print(f"$ curl -s {self.environ['PETSEM_ADDR']}/readyz")
                print(answer.read().decode().rstrip())
                return
            time.sleep(0.05)
        raise DemoFailedError("the node did not become ready")


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description="Petsem, from nothing to a booted machine.")
    parser.add_argument("--keep", action="store_true", help="leave the node running at the end")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="petsem-demo-") as name:
        demo = Demo(Path(name))
        try:
            tour(demo, keep)
        except DemoFailedError as failed:
            print(f"\nthe demo failed: {failed}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nstopped")
    return 0


def tour(demo: Demo, keep: bool) -> None:
    """Every step, in order."""
    demo.step("A new cluster of one node, in the region ams")
    demo.petsem(
        "init", "ams", "--region", "ams", "--http", demo.http, "--grpc", demo.grpc,
        "--peer", demo.peer,
    )  # fmt: skip
    with demo.node() as node:
        demo.step("An org, an app, and the secrets of a real .env")
        demo.use_token("ams.operator.token")
        demo.petsem("org", "create", "acme")
        demo.petsem("app", "create", "acme/web")
        demo.petsem("secrets", "import", str(ENV_FILE), "-a", "acme/web")
        boot(demo)
        compare(demo)
        if keep:
            wait_for_the_end(demo, node)
    demo.step("Nothing in the data directory can be read without the keyring")
    search(demo)
    print("\nEvery byte came back the same.")


def boot(demo: Demo) -> None:
    """A host's token, narrowed to one app and one machine with no server, boots a machine."""
    demo.step("A token for hosts, narrowed offline to one app and one machine")
    demo.petsem(
        "token", "create", "--org", "acme", "--kind", "host", "--action", "secrets:read",
        "--ttl", "1h", "--out", "host.token",
    )  # fmt: skip
    demo.use_token("host.token")
    demo.petsem(
        "token", "attenuate", "--app", "acme/web", "--machine", MACHINE, "--out", "machine.token"
    )
    demo.use_token("machine.token")
    demo.petsem("token", "inspect")
    demo.step("The orchestrator boots the machine over gRPC: a child process gets the secrets")
    environment = demo.petsem(
        "boot", "exec", "-a", "acme/web", "--machine", MACHINE, "--", "env", "-0", show=False
    )
    print(f"$ petsem boot exec -a acme/web --machine {MACHINE} -- env", flush=True)
    given = dict(pair.split("=", 1) for pair in environment.split("\0") if pair)
    for name, wanted in expected().items():
        if given.get(name) != wanted:
            raise DemoFailedError(f"the child got another {name}")
    leaked = [name for name in given if name.startswith("PETSEM_")]
    if leaked:
        raise DemoFailedError(f"the child got {leaked}")
    names = sorted(expected())
    print(f"{names[0]}, {names[1]}, … {names[-1]}: {len(names)} variables, as in the file")


def compare(demo: Demo) -> None:
    """The same through `boot env`, as JSON."""
    fetched = demo.petsem(
        "boot", "env", "-a", "acme/web", "--machine", MACHINE, "-o", "json", show=False
    )
    print(f"$ petsem boot env -a acme/web --machine {MACHINE} -o json | diff - demo.expected.json")
    if json.loads(fetched) != expected():
        raise DemoFailedError("what came back is not what was set")
    demo.step("The same token opens no other app")
    denied = subprocess.run(
        [str(PETSEM), "boot", "env", "-a", "acme/api", "--machine", MACHINE],
        env=demo.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"$ petsem boot env -a acme/api --machine {MACHINE}")
    print(denied.stderr.rstrip())
    if denied.returncode != 3:
        raise DemoFailedError(f"another app was answered with {denied.returncode}")


def search(demo: Demo) -> None:
    """No value of some length stands in any file of the data directory."""
    values = [value.encode() for value in expected().values() if len(value) >= 6]
    files = [path for path in (demo.root / "ams").rglob("*") if path.is_file()]
    found = [path for path in files for value in values if value in path.read_bytes()]
    if found:
        raise DemoFailedError(f"plaintext in {found}")
    size = sum(path.stat().st_size for path in files)
    print(f"searched {len(files)} files, {size:,} bytes, for {len(values)} values: none found")


def expected() -> dict[str, str]:
    """What the .env means, written down by hand beside it: no parser is trusted with both sides."""
    values: dict[str, str] = json.loads(EXPECTED_FILE.read_text(encoding="utf-8"))
    return values


def wait_for_the_end(demo: Demo, node: subprocess.Popen[bytes]) -> None:
    """Print what a second terminal needs, and wait for Ctrl-C."""
    demo.step("The node goes on running; in a second terminal:")
    print(f"export PATH={shlex.quote(str(PETSEM.parent))}:$PATH")
    print(f"export PETSEM_ADDR={demo.environ['PETSEM_ADDR']} PETSEM_GRPC={demo.grpc}")
    print(f"export PETSEM_TOKEN_FILE={demo.root / 'ams.operator.token'} PETSEM_APP=acme/web")
    print("Ctrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        node.wait()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
