"""`--durability` and `--require`: how a write's durability is asked for and reported.

Guarantees: what the node says is said truthfully. A wish that was not met is a warning, or exit
code 6 with `--require`; the write stands in both cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from petsem.cli import exits
from petsem.cli.output import warn
from petsem.errors import invalid
from petsem.wire.http import DurabilityReport, DurabilityWish, ReplicatedDurability

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_REPLICATED: Final = re.compile(r"replicated=([1-9]|[1-5][0-9]|6[0-4])", re.ASCII)


def parse_durability(text: str) -> DurabilityWish:
    """`local`, or `replicated=K` with K from 1 to 64."""
    if text == "local":
        return "local"
    found = _REPLICATED.fullmatch(text)
    if found is None:
        raise invalid("durability is 'local' or 'replicated=K', K a number of other voters")
    return ReplicatedDurability(int(found[1]))


def spell(wish: DurabilityWish) -> str:
    """The wish as the command line writes it."""
    return wish if isinstance(wish, str) else f"replicated={wish.replicated}"


def durability_options(command: Decorated) -> Decorated:
    """`--durability` and `--require`."""
    require = click.option(
        "--require", is_flag=True, help="Exit with 6 if the durability asked for was not reached."
    )
    wish = click.option(
        "--durability",
        metavar="local|replicated=K",
        callback=_wish,
        help="Where the write must be before it is answered (default: the org's setting).",
    )
    return wish(require(command))


def where(report: DurabilityReport) -> str:
    """For people: which disks hold the write."""
    if not report.replicated_to:
        return "durable on the leader"
    return "durable on the leader and on " + ", ".join(report.replicated_to)


def settle(report: DurabilityReport, *, require: bool) -> None:
    """Warn if the wish was not met, and with `require` end with its exit code."""
    if report.met:
        return
    warn(
        f"the change stands, but {spell(report.asked)} was not reached in time; "
        f"it is {where(report)}"
    )
    if require:
        raise click.exceptions.Exit(exits.UNMET)


def _wish(context: click.Context, _: click.Parameter, value: str | None) -> DurabilityWish | None:
    if value is None or context.resilient_parsing:
        return None
    return parse_durability(value)
