"""A marked value and marked tokens go through every path, good and failing, and are looked for
wherever they must not be: logs, errors, metrics, listings, `repr`s, files and process arguments.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from petsem.errors import PetsemError
from petsem.wire import petsem_pb2 as pb
from petsem_client import SecretReader, SyncSecretReader
from tests.support.canary import Canary, ProcessWatch, Record, files_in, shown_by
from tests.support.daemon import PETSEM, ROOT, clean_environ, run, until
from tests.support.doors import Answer, Doors, Reply, in_seconds, narrowed, values_of
from tests.support.failing_node import FailingNode
from tests.support.offline import Disk

SEED: Final = int(os.environ.get("PETSEM_CANARY_SEED", "20260104"))
FETCH: Final = "/petsem.v1.Secrets/Fetch"
VERIFY: Final = "/petsem.v1.Tokens/Verify"
APP: Final = "/v1/orgs/acme/apps/web"
SECRETS: Final = APP + "/secrets"


@dataclass
class House:
    """A node, and every way to put something into it or to fail at that. What comes back is
    noted, but for the answers that are there to hold a value."""

    root: Path
    node: FailingNode
    doors: Doors
    record: Record
    watch: ProcessWatch

    @property
    def canary(self) -> Canary:
        return self.record.canary

    def value(self, what: str) -> str:
        return self.canary.value(what)

    def http(self, what: str, method: str, path: str, body: object = None, **more: Any) -> Answer:
        answer = self.doors.ask(method, path, body, **more)
        self.record.note(f"HTTP: {what}", answer.raw + repr(answer.headers).encode())
        return answer

    def rpc(self, what: str, reply: Reply) -> Reply:
        self.record.note(f"RPC: {what}", reply.raw + reply.sentence.encode())
        return reply

    def cli(
        self, what: str, *arguments: str, stdin: str = "", shows: bool = False, given: bool = False
    ) -> tuple[int, bytes]:
        """One command with the token in a file. `shows`: its stdout is there to hold values.
        `given`: the test itself put one among its arguments."""
        child = subprocess.Popen(
            [*PETSEM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=ROOT,
        )
        if given:
            self.watch.exempt.add(child.pid)
        out, err = child.communicate(stdin.encode(), 60)
        self.record.note(f"stderr of {what}", err)
        if not shows:
            self.record.note(f"stdout of {what}", out)
        return child.returncode, out

    @property
    def environ(self) -> dict[str, str]:
        return clean_environ(
            PETSEM_ADDR=f"http://127.0.0.1:{self.node.http}",
            PETSEM_GRPC=f"127.0.0.1:{self.node.grpc}",
            PETSEM_TOKEN_FILE=str(self.root / "node.operator.token"),
            PETSEM_APP="acme/web",
            TMPDIR=str(self.root / "tmp"),
        )


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    print(f"PETSEM_CANARY_SEED={SEED}")
    record = Record(Canary(SEED))
    directory = tmp_path / "node"
    (tmp_path / "tmp").mkdir()
    ports = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--peer", "127.0.0.1:0")
    made = run("init", directory, "--region", "ams", *ports)
    assert made.code == 0
    record.note("init", made.out + made.err.encode())
    operator = (tmp_path / "node.operator.token").read_text().strip()
    record.note("init", made.out)
    record.keep_token(operator)
    watch = ProcessWatch(record, os.getpid())
    # A node that logs all that it ever would.
    node = FailingNode(directory)
    text = (directory / "petsem.toml").read_text()
    (directory / "petsem.toml").write_text(text.replace("[log]\n", '[log]\nlevel = "debug"\n'))
    with node, Doors(node, operator) as doors:
        watch.start()
        yield House(tmp_path, node, doors, record, watch)
        watch.end()


def test_a_canary(house: House) -> None:
    """It is found where it belongs and nowhere else."""
    _set_up(house)
    _command_line(house)
    _wrong_arguments(house)
    _while_a_command_runs(house)
    _boot(house)
    _http(house)
    _http_gone_wrong(house)
    _sockets(house)
    _rpc(house)
    _tokens_in_wrong_places(house)
    _crashes(house)
    asyncio.run(_clients(house))
    _listings(house)
    _the_end(house)
    _judge(house)


def _set_up(house: House) -> None:
    code, _ = house.cli("org create", "org", "create", "acme")
    assert code == 0
    assert house.cli("app create", "app", "create", "acme/web")[0] == 0
    # What looks for leaks can find them.
    raw = house.value("x").encode()
    for seen in (raw, base64.b64encode(raw), base64.b64encode(b"1" + raw), raw.hex().encode()):
        assert house.canary.found_in(seen)
    assert house.canary.found_in(base64.b64encode(b"22" + raw))
    assert house.record.betrays(b"a" + house.doors.operator.encode())
    assert not house.record.betrays(b"something else")


def _command_line(house: House) -> None:
    path = house.root / "value.txt"
    path.write_text(house.value("file"))
    good: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("set by pipe", ("secrets", "set", "PIPE"), house.value("pipe") + "\n"),
        ("set by -", ("secrets", "set", "DASH=-", "--exact"), house.value("dash")),
        ("set by file", ("secrets", "set", f"FILE=@{path}"), ""),
        ("import dotenv", ("secrets", "import", "-"), f'DOTENV="{house.value("dotenv")}"\n'),
        (
            "import JSON",
            ("secrets", "import", "-", "--format", "json"),
            json.dumps({"JSON": house.value("json")}),
        ),
        (
            "import YAML",
            ("secrets", "import", "-", "--format", "yaml"),
            f"YAML: {house.value('yaml')}\n",
        ),
        ("dry run", ("secrets", "import", "-", "--dry-run"), f"DRY={house.value('dry')}\n"),
    )
    for what, arguments, stdin in good:
        code, _ = house.cli(what, *arguments, stdin=stdin)
        assert code == 0, what
    code, out = house.cli("get", "secrets", "get", "PIPE", shows=True)
    assert (code, out.decode()) == (0, house.value("pipe"))
    others: tuple[tuple[str, tuple[str, ...], str], ...] = (
        ("a broken dotenv", ("secrets", "import", "-"), f"A='{house.value('x')}\nB=1"),
        ("a line that is none", ("secrets", "import", "-"), f"{house.value('x')}\n"),
        ("broken JSON", ("secrets", "import", "--format", "json"), f'{{"A":"{house.value("x")}'),
        (
            "a name twice in JSON",
            ("secrets", "import", "--format", "json"),
            f'{{"A":"{house.value("x")}","A":"y"}}',
        ),
        (
            "JSON in JSON",
            ("secrets", "import", "--format", "json"),
            f'{{"A":{{"{raw(house)}":1}}}}',
        ),
        ("broken YAML", ("secrets", "import", "--format", "yaml"), f"A: [{house.value('x')}"),
        ("a YAML tag", ("secrets", "import", "--format", "yaml"), f"A: !!{raw(house)} x"),
        ("a bad name", ("secrets", "import", "-"), f"{raw(house)} x={house.value('x')}\n"),
        ("a conflict", ("secrets", "set", "PIPE", "--if-version", "99"), house.value("x")),
        ("too long", ("secrets", "set", "LONG"), house.value("x") * 3_000),
        ("a missing file", ("secrets", "set", "A=@/nowhere/at/all"), ""),
        ("an absent app", ("secrets", "set", "A", "-a", "acme/absent"), house.value("x")),
        ("debug", ("secrets", "set", "A", "--if-version", "99", "--debug"), house.value("x")),
        ("list", ("secrets", "list"), ""),
        ("history", ("secrets", "history"), ""),
        ("diff", ("secrets", "diff", "1", "2"), ""),
        ("status", ("status",), ""),
        ("check", ("check", str(house.node.directory), "--all"), ""),
    )
    for what, arguments, stdin in others:
        house.cli(what, *arguments, stdin=stdin)


def raw(house: House) -> str:
    """The mark itself, for where only letters will do."""
    return house.canary.mark


def _wrong_arguments(house: House) -> None:
    """What should not have been typed is not repeated, whichever rule it breaks."""
    value, operator = house.value("argv"), house.doors.operator
    wrong: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("NAME=VALUE", ("secrets", "set", f"A={value}")),
        ("NAME VALUE", ("secrets", "set", "A", f"{value} and so on")),
        ("a value alone", ("secrets", "set", f"{value}!")),
        ("an unknown option", ("secrets", "set", "A", f"--{value}")),
        ("an option's value", ("secrets", "set", "A", "--if-version", value)),
        ("an unknown command", ("secrets", value)),
        ("a token as argument", ("token", "inspect", operator)),
        ("a token as a name", ("secrets", "get", operator)),
        ("a token as an option", ("secrets", "list", f"--token={operator}")),
        ("a token as a file", ("token", "inspect", "--token-file", operator)),
        ("a token as an app", ("secrets", "list", "-a", operator)),
        ("a value in exec", ("boot", "exec", f"--{value}", "--", "true")),
    )
    for what, arguments in wrong:
        code, _ = house.cli(what, *arguments, given=True)
        assert code in (2, 125), what


def _while_a_command_runs(house: House) -> None:
    """A command that has its value already, and waits for more, shows nothing of it."""
    child = subprocess.Popen(
        [*PETSEM, "secrets", "set", "SLOW"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=house.environ,
        cwd=ROOT,
    )
    assert child.stdin is not None
    child.stdin.write(house.value("slow").encode())
    child.stdin.flush()
    looks = house.watch.looks
    until(lambda: house.watch.looks > looks + 3, "look at the processes")
    out, err = child.communicate(timeout=60)
    house.record.note("slow set", out + err)
    assert child.returncode == 0


def _boot(house: House) -> None:
    for what, arguments in (
        ("env", ("boot", "env")),
        ("env as JSON", ("boot", "env", "-o", "json")),
        ("env for a shell", ("boot", "env", "--format", "shell")),
    ):
        code, out = house.cli(what, *arguments, shows=True)
        assert (code, house.canary.found_in(out)) == (0, True), what
    into = house.root / "files"
    assert house.cli("boot files", "boot", "files", str(into))[0] == 0
    assert (into / "PIPE").read_text() == house.value("pipe")
    house.cli("exec not found", "boot", "exec", "--", "/nowhere/at/all")
    house.cli("only absent", "boot", "env", "--only", "ABSENT")
    child = subprocess.Popen(
        [*PETSEM, "boot", "exec", "--", "sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=house.environ,
        cwd=ROOT,
    )
    # From here on it is the one process that has them, in its environment.
    house.watch.exempt.add(child.pid)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    environ = shown_by(child.pid, "environ")
    assert house.value("pipe").encode() in environ
    assert b"PETSEM_" not in environ
    assert not house.record.betrays(shown_by(child.pid, "cmdline"))
    looks = house.watch.looks
    until(lambda: house.watch.looks > looks + 3, "look at the processes")
    out, err = child.communicate(b"\n", 60)
    house.record.note("exec", out + err)


def _http(house: House) -> None:
    """What works."""
    body = {"set": {"HTTP": house.value("http"), "B": _coded(house.value("http-bytes"))}}
    first = house.http("patch", "PATCH", SECRETS, body, idempotency_key="canary-1")
    again = house.http("patch again", "PATCH", SECRETS, body, idempotency_key="canary-1")
    assert (first.status, again.raw) == (200, first.raw)
    house.http(
        "another body", "PATCH", SECRETS, {**body, "unset": ["PIPE"]}, idempotency_key="canary-1"
    )
    house.http("diff", "POST", SECRETS + "/diff", body)
    house.http("unset", "PATCH", SECRETS, {"unset": ["HTTP"]})
    version = first.body["version"]
    house.http("rollback", "POST", APP + "/rollback", {"to": version})
    house.http("rotate", "POST", "/v1/keyring/rotate-data", {"org": "acme", "app": "web"})
    read = house.doors.done("GET", SECRETS + "/values")["secrets"]
    assert read["HTTP"] == house.value("http")
    house.doors.set("acme/web", DOOMED=house.value("doomed"))
    house.http("destroy", "POST", SECRETS + "/destroy", {"names": ["DOOMED"]})
    mint = {"org": "acme", "caveats": ["action = secrets:read", in_seconds(600)]}
    for _ in range(2):
        minted = house.doors.done("POST", "/v1/tokens", mint, idempotency_key="canary-2")
        house.record.keep_token(minted["token"])
    for action in ("secrets:read", "secrets:write"):
        access = {"org": "acme", "action": action}
        asked = {"token": minted["token"], "access": access}
        house.http("verify", "POST", "/v1/tokens/verify", asked)
        house.http("can", "POST", "/v1/tokens/can", asked)
    house.http("revoke", "DELETE", f"/v1/orgs/acme/tokens/{minted['id']}")


def _coded(text: str) -> dict[str, str]:
    return {"base64": base64.b64encode(text.encode()).decode()}


def _http_gone_wrong(house: House) -> None:
    value, mark = house.value("wrong"), raw(house)
    for what, body in (
        ("a conflict", {"set": {"A": value}, "if_version": 99}),
        ("broken JSON", f'{{"set":{{"A":"{value}"'.encode()),
        ("noise", value.encode()),
        ("a name twice", f'{{"set":{{"A":"{value}","A":"{value}"}}}}'.encode()),
        ("bad UTF-8", f'{{"set":{{"A":"{value}'.encode() + b'\xff"}}'),
        ("an unknown field", {"set": {"A": value}, mark: value}),
        ("a wrong type", {"set": {"A": [value]}}),
        ("a wrong type elsewhere", {"set": {"A": value}, "if_version": value}),
        ("a bad name", {"set": {f"{value} !": value}}),
        ("bad base64", {"set": {"A": {"base64": value}}}),
        ("too large", {"set": {"A": value * 3_000}}),
        ("larger", {"set": {"A": value * 90_000}}),
        ("not allowed", {"set": {"A": value}}),
        ("not an app", {"set": {"A": value}}),
    ):
        token = house.doors.operator
        if what == "not allowed":
            token = narrowed(token, "action = secrets:list")
        path = SECRETS if what != "not an app" else "/v1/orgs/acme/apps/absent/secrets"
        answer = house.http(what, "PATCH", path, body, token=token)
        assert answer.status >= 400, what
    for what, method, path, more in (
        ("in a path", "GET", f"/v1/orgs/{mark}_/apps/web/secrets", {}),
        ("in a path that is none", "GET", f"/{value}", {}),
        ("in a query", "GET", f"{SECRETS}/values?names={value}!", {}),
        ("in an unknown parameter", "GET", f"{SECRETS}?{mark}={value}", {}),
        ("in a key", "PATCH", SECRETS, {"idempotency_key": value * 9, "body": {"unset": ["A"]}}),
        ("in a content type", "PATCH", SECRETS, {"content_type": value, "body": {"unset": ["A"]}}),
        ("in a header", "GET", "/healthz", {"x_secret": value}),
        ("in a cookie", "GET", "/v1/status", {"cookie": value, "token": None}),
        ("as a method", mark.upper(), SECRETS, {}),
        ("in a token's id", "DELETE", f"/v1/tokens/{value}", {}),
        ("in a caveat", "POST", "/v1/tokens", {"body": {"org": "acme", "caveats": [f"{value} !"]}}),
    ):
        house.http(what, method, path, **more)


def _sockets(house: House) -> None:
    """Requests that break off, and noise."""
    value = house.value("socket").encode()
    operator = house.doors.operator.encode()
    head = (
        b"PATCH " + SECRETS.encode() + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + operator
    )
    whole = head + b"\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n"
    for sent in (
        head + value,
        whole + b'{"set":{"A":"' + value,
        whole.replace(b"200", b"99999999") + value,
        b"GET /" + value + b"\x00 HTTP/1.1\r\n\r\n",
        value + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + value + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + value * 900 + b"\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", house.node.http), 10) as line:
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
            line.settimeout(10)
            with suppress(ConnectionError):
                while said := line.recv(65_536):
                    house.record.note("a socket", said)
    with socket.create_connection(("127.0.0.1", house.node.grpc), 10) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + value)
        line.settimeout(10)
        with suppress(OSError):
            line.shutdown(socket.SHUT_WR)
            while said := line.recv(65_536):
                house.record.note("the gRPC port", said)


def _rpc(house: House) -> None:
    doors, value, mark = house.doors, house.value("rpc"), raw(house)
    asked = pb.FetchRequest(org="acme", app="web")
    assert house.canary.found_in(doors.rpc(FETCH, asked).raw)
    assert house.canary.found_in(doors.connect(FETCH, asked).raw)
    marked = house.record.keep_token(f"petsem_Ag{mark}.000000")
    for what, request in (
        ("in a name", pb.FetchRequest(org="acme", app="web", names=[f"{value} !"])),
        ("a name that is not there", pb.FetchRequest(org="acme", app=mark)),
        ("in a machine", pb.FetchRequest(org="acme", app="web", machine=f"{value} !")),
        ("in an etag", pb.FetchRequest(org="acme", app="absent", known_etag=value.encode())),
        ("in an org", pb.FetchRequest(org=f"{value}!", app="web")),
    ):
        if what != "a name that is not there":
            house.rpc(what, doors.rpc(FETCH, request))
            house.rpc(what, doors.connect(FETCH, request))
    for token in (marked, f"{doors.operator}x", value):
        house.rpc("with a bad token", doors.rpc(FETCH, asked, token=token))
        house.rpc("with a bad token", doors.connect(FETCH, asked, token=token))
        access = {"org": "acme", "action": "secrets:read", "x": value}
        question = pb.VerifyRequest(token=token, access=access)
        house.rpc("a bad token in a question", doors.rpc(VERIFY, question))
        house.rpc("a bad token in a question", doors.connect(VERIFY, question))
    access = {"org": "acme", "action": "secrets:read", "password": value}
    house.rpc("verify", doors.rpc(VERIFY, pb.VerifyRequest(token=doors.operator, access=access)))
    for body in (
        value.encode(),
        f'{{"org":"{value}'.encode(),
        f'{{"org":"acme","app":"web","{mark}":"{value}"}}'.encode(),
        f'{{"org":["{value}"]}}'.encode(),
        f'{{"org":"acme","org":"{value}"}}'.encode(),
        b"\xff" + value.encode(),
    ):
        for proto in (True, False):
            house.rpc("a bad body", doors.connect(FETCH, body, proto=proto))
    house.rpc("a method", doors.connect(FETCH, b"", headers={"connect_timeout_ms": value}))


def _tokens_in_wrong_places(house: House) -> None:
    operator = house.doors.operator
    for what, method, path, more in (
        ("in a query", "GET", f"/v1/status?token={operator}", {"token": None}),
        ("in a path", "GET", f"/v1/tokens/{operator}", {}),
        ("as an id", "DELETE", f"/v1/tokens/{operator}", {}),
        ("in a body", "POST", "/v1/orgs", {"body": {"org": operator}}),
        ("as a field", "POST", "/v1/orgs", {"body": {operator: "acme"}}),
        ("in a key", "PATCH", SECRETS, {"body": {"unset": ["A"]}, "idempotency_key": operator}),
        ("in a cookie", "GET", "/v1/status", {"token": None, "cookie": f"token={operator}"}),
        ("with another scheme", "GET", "/v1/status", {"token": None, "authorization": operator}),
        ("twice", "GET", "/v1/status", {"token": f"{operator},{operator}"}),
        ("cut short", "GET", "/v1/status", {"token": operator[:-3]}),
    ):
        answer = house.http(f"a token {what}", method, path, **more)
        assert answer.status >= 400, what


def _crashes(house: House) -> None:
    """A fault of the program, a COMMIT that fails, a full disk: each with the value in hand."""
    disk = Disk(house.node.directory)
    disk.execute("ALTER TABLE versions RENAME TO elsewhere")
    body = {"set": {"CRASH": house.value("crash")}}
    try:
        answer = house.http("a crash", "PATCH", SECRETS, body)
        assert answer.error == (500, "internal", None)
        answer = house.http("a crash", "POST", SECRETS + "/destroy", {"names": ["DASH"]})
        assert answer.error == (500, "internal", None)
        answer = house.http("a crash", "GET", f"{SECRETS}?version=1")
        assert answer.error == (500, "internal", None)
        house.cli("a crash", "secrets", "set", "CRASH", "--debug", stdin=house.value("crash"))
    finally:
        disk.execute("ALTER TABLE elsewhere RENAME TO versions")
    disk.execute("ALTER TABLE bundles RENAME TO elsewhere")
    try:
        asked = pb.FetchRequest(org="acme", app="web", machine=raw(house))
        for reply in (house.doors.rpc(FETCH, asked), house.doors.connect(FETCH, asked)):
            assert house.rpc("a crash", reply).code == "internal"
        house.cli("a crash", "boot", "env", "--debug")
    finally:
        disk.execute("ALTER TABLE elsewhere RENAME TO bundles")
    house.node.fail("sync", "-wal", "io", times=1)
    answer = house.http("no sync", "PATCH", SECRETS, body, idempotency_key="crash")
    assert answer.status == 504
    answer = house.http("no sync, again", "PATCH", SECRETS, body, idempotency_key="crash")
    assert answer.status == 200
    house.node.free(0)
    assert house.http("no space", "PATCH", SECRETS, body).status == 503
    house.node.heal()
    disk.flip("secrets", "envelope", "name = 'FILE'")
    assert house.http("damage", "GET", SECRETS + "/values?names=FILE").status == 500
    house.doors.set("acme/web", FILE=house.value("file"))


async def _clients(house: House) -> None:
    """What the client's own objects show of themselves."""
    record, operator = house.record, house.doors.operator
    address = f"127.0.0.1:{house.node.grpc}"
    with SyncSecretReader([address], token=operator) as reader:
        bundle = reader.fetch("acme/web")
        assert house.canary.found_in(bundle["PIPE"])
        for shown in (reader, bundle, bundle.items(), bundle.values(), bundle.freshness):
            record.note(f"a {type(shown).__name__}", f"{shown!r} {shown} {[shown]!r}")
        for wrong in ("acme/absent", raw(house), f"acme/{house.value('x')}"):
            with pytest.raises(PetsemError) as caught:
                reader.fetch(wrong)
            if wrong == "acme/absent":
                record.note("an error", repr(caught.value) + repr(vars(caught.value)))
    async with SecretReader([address], token=operator) as reader_:
        changes = reader_.watch("acme/web")
        record.note("a change", repr(await anext(changes)))
        record.note("a reader", repr(reader_) + repr(changes))
        await changes.aclose()
    for token in (house.value("token"), f"{operator[:-2]}"):
        with pytest.raises(PetsemError) as caught:
            SyncSecretReader([address], token=token)
        record.note("an error", repr(caught.value) + str(caught.value))


