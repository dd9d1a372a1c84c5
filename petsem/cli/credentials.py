"""Where the token comes from: the environment, a private file, a sign-in that is kept, or stdin
where a command asks.

Guarantees: never from argv; a token file that group or others can read is refused with the
command that mends it; neither a token nor a path that may be one is quoted in an error. A sign-in
is used for the org that is named, and for another one only if none is named and there is just the
one. It does not verify a token (the node does) or renew one (`caller` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from petsem.cli.logins import Login, Logins
from petsem.cli.streams import read_stdin
from petsem.errors import Code, PetsemError, invalid
from petsem.limits import TOKEN_MAX_BYTES
from petsem.model import split_app
from petsem.server.files import read_bounded
from petsem.tokens.text import PREFIX

_ROOM_FOR_SPACE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Held:
    """A token, since when it has been there if that is known (Unix milliseconds), and the sign-in
    that it is from, if it is from one."""

    text: str = field(repr=False)
    since_ms: int | None = None
    login: Login | None = None

    @classmethod
    def of_login(cls, login: Login) -> Held:
        return cls(login.text, login=login)


def held_token(environ: Mapping[str, str], org: str | None = None) -> Held:
    """The caller's token: `PETSEM_TOKEN`, else what is in `PETSEM_TOKEN_FILE`, else the sign-in to
    `org` (without one, to the org of `PETSEM_APP`, or the only sign-in there is)."""
    if text := environ.get("PETSEM_TOKEN", "").strip():
        return Held(text)
    if path := environ.get("PETSEM_TOKEN_FILE", ""):
        return Held(token_in_file(path, "PETSEM_TOKEN_FILE"), _written_ms(path))
    logins = Logins.of_environ(environ)
    org = org or _org_of_app(environ)
    if org is None and len(orgs := logins.orgs()) == 1:
        org = orgs[0]
    login = None if org is None else logins.load(org)
    if login is None:
        raise PetsemError(
            Code.UNAUTHENTICATED,
            "there is no token; set PETSEM_TOKEN_FILE or PETSEM_TOKEN, or sign in with: "
            f"petsem login {org or 'ORG'}",
        )
    return Held.of_login(login)


def token_of(environ: Mapping[str, str], org: str | None = None) -> str:
    """The text of the caller's token, as it is kept."""
    return held_token(environ, org).text


def token_in_file(path: str, what: str) -> str:
    """The token in a private file, or on stdin for `-`. `what` names the file in errors."""
    if path == "-":
        data = read_stdin(TOKEN_MAX_BYTES + _ROOM_FOR_SPACE_BYTES)
    elif path.startswith(PREFIX):
        raise invalid(f"{what} holds a token where the path of a file belongs")
    elif not Path(path).is_file():
        raise invalid(f"{what} names no file")
    else:
        data = read_bounded(Path(path), TOKEN_MAX_BYTES + _ROOM_FOR_SPACE_BYTES, private=True)
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise invalid(f"{what} holds no token: a token is ASCII text") from None
    if not text:
        raise invalid(f"{what} is empty; it should hold a token")
    return text


def _org_of_app(environ: Mapping[str, str]) -> str | None:
    try:
        return split_app(environ.get("PETSEM_APP", ""))[0]
    except PetsemError:
        return None


def _written_ms(path: str) -> int | None:
    try:
        return None if path == "-" else Path(path).stat().st_mtime_ns // 1_000_000
    except OSError:
        return None
