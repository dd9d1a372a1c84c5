"""Where sign-ins are kept: one private file for each org, in the user's state directory.

Guarantees: the directories are 0700 and the files 0600, and looser ones are refused with the
command that mends them; a file is either the old sign-in or the new one, never a mixture; nothing
of a sign-in that could be used is in its `repr` or in an error. `locked` lets one command at a
time change what is kept, because a session may be good for one renewal only.

Does not encrypt what it keeps: whoever reads this user's files is this user until the sign-in
ends. It asks no node.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from petsem.cli.lives import Life
from petsem.errors import PetsemError, invalid, unavailable
from petsem.model import check_org
from petsem.server.files import (
    cannot,
    make_directory,
    read_bounded,
    require_private,
    sweep_temporaries,
    write_atomic,
)

SESSION_MAX_CHARS: Final = 16 * 1024
_FILE_MAX_BYTES: Final = 128 * 1024
_SUFFIX: Final = ".json"
_LOCK_PAUSE_S: Final = 0.1
_LOCK_TRIES: Final = 300


class Login(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sign-in. `token` is the permission token and `discharge` its discharge, not bound to it;
    `session` renews the discharge without the person. `nodes` are the addresses that it was made
    at: nobody else is ever sent the session. Times are Unix milliseconds, `…_since_ms` by this
    machine's clock."""

    org: str
    user: str
    nodes: tuple[str, ...]
    token: str
    token_id: str
    token_since_ms: int
    token_until_ms: int
    ticket: str
    discharge: str
    discharge_since_ms: int
    discharge_until_ms: int
    session: str | None

    def __repr__(self) -> str:
        return f"Login(org={self.org!r}, user={self.user!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("org", self.org), ("user", self.user)]

    @property
    def text(self) -> str:
        """The token as it is kept everywhere: with its discharge, which is not bound to it."""
        return f"{self.token},{self.discharge}"

    @property
    def token_life(self) -> Life:
        return Life(self.token_since_ms, self.token_until_ms)

    @property
    def discharge_life(self) -> Life:
        return Life(self.discharge_since_ms, self.discharge_until_ms)

    @property
    def until_ms(self) -> int:
        """When it ends without a renewal."""
        return min(self.token_until_ms, self.discharge_until_ms)


class Logins:
    """The sign-ins of this user; none, and no place for any, if the environment names no home."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    @classmethod
    def of_environ(cls, environ: Mapping[str, str]) -> Logins:
        """Those under `XDG_STATE_HOME`, by default `~/.local/state`."""
        state = environ.get("XDG_STATE_HOME", "")
        home = environ.get("HOME", "")
        # A relative path is to be ignored, says the convention that names the variable.
        if state.startswith("/"):
            return cls(Path(state) / "petsem" / "logins")
        if home.startswith("/"):
            return cls(Path(home) / ".local" / "state" / "petsem" / "logins")
        return cls(None)

    def path_of(self, org: str) -> Path:
        """The file of the sign-in to `org`; `invalid` if there is no place for it."""
        return self._place() / f"{org}{_SUFFIX}"

    def orgs(self) -> list[str]:
        """The orgs with a sign-in, by name."""
        if self._directory is None:
            return []
        try:
            found = sorted(path.name for path in self._directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise cannot("read", self._directory, error) from error
        names = [name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)]
        return [name for name in names if _is_org(name)]

    def load(self, org: str) -> Login | None:
        """The sign-in to `org`; None without one, `invalid` for a file that is open to others or
        damaged."""
        if org not in self.orgs():
            return None
        path = self.path_of(org)
        require_private(path.parent)
        data = read_bounded(path, _FILE_MAX_BYTES, private=True)
        try:
            login = msgspec.json.decode(data, type=Login)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _damaged(path, org) from None
        if login.org != org:
            raise _damaged(path, org)
        return login

    def save(self, login: Login) -> Path:
        """Keep `login` in place of another to the same org; only while `locked`."""
        path = self.path_of(login.org)
        # What a command left that was killed while it wrote holds a sign-in too.
        sweep_temporaries(path.parent)
        data = msgspec.json.format(msgspec.json.encode(login), indent=2)
        assert len(data) <= _FILE_MAX_BYTES, "every part of a sign-in is bounded"
        write_atomic(path, data + b"\n")
        return path

    def forget(self, org: str) -> None:
        """Remove the sign-in to `org`, if there is one; only while `locked`."""
        path = self.path_of(org)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", path, error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among this user's commands; `unavailable` if another one takes too long."""
        try:
            path = self._made() / ".lock"
            fd = _open(path)
        except PetsemError as error:
            raise _placed(error) from error.__cause__
        try:
            _lock(fd, path)
            yield
        finally:
            os.close(fd)

    def _place(self) -> Path:
        if self._directory is None:
            raise invalid("there is no place to keep a sign-in; set HOME or XDG_STATE_HOME")
        return self._directory

    def _made(self) -> Path:
        place = self._place()
        state = place.parent.parent
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cannot("make", state, error) from error
        make_directory(place.parent)
        make_directory(place)
        return place


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise cannot("open", path, error) from error


def _lock(fd: int, path: Path) -> None:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        except OSError as error:
            raise cannot("lock", path, error) from error
        else:
            return
    raise unavailable(f"another petsem command holds {path}; wait for it, and try again")


def _is_org(name: str) -> bool:
    try:
        check_org(name)
    except PetsemError:
        return False
    return True


def _damaged(path: Path, org: str) -> PetsemError:
    return invalid(
        f"{path} holds no sign-in that can be read; remove it, or make it anew: petsem login {org}"
    )


def _placed(error: PetsemError) -> PetsemError:
    """`error`, with what to do about a place that the system refuses to this user."""
    cause = error.__cause__
    if not isinstance(cause, OSError) or cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    return PetsemError(
        error.code,
        f"{error.message}; sign-ins need a directory that is yours to write to: mend it, or name "
        "another with XDG_STATE_HOME",
    )