def _listings(house: House) -> None:
    """Every answer that is not there to show a value."""
    for path in (
        "/metrics", "/v1/status", "/v1/nodes", "/v1/keyring", "/v1/tokens", "/v1/orgs", "/readyz",
        "/v1/orgs/acme/apps", "/v1/orgs/acme/settings", "/v1/orgs/acme/tokens", SECRETS,
        APP + "/versions", "/v1/revocations", "/schema",
    ):  # fmt: skip
        assert house.http(path, "GET", path).status == 200


def _the_end(house: House) -> None:
    """SIGTERM with a request half sent; then a start, a crash and a start."""
    with socket.create_connection(("127.0.0.1", house.node.http), 10) as line:
        line.sendall(
            b"PATCH " + SECRETS.encode() + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + house.doors.operator.encode() + b"\r\nContent-Type: application/json\r\n"
            b"Content-Length: 500\r\n\r\n" + house.value("half").encode()
        )  # fmt: skip
        line.shutdown(socket.SHUT_WR)
        assert house.node.stop() == 0
    house.node.start()
    with Doors(house.node, house.doors.operator) as doors:
        doors.set("acme/web", LAST=house.value("last"))
        assert values_of(doors.fetch("acme/web"))["LAST"].decode() == house.value("last")
        house.node.kill()
    house.node.start()
    with Doors(house.node, house.doors.operator) as doors:
        assert doors.fetch("acme/web").error is None
        # While it runs, with its WAL as it is.
        _judge_files(house)
    assert house.node.stop() == 0
    told = run("operator", "recover", house.node.directory)
    assert told.code == 0
    house.record.note("recover", told.out + told.err.encode())
    token = (house.root / "node.operator.token").read_text().strip()
    house.record.keep_token(token)


def _judge(house: House) -> None:
    assert house.record.leaks() == []
    assert len(house.record.said) > 150
    log = house.node.log.read_bytes()
    assert not house.record.betrays(log), "the log"
    events = {event for line in log.splitlines() for event in _events(line)}
    assert {"serving", "write_failed", "request_failed", "rpc_failed", "commit_failed"} <= events
    _judge_files(house)
    house.watch.look()
    assert house.watch.leaks == []
    assert house.watch.looks > 50
    # Nothing was left behind by `petsem check` or anything else.
    assert list((house.root / "tmp").iterdir()) == []


def _events(line: bytes) -> list[str]:
    with suppress(ValueError):
        return [json.loads(line)["event"]]
    return []


def _judge_files(house: House) -> None:
    """Values and tokens are in no file of the data directory, and no value in those beside it."""
    found = files_in(house.node.directory)
    assert {"petsem.db", "petsem.db-wal", "state.json", "lock"} <= found.keys()
    assert [name for name, data in found.items() if house.record.betrays(data)] == []
    beside = {
        path.name: path.read_bytes()
        for path in house.root.iterdir()
        if path.is_file() and path.name != "value.txt"
    }
    assert [name for name, data in beside.items() if house.canary.found_in(data)] == []
