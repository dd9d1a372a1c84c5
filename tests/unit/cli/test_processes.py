"""The program as a process: exit codes, signals, terminals, pipes, and what a child sees."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from petsem.wire import petsem_pb2 as pb
from tests.unit.cli.support import TOKEN
from tests.unit.cli.test_import_dotenv import DEMO_VALUES

PETSEM = [sys.executable, "-c", "from petsem.cli.main import main; main()"]
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A gRPC server on loopback that answers every fetch with the demonstration's secrets."""

    def fetch(request: pb.FetchRequest, _: grpc.ServicerContext) -> pb.FetchResponse:
        secrets = [
            pb.Secret(name=name, value=value.encode(), version=3)
            for name, value in DEMO_VALUES.items()
            if not request.names or name in request.names
        ]
        freshness = pb.Freshness(
            node="ams-1", region="ams", role=pb.LEADER, position=pb.Position(epoch=1, txid=7),
            source=pb.DISK, server_time_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        return pb.FetchResponse(version=3, secrets=secrets, freshness=freshness, etag=b"e" * 16)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(
        fetch, pb.FetchRequest.FromString, pb.FetchResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("petsem.v1.Secrets", {"Fetch": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def environ(address: str = "127.0.0.1:1") -> dict[str, str]:
    """A small environment for the program."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PETSEM_TOKEN": TOKEN,
        "PETSEM_APP": "acme/web",
        "PETSEM_GRPC": address,
        "PETSEM_ADDR": "http://127.0.0.1:1",
        "_PETSEM_LOOKALIKE": "stays",
    }


def petsem(address: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end."""
    return subprocess.run(
        [*PETSEM, *args], env=environ(address), capture_output=True, check=False, timeout=WITHIN_S
    )


def test_a_child_gets_every_byte_and_nothing_of_petsem(address: str) -> None:
    """38 odd values through gRPC into an environment; no token, no PETSEM_ variable."""
    done = petsem(address, "boot", "exec", "--", "env", "-0")
    assert done.returncode == 0, done.stderr
    came = dict(pair.split(b"=", 1) for pair in done.stdout.split(b"\0") if pair)
    assert {n: came[n.encode()].decode() for n in DEMO_VALUES} == DEMO_VALUES
    assert not [name for name in came if name.startswith(b"PETSEM_")]
    assert came[b"_PETSEM_LOOKALIKE"] == b"stays"
    assert TOKEN.encode() not in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["sh", "-c", "exit 0"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "exit 125"], 125),
        (["sh", "-c", "kill -TERM $$"], -signal.SIGTERM),
        (["sh", "-c", "kill -KILL $$"], -signal.SIGKILL),
        (["/nonexistent/command"], 127),
        (["no-such-command-anywhere"], 127),
        (["/etc/hostname/x"], 127),
        (["/tmp"], 126),
    ],
)
def test_exit_codes_of_exec(address: str, command: list[str], code: int) -> None:
    """The child's own code; death by a signal is the process's own, which shells show as 128+n."""
    assert petsem(address, "boot", "exec", "--", *command).returncode == code


def test_a_shell_sees_128_and_the_signal(address: str) -> None:
    """As with any command."""
    script = '"$@"; echo "code $?"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *PETSEM, "boot", "exec", "--", "sh", "-c", "kill -TERM $$"],
        env=environ(address), capture_output=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip
    assert b"code 143" in done.stdout


def test_signals_reach_the_child(address: str) -> None:
    """There is no process in between that could keep one."""
    script = "trap 'echo caught; exit 9' HUP; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [*PETSEM, "boot", "exec", "--", "sh", "-c", script],
        env=environ(address), stdout=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGHUP)
        assert child.stdout.readline() == b"caught\n"
        assert child.wait(WITHIN_S) == 9


def test_the_child_is_killed_by_a_broken_pipe(address: str) -> None:
    """Python ignores SIGPIPE; a child that inherited that would write on for ever."""
    done = petsem(address, "boot", "exec", "--", "sh", "-c", "kill -PIPE $$; echo survived")
    assert done.returncode == -signal.SIGPIPE
    assert done.stdout == b""


def test_no_descriptor_is_left_to_the_child(address: str) -> None:
    """Sockets of the fetch are closed."""
    done = petsem(address, "boot", "exec", "--", "ls", "-l", "/proc/self/fd")
    assert b"0 -> " in done.stdout
    assert b"socket:" not in done.stdout
    assert b"anon_inode:" not in done.stdout


