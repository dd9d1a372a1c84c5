"""Asking for a name typed back before something is lost.

Guarantees: without a terminal nothing is deleted unless `--yes NAME` names exactly that. It says
nothing about who may delete; the node does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from petsem.cli.output import note
from petsem.cli.streams import stdin_is_tty
from petsem.errors import invalid

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def confirm_name(name: str, given: str | None, loss: str) -> None:
    """Return if `name` was given with `--yes`, or is typed now; `invalid` otherwise."""
    if given is None:
        if not stdin_is_tty():
            raise invalid(f"{loss}; to do it without being asked, give: --yes {name}")
        note(f"{loss}.")
        given = click.prompt(f"Type {name} to go on", default="", show_default=False, err=True)
    if given != name:
        raise invalid(f"that is not the name; nothing was done (it takes exactly {name})")


def deletion_options(command: Decorated) -> Decorated:
    """`--now` and `--yes`, for what is otherwise deleted softly."""
    now = click.option("--now", is_flag=True, help="Purge at once; there is no undelete.")
    yes = click.option("--yes", metavar="NAME", help="Do not ask; name what is to be deleted.")
    return now(yes(command))


def now_param(now: bool) -> dict[str, str | int] | None:
    """The query of a DELETE."""
    return {"now": "true"} if now else None


def manner(now: bool) -> str:
    """How final it is, for the question."""
    return " at once and for ever" if now else "; it can be undeleted for 7 days"
