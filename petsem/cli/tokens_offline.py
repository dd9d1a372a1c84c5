"""`petsem token attenuate` and `inspect`: without a node, a key or a network.

Guarantees: attenuating only takes away; inspecting shows claims, says that they are unverified,
and prints nothing that could be used as a token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from petsem.cli.caveat_options import caveat_options, wish_of
from petsem.cli.credentials import token_in_file, token_of
from petsem.cli.options import common, pass_run
from petsem.cli.output import Table, note, show
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import invalid
from petsem.server.files import write_new
from petsem.tokens.caveats import one_of
from petsem.tokens.inspect import describe
from petsem.tokens.macaroon import attenuate
from petsem.tokens.text import encode_token, parse_token

token_file_option = click.option(
    "--token-file",
    metavar="FILE|-",
    help="The token in this file, or on stdin (default: the caller's own).",
)

_TICKET_DIGITS = 16


def subject_token(run: Run, token_file: str | None, org: str | None = None) -> str:
    """The token that a command is about, as it is kept: from a file or stdin if named, else the
    caller's own (for `org`, if it is from a sign-in)."""
    if token_file is None:
        return token_of(run.environ, org)
    return token_in_file(token_file, "--token-file")


@click.command("attenuate", cls=Command)
@caveat_options
@token_file_option
@click.option("--out", metavar="FILE", help="Write it to a new file of mode 0600, not to stdout.")
@common
@pass_run
def attenuate_command(
    run: Run,
    org: str | None,
    app: str | None,
    actions: tuple[str, ...],
    machines: tuple[str, ...],
    secrets: tuple[str, ...],
    others: tuple[str, ...],
    ttl: str | None,
    token_file: str | None,
    out: str | None,
) -> None:
    """Make a copy of a token that may do less. Offline; the node need not know."""
    wish = wish_of(org, app, actions, machines, secrets, others, ttl)
    caveats = wish.caveats(run.clock.unix_ms())
    if wish.org is not None:
        caveats.insert(0, one_of("org", wish.org))
    if not caveats:
        raise invalid("say what the copy is held to: --app, --action, --ttl or another caveat")
    token = parse_token(subject_token(run, token_file, wish.org))
    # Discharges stay as they are: they are bound to what is sent, at each call.
    made = encode_token(attenuate(token.root, caveats), token.discharges)
    if out is not None:
        write_new(Path(out), f"{made}\n".encode("ascii"))
        show(run, {"file": out, "added": caveats}, line=f"the narrower token is in {out}")
        return
    show(run, {"token": made, "added": caveats}, line=made)


@click.command("inspect", cls=Command)
@token_file_option
@common
@pass_run
def inspect_command(run: Run, token_file: str | None) -> None:
    """What a token says about itself. Offline: nothing of it is verified."""
    described = describe(subject_token(run, token_file))
    show(run, described, Table(("CLAIM", "VALUE"), _rows(described)))
    if not run.is_json:
        note("unverified: no signature was checked; ask a node with: petsem token verify")


def _rows(described: dict[str, Any]) -> list[tuple[str, str | None]]:
    rows: list[tuple[str, str | None]] = []
    for key, value in described.items():
        if isinstance(value, dict):
            rows += [(name, str(each)) for name, each in value.items()]
        elif key == "caveats":
            rows += [_caveat_row(each) for each in value]
        elif key == "discharges":
            for each in value:
                rows.append(("discharge", _with_problem(_ticket(each, each["location"]), each)))
                rows += [(f"  {name}", text) for name, text in map(_caveat_row, each["caveats"])]
        elif isinstance(value, list):
            rows += [(key.removesuffix("s"), str(each)) for each in value]
        elif key != "note":
            rows.append((key, None if value is None else str(value)))
    return rows


def _caveat_row(caveat: dict[str, Any]) -> tuple[str, str]:
    if "third_party" not in caveat:
        return "caveat", _with_problem(caveat["caveat"], caveat)
    has = "its discharge is here" if caveat["discharged"] else "its discharge is missing"
    return "third party", f"{_ticket(caveat, caveat['third_party'] or '-')}; {has}"


def _ticket(of: dict[str, Any], location: str) -> str:
    """Where a discharge is from or to be had, and the beginning of what it is for."""
    ticket: str = of["ticket"]
    return f"{location}, ticket {ticket[:_TICKET_DIGITS]}{'…' * (len(ticket) > _TICKET_DIGITS)}"


def _with_problem(text: str, of: dict[str, Any]) -> str:
    return f"{text} ({of['problem']})" if "problem" in of else text
