"""Where the keyring comes from: the environment, a systemd credential, a file or a command.

The first of these that is there is used, and no other is looked at:

1. `PETSEM_KEYRING`, the JSON itself;
2. `$CREDENTIALS_DIRECTORY/petsem.keyring`;
3. `[keyring] file` or `[keyring] command`;
4. `DIR.keyring.json` beside the data directory.

Guarantees: nothing that was read, printed or passed is quoted in an error; a command runs without
a shell, for a bounded time, with bounded output. It does not say which keys a node needs: without
any keyring the node runs, holds none, and says what it cannot open.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from petsem import limits
from petsem.crypto.keyring import Keyring
from petsem.errors import PetsemError, invalid, unavailable
from petsem.secretbytes import SecretBytes
from petsem.server import files
from petsem.server.config import KeyringConfig
from petsem.server.datadir import DataDir

COMMAND_TIMEOUT_S: Final = 10.0
_CREDENTIAL: Final = "petsem.keyring"


@dataclass(frozen=True, slots=True)
class KeyringSource:
    """All that decides where the keyring is. `environ` is for the command, and is not shown."""

    from_environment: SecretBytes | None
    credentials_directory: Path | None
    config: KeyringConfig
    default_file: Path
    directory: Path
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(
        cls, datadir: DataDir, config: KeyringConfig, environ: Mapping[str, str]
    ) -> KeyringSource:
        """The source that a node in `datadir` has; `environ` is the process's environment."""
        text = environ.get("PETSEM_KEYRING")
        credentials = environ.get("CREDENTIALS_DIRECTORY")
        return cls(
            SecretBytes(os.fsencode(text)) if text else None,
            Path(credentials) if credentials else None,
            config,
            datadir.default_keyring,
            datadir.path,
            # Petsem's own variables may be a token or the keyring; a command needs neither.
            {name: value for name, value in environ.items() if not name.startswith("PETSEM_")},
        )

    @property
    def credential(self) -> Path | None:
        """The systemd credential, if there is one."""
        if self.credentials_directory is None:
            return None
        path = self.credentials_directory / _CREDENTIAL
        return path if files.present(path) else None

    @property
    def file(self) -> Path | None:
        """The file that is used, if the keyring comes from a file; it need not exist."""
        if self.from_environment is not None:
            return None
        if self.credential is not None:
            return self.credential
        return None if self.config.command else self.config.file or self.default_file

    def __str__(self) -> str:
        """Where the keyring comes from, for people."""
        if self.from_environment is not None:
            return "PETSEM_KEYRING"
        return str(self.file) if self.file else "the output of [keyring] command"


def load_keyring(source: KeyringSource, *, timeout_s: float = COMMAND_TIMEOUT_S) -> Keyring:
    """The keyring of the first source that is there; an empty one if none is configured.

    Blocks up to `timeout_s` for a command, so it is called at start-up or on a thread. Raises
    `invalid` for a source that is wrong, `unavailable` for a command that failed.
    """
    data = _read(source, timeout_s)
    if data is None:
        return Keyring()
    try:
        return Keyring.parse(data.reveal())
    except PetsemError as error:
        raise PetsemError(error.code, f"{source}: {error.message}") from None


def warn_if_inside(datadir: DataDir, file: Path) -> str | None:
    """A warning, if `file` lies in the data directory: whoever copies that then has the keys."""
    if not file.resolve().is_relative_to(datadir.path.resolve()):
        return None
    return (
        f"the keyring {file} lies inside the data directory, so a copy or backup of the directory "
        "holds the keys as well; move it elsewhere and set [keyring] file"
    )


def _read(source: KeyringSource, timeout_s: float) -> SecretBytes | None:
    if source.from_environment is not None:
        return source.from_environment
    if source.credential is not None:
        # No look at its mode: systemd grants the service's user access by an ACL, which shows as
        # rights of the group.
        return SecretBytes(files.read_bounded(source.credential, limits.KEYRING_MAX_BYTES))
    if source.config.command:
        return _run(source.config.command, source, timeout_s)
    file = source.config.file or source.default_file
    if source.config.file is None and not files.present(file):
        return None
    return SecretBytes(files.read_bounded(file, limits.KEYRING_MAX_BYTES, private=True))


def _run(command: tuple[str, ...], source: KeyringSource, timeout_s: float) -> SecretBytes:
    """What `command` prints. Its standard error is dropped: it may repeat what it was given."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=source.directory,
            env=dict(source.environ),
            start_new_session=True,
        )
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise invalid(f"[keyring] command cannot be run: {reason}") from None
    assert child.stdout is not None
    try:
        data = _read_pipe(child.stdout.fileno(), time.monotonic() + timeout_s)
        status = child.wait(timeout_s) if data is not None else None
    except subprocess.TimeoutExpired:
        data = None
    finally:
        child.stdout.close()
        if child.returncode is None:
            # The whole session, because what the command started may go on without it. Only
            # while the child is not reaped: afterwards its id may be another's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if data is None:
        raise unavailable(f"[keyring] command did not finish within {timeout_s:g} seconds")
    if status != 0:
        raise unavailable(
            f"[keyring] command failed with status {status}; run it by hand to see why"
        )
    return SecretBytes(data)


def _read_pipe(fd: int, deadline: float) -> bytes | None:
    """All that comes until the end, or None if that takes too long; `invalid` if it is too much."""
    data = bytearray()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poller.poll(left * 1000):
            continue
        chunk = os.read(fd, limits.KEYRING_MAX_BYTES + 1 - len(data))
        if not chunk:
            return bytes(data)
        data += chunk
        if len(data) > limits.KEYRING_MAX_BYTES:
            raise invalid(f"[keyring] command printed over {limits.KEYRING_MAX_BYTES:,} bytes")
    return None
