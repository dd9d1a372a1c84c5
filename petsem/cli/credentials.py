"""Where the token comes from: the environment, a private file, or stdin where a command asks.

Guarantees: never from argv; a token file that group or others can read is refused with the
command that mends it; neither a token nor a path that may be one is quoted in an error. It does
not verify a token; the node does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from petsem.cli.streams import read_stdin
from petsem.errors import Code, PetsemError, invalid
from petsem.limits import TOKEN_MAX_BYTES
from petsem.server.files import read_bounded
from petsem.tokens.text import PREFIX

_ROOM_FOR_SPACE_BYTES = 64


def token_of(environ: Mapping[str, str]) -> str:
    """The caller's token: `PETSEM_TOKEN`, else what is in `PETSEM_TOKEN_FILE`."""
    if text := environ.get("PETSEM_TOKEN", "").strip():
        return text
    if path := environ.get("PETSEM_TOKEN_FILE", ""):
        return token_in_file(path, "PETSEM_TOKEN_FILE")
    raise PetsemError(
        Code.UNAUTHENTICATED, "there is no token; set PETSEM_TOKEN_FILE or PETSEM_TOKEN"
    )


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
