"""Names of secrets, as they come from people.

Guarantees: a token in the place of a name is refused before anything is sent or said. By its
letters it could be a name, and would then be stored in the clear and repeated in messages. A value
that looks like a name cannot be told from one.
"""

from __future__ import annotations

from typing import Final

from petsem.errors import invalid
from petsem.model import check_secret_name
from petsem.tokens.text import PREFIX

_TOKEN_START: Final = PREFIX + "Ag"
"""The binary format's first byte is 2, so every token goes on like this."""


def check_typed_name(name: str) -> str:
    """`name`, if it may name a secret and is no token; `invalid` otherwise."""
    if name.startswith(_TOKEN_START):
        raise invalid("a token stands where a secret's name belongs; it was not sent")
    return check_secret_name(name)