def test_a_reader_that_has_seen_enough() -> None:
    """A closed pipe ends it without a word."""
    with subprocess.Popen(
        [*PETSEM, "completion", "bash"], env=environ(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(WITHIN_S) == 1


def test_a_closed_stdin_is_no_empty_value() -> None:
    """`<&-` is a mistake, and no internal error."""
    command = 'exec "$@" <&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *PETSEM, "secrets", "set", "A"], env=environ(),
        capture_output=True, check=False, timeout=WITHIN_S,
    )  # fmt: skip
    assert (done.returncode, b"stdin is closed" in done.stderr) == (2, True)


class Terminal:
    """The program with a terminal for stdin, stdout and stderr."""

    def __init__(self, *args: str, address: str = "127.0.0.1:1") -> None:
        self._seen = b""
        self._from = 0
        self._fd, theirs = pty.openpty()
        # Not pty.fork: gRPC's threads do not survive a bare fork. The child makes the terminal its
        # own, so that prompts find it at /dev/tty and Ctrl-C is a signal.
        own = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        self._child = subprocess.Popen(
            [PETSEM[0], "-c", f"{own}; {PETSEM[2]}", *args],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environ(address) | {"TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)

    def until(self, text: str) -> None:
        """Read until `text` was shown, after what was waited for before."""
        deadline_s = time.monotonic() + WITHIN_S
        while (found := self._seen.find(text.encode(), self._from)) < 0:
            if not select.select([self._fd], [], [], deadline_s - time.monotonic())[0]:
                raise AssertionError(f"never saw {text!r}: {self._seen!r}")
            chunk = self._read()
            assert chunk, f"it ended without {text!r}: {self._seen!r}"
            self._seen += chunk
        self._from = found + len(text.encode())

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self._fd, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code and everything shown."""
        while chunk := self._read():
            self._seen += chunk
        os.close(self._fd)
        return self._child.wait(WITHIN_S), self._seen.decode(errors="replace")

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, 65_536)
        except OSError:  # the other end is closed
            return b""


def test_a_value_is_asked_for_twice_and_not_shown() -> None:
    """A mistyped repetition asks again; the value never reaches the screen."""
    terminal = Terminal("secrets", "set", "DB_PASSWORD")
    terminal.until("Value of DB_PASSWORD (not shown): ")
    terminal.type("hunter2\n")
    terminal.until("Once more: ")
    terminal.type("hunter3\n")
    terminal.until("do not match")
    terminal.until("Value of DB_PASSWORD (not shown): ")
    terminal.type("hunter2\n")
    terminal.until("Once more: ")
    terminal.type("hunter2\n")
    code, seen = terminal.end()
    assert code == 6  # nobody listens there
    assert "no node answered" in seen
    assert "hunter" not in seen


def test_nothing_typed_is_no_value() -> None:
    """An accidental Enter does not empty a secret."""
    terminal = Terminal("secrets", "set", "DB_PASSWORD")
    for prompt in ("Value of", "Once more"):
        terminal.until(prompt)
        terminal.type("\n")
    code, seen = terminal.end()
    assert code == 2
    assert "nothing was typed" in seen


def test_a_line_that_the_terminal_cut_is_refused() -> None:
    """It hands over 4,095 bytes and drops the rest in silence."""
    terminal = Terminal("secrets", "set", "DB_PASSWORD")
    for prompt in ("Value of", "Once more"):
        terminal.until(prompt)
        terminal.type("x" * 4095 + "\n")
    code, seen = terminal.end()
    assert code == 2
    assert "a terminal cuts lines" in seen


def test_ctrl_c_is_130() -> None:
    """One word, no traceback."""
    terminal = Terminal("secrets", "set", "DB_PASSWORD")
    terminal.until("Value of")
    terminal.type("\x03")
    code, seen = terminal.end()
    assert code == 130
    assert "petsem: interrupted" in seen
    assert "Traceback" not in seen


def test_values_do_not_go_to_a_screen_unasked(address: str) -> None:
    """get and boot env want --reveal there, before anything is fetched."""
    for args in (("secrets", "get", "A"), ("boot", "env"), ("secrets", "get", "A", "-o", "json")):
        code, seen = Terminal(*args, address=address).end()
        assert code == 2
        assert "--reveal" in seen
    code, seen = Terminal("boot", "env", "--only", "APP_NAME", "--reveal", address=address).end()
    assert (code, seen.strip()) == (0, "APP_NAME='Wayside Bookings'")


def test_a_name_is_typed_back_before_a_deletion() -> None:
    """Anything else leaves it alone, without a call."""
    terminal = Terminal("app", "delete", "acme/web")
    terminal.until("Type acme/web to go on: ")
    terminal.type("web\n")
    code, seen = terminal.end()
    assert code == 2
    assert "nothing was done" in seen
    terminal = Terminal("app", "delete", "acme/web")
    terminal.until("Type acme/web to go on: ")
    terminal.type("acme/web\n")
    code, seen = terminal.end()
    assert code == 6
    assert "no node answered" in seen


def test_tables_have_colour_on_a_terminal_only(tmp_path: Path) -> None:
    """Escapes on a screen, none in a pipe; nothing is cut off in either."""
    code, seen = Terminal("token", "inspect").end()
    assert code == 0
    assert "\x1b[1m" in seen
    piped = subprocess.run(
        [*PETSEM, "token", "inspect"], env=environ(), capture_output=True, check=True,
        timeout=WITHIN_S,
    )  # fmt: skip
    assert b"\x1b" not in piped.stdout + piped.stderr
