"""What all `boot` commands share: their options, and the fetch itself.

Guarantees: the client library is imported only here and only when something is fetched; which
secrets were left out is said on stderr. Names that were asked for and are not there are an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from petsem.cli.caller import RENEWABLE, Caller
from petsem.cli.child_environ import fit, misfits, parse_renames
from petsem.cli.names import check_typed_name
from petsem.cli.options import AppRef, app_option, remote
from petsem.cli.output import note, warn
from petsem.cli.quiet_grpc import quiet_grpc
from petsem.cli.run import Run
from petsem.errors import PetsemError, invalid, not_found
from petsem.limits import VERSION_MAX
from petsem.model import Position

if TYPE_CHECKING:
    from petsem_client import Bundle

_UNHEARD_MS = 3_000
"""Three heartbeats: the node goes on answering, and says so."""
_STALE_MS = 60_000


@dataclass(frozen=True, slots=True)
class BootWish:
    """Which secrets, how new, and how they are to be placed."""

    app: AppRef
    machine: str | None
    min_version: int
    min_position: Position | None
    only: tuple[str, ...]
    renames: dict[str, str]
    allowed: frozenset[str]
    skip_invalid: bool


_FETCHING = (
    app_option,
    click.option("--machine", metavar="ID", help="The machine that boots."),
    click.option(
        "--min-version",
        type=click.IntRange(0, VERSION_MAX),
        default=0,
        metavar="N",
        help="At least this version of the app.",
    ),
    click.option("--min-position", metavar="POSITION", help="From a node that is at least there."),
    click.option("--only", metavar="NAME[,…]", multiple=True, help="Only these secrets."),
)
_PLACING = (
    click.option(
        "--map", "mapped", metavar="NAME=VARIABLE", multiple=True, help="Place it under this name."
    ),
    click.option("--skip-invalid", is_flag=True, help="Leave out what does not fit, and say so."),
    click.option(
        "--allow-name",
        "allowed",
        metavar="VARIABLE[,…]",
        multiple=True,
        help="Accept this variable although programs obey it (PATH, LD_*, PYTHON*, …).",
    ),
)


def fetch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the fetch alone, handed to `command` as one `wish`."""
    return _with_wish(command, (*_FETCHING, remote))


def variable_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same, and the options that place secrets as variables."""
    return _with_wish(command, (*_FETCHING, *_PLACING, remote))


def _with_wish(
    command: Callable[..., Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        app: AppRef,
        machine: str | None,
        min_version: int,
        min_position: str | None,
        only: tuple[str, ...],
        mapped: tuple[str, ...] = (),
        skip_invalid: bool = False,
        allowed: tuple[str, ...] = (),
        **others: Any,
    ) -> Any:
        wish = BootWish(
            app=app,
            machine=machine,
            min_version=min_version,
            min_position=None if min_position is None else Position.parse(min_position),
            only=tuple(dict.fromkeys(check_typed_name(name) for name in _split(only))),
            renames=parse_renames(mapped),
            allowed=frozenset(_split(allowed)),
            skip_invalid=skip_invalid,
        )
        return command(*args, wish=wish, **others)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _split(given: tuple[str, ...]) -> list[str]:
    return [each.strip() for text in given for each in text.split(",")]


def fetch(run: Run, wish: BootWish) -> Bundle:
    """The app's secrets, or those of `--only`."""
    environ = run.environ
    endpoints = [text.strip() for text in environ.get("PETSEM_GRPC", "").split(",") if text.strip()]
    if not endpoints:
        raise invalid("no node is named; set PETSEM_GRPC, such as PETSEM_GRPC=127.0.0.1:7401")
    caller = Caller(run)
    try:
        bundle = _read(run, wish, endpoints, caller.token(wish.app.org))
    except PetsemError as error:
        if error.detail.reason not in RENEWABLE:
            raise
        caller.renew(error)
        bundle = _read(run, wish, endpoints, caller.token(wish.app.org))
    missing = [name for name in wish.only if name not in bundle]
    if missing:
        raise not_found(f"{wish.app} has no secret {', '.join(missing)} that this token may read")
    _remark(wish, bundle)
    caller.remark()
    return bundle


def _read(run: Run, wish: BootWish, endpoints: list[str], token: str) -> Bundle:
    # Imported here: gRPC costs more time to load than the rest of the command line together.
    with quiet_grpc():
        from petsem_client import SyncSecretReader

    environ = run.environ
    with SyncSecretReader(
        endpoints,
        token=token,
        ca=environ.get("PETSEM_CA") or None,
        cert=environ.get("PETSEM_CERT") or None,
        key=environ.get("PETSEM_KEY") or None,
        insecure=run.insecure,
        clock=run.clock,
    ) as reader:
        return reader.fetch(
            str(wish.app),
            machine=wish.machine,
            min_version=wish.min_version,
            min_position=wish.min_position,
            names=wish.only,
        )


def variables_of(secrets: Bundle, wish: BootWish) -> dict[str, bytes]:
    """The secrets as variables; what does not fit stops it, or is left out if that was asked."""
    fitted = fit(secrets, wish.renames, wish.allowed)
    if fitted.problems and not wish.skip_invalid:
        raise misfits(fitted.problems)
    for name, why in fitted.problems.items():
        warn(f"{name} is left out: {why}")
    return fitted.variables


def _remark(wish: BootWish, bundle: Bundle) -> None:
    if bundle.filtered:
        note(f"this token sees only some of the secrets of {wish.app}")
    seen_ms = bundle.freshness.leader_seen_ms_ago
    if seen_ms is not None and seen_ms > _UNHEARD_MS:
        say = warn if seen_ms > _STALE_MS else note
        say(
            f"version {bundle.version} is from {bundle.freshness.node}, which last heard from the "
            f"leader {seen_ms // 1000:,} s ago"
        )
