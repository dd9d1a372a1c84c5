"""The arguments of `secrets set`: where each value is to be read from.

Guarantees: a value given on the command line is refused unless that was asked for, and never
repeated; nor is a name, until it is known to be one and expected. From a pipe exactly one final
newline is dropped and that is said; a file is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from petsem import limits
from petsem.cli.batch import Entry
from petsem.cli.importing import read_file
from petsem.cli.names import check_typed_name
from petsem.cli.output import note
from petsem.cli.streams import read_stdin, stdin_is_tty
from petsem.counted import counted
from petsem.errors import PetsemError, invalid

TERMINAL_LINE_MAX_BYTES: Final = 4095
"""What Linux hands over of one typed or pasted line (N_TTY); it drops the rest in silence."""


@dataclass(frozen=True, slots=True)
class _Wish:
    name: str
    source: str | None
    """None: the terminal, or the pipe; `-`: stdin; `@PATH`; anything else is the value."""


def read_settings(arguments: Sequence[str], *, allow_argv: bool, exact: bool) -> tuple[Entry, ...]:
    """The entries that `NAME`, `NAME=-` and `NAME=@FILE` ask for."""
    wishes = [_wish(each, number) for number, each in enumerate(arguments, 1)]
    if not allow_argv and any(_is_argv(wish) for wish in wishes):
        raise invalid(
            "a value was given on the command line and is not used, since every user of this "
            "machine can see it there; give NAME alone and type or pipe the value, NAME=- for "
            "stdin or NAME=@FILE, and remove this line from the shell's history (--allow-argv "
            "takes it all the same)"
        )
    names = [wish.name for wish in wishes]
    if len(set(names)) != len(names):
        raise invalid("a name is given twice; each can be set once in a batch")
    _check_stdin(wishes)
    return tuple(_read(wish, exact=exact) for wish in wishes)


def _wish(argument: str, number: int) -> _Wish:
    name, equals, source = argument.partition("=")
    try:
        check_typed_name(name)
    except PetsemError:
        raise invalid(
            f"argument {number} does not start with a secret's name: a letter or underscore, then "
            "letters, digits, '_', '.' or '-'"
        ) from None
    return _Wish(name, source if equals else None)


def _is_argv(wish: _Wish) -> bool:
    return wish.source is not None and wish.source != "-" and not wish.source.startswith("@")


def _check_stdin(wishes: Sequence[_Wish]) -> None:
    piped = sum(wish.source == "-" for wish in wishes)
    if not stdin_is_tty():
        piped += sum(wish.source is None for wish in wishes)
    if piped > 1:
        raise invalid(
            "stdin holds one value only; set the names one by one, use NAME=@FILE, "
            "or import them all with: petsem secrets import -"
        )


def _read(wish: _Wish, *, exact: bool) -> Entry:
    source = wish.source
    if source is not None and source.startswith("@"):
        value = read_file(source[1:], limits.VALUE_MAX_BYTES, f"the file for {wish.name}")
    elif source is not None and source != "-":
        value = _encoded(source)
    elif source == "-" or not stdin_is_tty():
        value = _from_pipe(wish.name, exact=exact)
        if not value and source is None and not exact:
            # A job without a stdin would wipe the secret.
            raise invalid(
                f"stdin is empty, so {wish.name} was not set; for an empty value use "
                f"{wish.name}=- or --exact"
            )
    else:
        value = _from_person(wish.name)
    return Entry(wish.name, value, wish.name)


def _encoded(text: str) -> bytes:
    # The bytes that the shell passed, whatever the locale made of them.
    return text.encode("utf-8", "surrogateescape")


def _from_pipe(name: str, *, exact: bool) -> bytes:
    # Two bytes more than a value may have: the newline to drop, and one to see that it is too long.
    data = read_stdin(limits.VALUE_MAX_BYTES + 2)
    if not data:
        note(f"{name}: stdin was empty, so the value is empty")
    if exact or not data.endswith(b"\n"):
        return data
    value = data[:-1]
    hint = "; it ends with a carriage return" if value.endswith(b"\r") else ""
    note(
        f"{name}: one final newline dropped, {counted(len(value), 'byte')} left{hint} "
        "(--exact keeps the newline)"
    )
    return value


def _from_person(name: str) -> bytes:
    text: str = click.prompt(
        f"Value of {name} (not shown)",
        default="",
        show_default=False,
        hide_input=True,
        confirmation_prompt="Once more",
        err=True,
    )
    value = _encoded(text)
    if not value:
        raise invalid(
            f"nothing was typed; for an empty value: printf '' | petsem secrets set {name}"
        )
    if len(value) >= TERMINAL_LINE_MAX_BYTES:
        raise invalid(
            f"a terminal cuts lines at {TERMINAL_LINE_MAX_BYTES:,} bytes, so the end may be "
            f"missing; use NAME=@FILE or a pipe"
        )
    return value
