"""`petsem token discharge`: what a token asks for before it opens anything.

Guarantees: the result is the same token with new discharges beside it, not bound to it yet, as a
token is kept; it goes to stdout alone, or into a new file of mode 0600. A sign-in keeps the one of
its own person only. Discharges that other services gave stay as they are, and what only other
services can give is named.
"""

from __future__ import annotations

from pathlib import Path

import click

from petsem import base64url
from petsem.cli.addresses import Nodes
from petsem.cli.browsers import local_browser
from petsem.cli.credentials import Held, held_token, token_in_file
from petsem.cli.logins import Login, Logins
from petsem.cli.options import pass_run, remote
from petsem.cli.output import note, show
from petsem.cli.renewal import discharged, renew
from petsem.cli.run import Run
from petsem.cli.tokens_offline import token_file_option
from petsem.cli.usage import Command
from petsem.clock import rfc3339
from petsem.errors import conflict, invalid
from petsem.model import Kind
from petsem.server.files import present, write_new
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import LOCATION, Macaroon
from petsem.tokens.reasons import TokenRefused, caveat_text
from petsem.tokens.text import UnverifiedToken, encode_token, parse_token


@click.command("discharge", cls=Command)
@token_file_option
@click.option("--no-browser", is_flag=True, help="Show a page and a code, for another browser.")
@click.option("--out", metavar="FILE", help="Write it to a new file of mode 0600, not to stdout.")
@remote
@pass_run
def discharge_command(run: Run, token_file: str | None, no_browser: bool, out: str | None) -> None:
    """Get the discharges that a token asks for, signing in if that takes it, and print both."""
    if out is not None and present(Path(out)):
        raise conflict(f"{out} exists already; move it away or choose another name")
    if token_file is None:
        held = held_token(run.environ)
    else:
        held = Held(token_in_file(token_file, "--token-file"))
    token = parse_token(held.text)
    tickets = _tickets(token.root)
    if held.login is not None:
        text, until_ms = _of_login(run, held.login, no_browser=no_browser)
    else:
        text, until_ms = _of_token(run, token, tickets, no_browser=no_browser)
    until = rfc3339(until_ms)
    if out is not None:
        write_new(Path(out), f"{text}\n".encode("ascii"))
        told = {"file": out, "discharge_expires_at": until}
        show(run, told, line=f"the token with its discharges, good until {until}, is in {out}")
        return
    show(run, {"token": text, "discharge_expires_at": until}, line=text)
    if not run.is_json:
        note(f"discharged until {until}")


def _tickets(root: Macaroon) -> list[bytes]:
    """The tickets of ours that a token asks for; says which it asks others for."""
    asked = [each for each in root.caveats if each.vid is not None]
    for each in asked:
        if each.location != LOCATION:
            place = caveat_text(each.location or b"") if each.location else "another service"
            note(f"the token also asks for a discharge of {place}, which only that gives")
    tickets = [each.cid for each in asked if each.location == LOCATION]
    if not tickets:
        raise invalid("the token asks for no discharge of Petsem's; it can be used as it is")
    if _is_of_a_host(root):
        raise invalid(
            "a host's token is discharged by whoever asks for its machine, with: petsem boot allow"
        )
    return tickets


def _is_of_a_host(root: Macaroon) -> bool:
    try:
        return Identifier.parse(root.identifier).kind is Kind.HOST
    except TokenRefused:
        # Not one that we minted; the node says so.
        return False


def _of_login(run: Run, login: Login, *, no_browser: bool) -> tuple[str, int]:
    """A sign-in's token with a new discharge, which is kept with the sign-in too."""
    newer, _ = renew(run, login)
    if newer is None:
        from petsem.cli.sign_in import sign_in

        browser = None if no_browser else local_browser(run.environ)
        nodes = Nodes.of_environ(run.environ, insecure=run.insecure)
        made = sign_in(run, nodes, login.ticket, browser)
        newer = discharged(run, login, made)
        logins = Logins.of_environ(run.environ)
        with logins.locked():
            logins.save(newer)
    return newer.text, newer.until_ms


def _of_token(
    run: Run, token: UnverifiedToken, tickets: list[bytes], *, no_browser: bool
) -> tuple[str, int]:
    from petsem.cli.sign_in import sign_in

    browser = None if no_browser else local_browser(run.environ)
    nodes = Nodes.of_environ(run.environ, insecure=run.insecure)
    made = [sign_in(run, nodes, base64url.encode(ticket), browser) for ticket in tickets]
    kept = [each for each in token.discharges if each.identifier not in tickets]
    added = [parse_token(each.discharge).root for each in made]
    return encode_token(token.root, [*kept, *added]), min(each.until_ms for each in made)
