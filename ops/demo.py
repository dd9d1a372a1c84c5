"""The main job on real input: three regions, secrets from a .env, a boot without the leader, and
another leader.

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
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PETSEM = Path(sys.executable).with_name("petsem")
ENV_FILE = CHECKOUT / "ops" / "demo.env"
EXPECTED_FILE = CHECKOUT / "ops" / "demo.expected.json"
MACHINE = "3d8d9014"
READY_WITHIN_S = 30
THROUGH_FRA = ("SET_IN_FRA", "passed on by a replica")
AFTER = ("SET_AFTER", "taken by the new leader")
UNHEARD_S = 4
"""Long enough without the leader for a replica to say so."""


class DemoFailedError(Exception):
    """A step did not do what it is there to show."""


class Place:
    """A node of the demo: its directory's name is its region."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.http, self.grpc, self.peer = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The options that bind it."""
        return ("--http", self.http, "--grpc", self.grpc, "--peer", self.peer)


class Demo:
    """Three nodes in a temporary directory, and a shell to talk to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ams, self.fra, self.syd = self.places = [Place(r) for r in ("ams", "fra", "syd")]
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("PETSEM_")}
        self.talk_to(self.ams, show=False)

    def step(self, text: str) -> None:
        """A headline."""
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")

    def talk_to(self, *places: Place, show: bool = True) -> None:
        """What `export PETSEM_ADDR=… PETSEM_GRPC=…` does. The client goes by the order."""
        addresses = ",".join(f"http://{place.http}" for place in places)
        endpoints = ",".join(place.grpc for place in places)
        self.environ |= {"PETSEM_ADDR": addresses, "PETSEM_GRPC": endpoints}
        if show:
            print(f"$ export PETSEM_ADDR={addresses} PETSEM_GRPC={endpoints}")

    def petsem(self, *arguments: str, given: str | None = None) -> None:
        """Run the command line as a person would, and show it with all that it prints. `given` is
        piped into it."""
        pipe = "" if given is None else f"printf %s {shlex.quote(given)} | "
        print(f"$ {pipe}petsem " + self._for_people(shlex.join(arguments)))
        done = self._run(arguments, subprocess.STDOUT, given)
        if done.stdout:
            print(self._for_people(done.stdout.decode().rstrip()))
        self._succeeded(done, arguments)

    def quietly(self, *arguments: str, then: str) -> str:
        """The same, but `then` is what the output goes through, which the caller does instead: only
        what is said on stderr is shown."""
        print("$ petsem " + self._for_people(shlex.join(arguments)) + then)
        done = self._run(arguments, subprocess.PIPE)
        if done.stderr:
            print(self._for_people(done.stderr.decode().rstrip()))
        self._succeeded(done, arguments)
        # Decoded here: a text pipe would turn "\r\n" inside a value into "\n".
        return done.stdout.decode()

    def node_of(self, place: Place) -> str:
        """The name that the node in a region got."""
        file: dict[str, str] = json.loads((self.root / place.region / "node.json").read_text())
        return file["node_id"]

    def _run(
        self, arguments: tuple[str, ...], stderr: int, given: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(PETSEM), *arguments],
            input=None if given is None else given.encode(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=self.environ,
            cwd=self.root,
            check=False,
        )

    def _succeeded(
        self, done: subprocess.CompletedProcess[bytes], arguments: tuple[str, ...]
    ) -> None:
        if done.returncode != 0:
            raise DemoFailedError(f"petsem {arguments[0]} ended with {done.returncode}")

    def use_token(self, file: str) -> None:
        """What `export PETSEM_TOKEN_FILE=…` does."""
        print(f"$ export PETSEM_TOKEN_FILE={file}")
        self.environ["PETSEM_TOKEN_FILE"] = str(self.root / file)

    def _for_people(self, text: str) -> str:
        return text.replace(f"{self.root}/", "").replace(f"{CHECKOUT}/", "")

    def serve(self, place: Place) -> None:
        """`petsem serve`, ready to be used."""
        print(f"$ petsem serve {place.region} 2> {place.region}.log &")
        with (self.root / f"{place.region}.log").open("wb") as log:
            place.process = subprocess.Popen(
                [str(PETSEM), "serve", place.region], cwd=self.root, env=self.environ, stderr=log
            )
        self._until_ready(place)

    def join(self, place: Place) -> None:
        """A replica: invited by the leader, with the keys that its operator places beside it."""
        region = place.region
        token = f"{region}.join-token"
        self.petsem("node", "invite", "--region", region, "--out", token)
        print(f"$ cp ams.keyring.json {region}.keyring.json")
        keyring = self.root / f"{region}.keyring.json"
        keyring.touch(0o600)
        keyring.write_bytes((self.root / "ams.keyring.json").read_bytes())
        self.petsem(
            "join", region, "--region", region, *place.addresses,
            "--join-token-file", token,
        )  # fmt: skip
        self.serve(place)

    def end(self) -> None:
        """SIGTERM to whoever runs."""
        running = [place.process for place in self.places if place.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(20)

    def _until_ready(self, place: Place) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        assert place.process is not None
        while time.monotonic() < deadline_s:
            if place.process.poll() is not None:
                raise DemoFailedError((self.root / f"{place.region}.log").read_text())
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"http://{place.http}/readyz") as answer,
            ):
                print(f"$ curl -s http://{place.http}/readyz")
                print(answer.read().decode().rstrip())
                return
            time.sleep(0.05)
        raise DemoFailedError(f"the node in {place.region} did not become ready")


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description="Petsem, from nothing to a booted machine.")
    parser.add_argument("--keep", action="store_true", help="leave the nodes running at the end")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # In a pipe too, each line comes before what follows from it.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
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
    try:
        demo.step("A new cluster: its leader, in the region ams")
        demo.petsem("init", "ams", "--region", "ams", *demo.ams.addresses)
        demo.serve(demo.ams)
        demo.use_token("ams.operator.token")
        demo.step("Two replicas, in fra and in syd")
        demo.join(demo.fra)
        demo.join(demo.syd)
        demo.step("An org, an app, and the secrets of a real .env, set on the leader")
        demo.petsem("org", "create", "acme")
        demo.petsem("app", "create", "acme/web")
        demo.petsem("secrets", "import", str(ENV_FILE), "-a", "acme/web")
        demo.step("One more through the replica in fra, which passes it on to the leader")
        demo.talk_to(demo.fra)
        demo.petsem("secrets", "set", THROUGH_FRA[0], "-a", "acme/web", given=THROUGH_FRA[1])
        demo.petsem("status")
        boot(demo)
        compare(demo)
        outlive(demo)
        lead(demo)
        if keep:
            wait_for_the_end(demo)
    finally:
        demo.end()
    demo.step("Nothing in the data directories can be read without the keyring")
    search(demo)
    print("\nEvery byte came back the same.")


def outlive(demo: Demo) -> None:
    """The leader is gone, and the machine boots again from the next node of its list."""
    demo.step("The leader is killed, and a machine beside it boots all the same")
    assert demo.ams.process is not None
    print("$ kill -9 %1")
    demo.ams.process.kill()
    demo.ams.process.wait()
    print(f"$ sleep {UNHEARD_S}")
    time.sleep(UNHEARD_S)
    nearest(demo, demo.ams, demo.fra, demo.syd)
    same(demo)


def nearest(demo: Demo, *places: Place) -> None:
    """Talk to the nodes as a machine in the region of the first does."""
    order = ", ".join(place.region for place in places)
    print(
        f"# A machine in {places[0].region} knows the nodes in the order of their nearness: {order}"
    )
    demo.talk_to(*places)


def same(demo: Demo, *options: str, **more: str) -> None:
    """The machine gets what was set, as JSON."""
    fetched = demo.quietly(
        "boot", "env", "-a", "acme/web", "--machine", MACHINE, *options, "-o", "json",
        then=" > got.json",
    )  # fmt: skip
    wanted = expected() | more
    if json.loads(fetched) != wanted:
        raise DemoFailedError("what came back is not what was set")
    print(f"{len(wanted)} variables in got.json, each as it was set")


def lead(demo: Demo) -> None:
    """A replica becomes the leader and takes a write, which the other one has too."""
    demo.step("The leader will not come back: the replica in fra becomes the leader")
    demo.talk_to(demo.fra)
    demo.use_token("ams.operator.token")
    demo.petsem("status")
    demo.petsem("node", "promote", demo.node_of(demo.fra), "--force")
    demo.petsem("secrets", "set", AFTER[0], "-a", "acme/web", given=AFTER[1])
    demo.step("A machine in syd gets it from the replica there, if need be after a moment")
    nearest(demo, demo.syd, demo.fra, demo.ams)
    demo.use_token("machine.token")
    same(demo, "--min-version", "3", **dict([AFTER]))


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
    nearest(demo, demo.fra, demo.syd, demo.ams)
    environment = demo.quietly(
        "boot", "exec", "-a", "acme/web", "--machine", MACHINE, "--", "env", "-0", then=""
    )
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
    same(demo)
    demo.step("The same token opens no other app")
    denied = subprocess.run(
        [str(PETSEM), "boot", "env", "-a", "acme/api", "--machine", MACHINE],
        env=demo.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"$ petsem boot env -a acme/api --machine {MACHINE}\n{denied.stderr.rstrip()}")
    if denied.returncode != 3:
        raise DemoFailedError(f"another app was answered with {denied.returncode}")


def search(demo: Demo) -> None:
    """No value of some length stands in any file of the data directory."""
    stored = expected() | dict([AFTER])
    values = [value.encode() for value in stored.values() if len(value) >= 6]
    files = [
        path
        for place in demo.places
        for path in (demo.root / place.region).rglob("*")
        if path.is_file()
    ]
    found = [path for path in files for value in values if value in path.read_bytes()]
    if found:
        raise DemoFailedError(f"plaintext in {found}")
    size = sum(path.stat().st_size for path in files)
    print(f"searched {len(files)} files, {size:,} bytes, for {len(values)} values: none found")


def expected() -> dict[str, str]:
    """What the .env means, written down by hand beside it: no parser is trusted with both sides."""
    values: dict[str, str] = json.loads(EXPECTED_FILE.read_text(encoding="utf-8"))
    return values | dict([THROUGH_FRA])


def wait_for_the_end(demo: Demo) -> None:
    """Print what a second terminal needs, and wait for Ctrl-C."""
    demo.step("The old leader is started again, and all three go on running; in a second terminal:")
    demo.talk_to(demo.ams, show=False)
    demo.serve(demo.ams)
    places = (demo.fra, demo.syd, demo.ams)
    addresses = ",".join(f"http://{place.http}" for place in places)
    endpoints = ",".join(place.grpc for place in places)
    print(f"export PATH={shlex.quote(str(PETSEM.parent))}:$PATH")
    print(f"export PETSEM_ADDR={addresses} PETSEM_GRPC={endpoints}")
    print(f"export PETSEM_TOKEN_FILE={demo.root / 'ams.operator.token'} PETSEM_APP=acme/web")
    print("Ctrl-C ends them.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
